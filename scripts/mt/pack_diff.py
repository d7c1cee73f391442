#!/usr/bin/env python3
"""Write a diff pack of a training by --task diff_translation: the second stage of diff pruning, and the end
of the third.

  python scripts/mt/pack_diff.py runs/1st/checkpoint_last.pt --base-checkpoint base.pt \\
    --target-sparsity 0.005 --out mask.diff.safetensors
  python scripts/mt/pack_diff.py runs/3rd/checkpoint_best.pt --base-checkpoint base.pt \\
    --out task.diff.safetensors

A checkpoint of --optimizer diff_adam (stage 1) is cut down to its largest changes, as is one of all weights
finetuned (the non-adaptive baseline, --fix-layer N without the embeddings and the N lowest layers); one of
--optimizer fixmask_adam (stage 3) is packed as it is.
"""

import os
import sys


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import pack_program

    pack_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
