#!/usr/bin/env python3
"""Write the DSEE file of a training by --task dsee_translation (stage I or III), or prune a file further
(stage II).

  python scripts/mt/pack_dsee.py runs/1st/checkpoint_best.pt --base-checkpoint base.pt \\
    --prune-heads-num 1 --out runs/pruned.dsee.safetensors
  fairseq-train DATA --user-dir dsp_plugin --task dsee_translation --arch dsee_transformer \\
    --base-checkpoint base.pt --dsee-checkpoint runs/pruned.dsee.safetensors ... --save-dir runs/3rd
  python scripts/mt/pack_dsee.py runs/3rd/checkpoint_best.pt --base-checkpoint base.pt \\
    --out runs/task.dsee.safetensors

The first argument is a checkpoint, a file (.safetensors), or the folder of a stage of run_dsee.py.

  --base-checkpoint FILE    the trained model that it is an update of
  --out FILE                what to write
  --prune-heads-num N, --prune-neurons SHARE --neurons G, --pruning-ratio SHARE, --ad-pruning-ratio SHARE,
  --prune-mode MODE         what goes of the base, see run_dsee.py; without them nothing does
  --seed N                  of --prune-mode random (default 1)
"""

import os
import sys


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.dsee.pack import pack_dsee_program

    pack_dsee_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
