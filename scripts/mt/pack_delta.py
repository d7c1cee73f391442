#!/usr/bin/env python3
"""Write the delta file of a training by --task delta_translation.

  fairseq-train DATA --user-dir dsp_plugin --task delta_translation --arch delta_transformer \\
    --finetune-from-model base.pt --delta-methods adapter ... --save-dir runs/1st
  python scripts/mt/pack_delta.py runs/1st/checkpoint_best.pt --base-checkpoint base.pt \\
    --out runs/task.delta.safetensors
  fairseq-train ... --delta runs/task.delta.safetensors --delta-methods bias --save-dir runs/2nd

  --base-checkpoint FILE    the trained model that was tuned
  --out FILE                what to write
"""

import os
import sys


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.delta.pack import pack_delta_program

    pack_delta_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
