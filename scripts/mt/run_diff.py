#!/usr/bin/env python3
"""Finetune a trained translation model by a sparse diff (diff pruning): learn it, cut it down, finetune what
is kept.

Takes fairseq-train's options for both trainings, and

  --base-checkpoint FILE    the trained model that the diff is against: any transformer of fairseq's or of
                            this plugin's, head-pruned ones too; DATA must be binarised with its dictionaries
  --target-sparsity T ...   shares of the weights that may differ from it (default 0.005); one first stage
                            serves all
  --finetune-lr, --finetune-max-update, --finetune-max-epoch     of the third stage (default: as in the first)
  --per-layer-projection, --sampled-diff, --value-dtype          see docs/diff-pruning.md
  --dry-run                 say what would train, for how long and how many bytes; write nothing
  --sparsity-pen L --alpha-init A --per-params-alpha 0 ...       options of --optimizer diff_adam

In --save-dir: 1st/ and T/3rd/ with the checkpoints and records of the trainings, T/mask.diff.safetensors, and
T/task.diff.safetensors, the pack. Sizes are the base's, --arch is not needed; the learning rate decays to 0
over --max-update unless --lr-scheduler says otherwise; --clip-norm is 1. Started again, the command goes on
where it stood.

  python scripts/mt/run_diff.py data-bin/domain --base-checkpoint base.pt --target-sparsity 0.005 \\
    --lr 1e-3 --max-update 1000 \\
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 4096 --save-dir runs/domain
"""

import os
import sys


def main() -> None:
    # imported here and not above: a worker process that fairseq spawns imports this file again, and must
    # find the plugin not yet imported for --user-dir to register it
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import diff_program

    diff_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
