#!/usr/bin/env python3
"""Finetune a trained translation model by DSEE: train an update of low rank plus a few entries on a frozen
base, prune the base under it, and train the update on.

Takes fairseq-train's options for both trainings, and

  --base-checkpoint FILE    the trained model that is updated (--finetune-from-model FILE is the same): any
                            transformer of fairseq's or of this plugin's, head-pruned ones too; DATA must be
                            binarised with its dictionaries
  --lora-r R --lora-alpha A       rank of the update, and its scale A / R (default 16 and 32)
  --num-sparse N            single entries in each matrix beside it (default 64; 0: LoRA alone)
  --sparse-method M         where they are: grebsmo, omp or rp (default grebsmo)
  --dsee-targets ROLES      of query, key, value, output, joined by commas (default query,value), in self and
                            cross-attention
  --prune-heads-num N       heads that go from every attention block
  --prune-neurons SHARE --neurons G     groups of G neurons that go from every feed-forward layer (G: 32)
  --pruning-ratio SHARE     single weights without an update that are set to 0, by magnitude
  --ad-pruning-ratio SHARE  single weights with one, by --prune-mode
  --prune-mode MODE         ABS, WABS (default), AB, WAB, W, NAB, NABS, random; heads go by ABS or WABS
  --third-lr, --third-max-update, --third-max-epoch     of the third stage (default: as in the first)
  --record-name NAME        of the setting in the records (default: the name of --save-dir)
  --dry-run                 say what would train, for how long and how many bytes; write nothing

In --save-dir: 1st/, 2nd/ and 3rd/, each with its record and task.dsee.safetensors, which with the base is the
model. Sizes are the base's, --arch is not needed; --optimizer is adam; the learning rate falls to 0 over
--max-update unless --lr-scheduler says otherwise. Started again, the command goes on where it stood.

  python scripts/mt/run_dsee.py data-bin/domain --base-checkpoint base.pt --lora-r 16 --num-sparse 64 \\
    --prune-heads-num 1 --prune-neurons 0.25 --lr 1e-3 --max-update 1000 \\
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 4096 --save-dir runs/domain
"""

import os
import sys


def main() -> None:
    # imported here and not above: a worker process that fairseq spawns imports this file again, and must
    # find the plugin not yet imported for --user-dir to register it
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import dsee_program

    dsee_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
