#!/usr/bin/env python3
"""Finetune a trained translation model by Delta-Tuning: its biases (BitFit), bottleneck adapters or LoRA on a
frozen base, alone, together, or one after another.

Takes fairseq-train's options for every stage, and

  --base-checkpoint FILE    the trained model that is tuned (--finetune-from-model FILE is the same): any
                            transformer of fairseq's or of this plugin's, head-pruned ones too; DATA must be
                            binarised with its dictionaries
  --delta-methods M ...     of bias, adapter, lora: `bias,adapter` trains both together, `bias adapter` one
                            after the other, the first staying active and frozen
  --adapter KIND            houlsby (default): an adapter after every sub-layer; pfeiffer: after the
                            feed-forward one alone
  --adapter-reduction N     the model's width over an adapter's (default 16)
  --lora-r R --lora-alpha A       rank of LoRA, and its scale A / R (default 16 and 32)
  --lora-targets ROLES      of query, key, value, output, joined by commas (default query,value), in self and
                            cross-attention
  --stage-lr, --stage-max-update  of each stage, as many numbers (default: --lr and --max-update for all)
  --record-name NAME        of the setting in the records (default: the name of --save-dir)
  --dry-run                 say what would train, for how long and how many bytes; write nothing

In --save-dir: 1st/, 2nd/, 3rd/, a folder a stage with its record and file, and task.delta.safetensors, which
with the base is the model. Sizes are the base's, --arch is not needed; --optimizer is adam; the learning rate
falls to 0 over --max-update unless --lr-scheduler says otherwise. Started again, the command goes on where it
stood.

  python scripts/mt/run_delta.py data-bin/domain --base-checkpoint base.pt --delta-methods bias,adapter \\
    --adapter-reduction 16 --lr 1e-3 --max-update 1000 --criterion label_smoothed_cross_entropy \\
    --label-smoothing 0.1 --max-tokens 4096 --save-dir runs/domain
"""

import os
import sys


def main() -> None:
    # imported here and not above: a worker process that fairseq spawns imports this file again, and must
    # find the plugin not yet imported for --user-dir to register it
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import delta_program

    delta_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
