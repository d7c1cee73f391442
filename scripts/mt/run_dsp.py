#!/usr/bin/env python3
"""Train a translation model that keeps exactly K attention heads (differentiable subset pruning).

Takes fairseq-train's options and DSP's own:

  joint              --num-of-heads K --joint-pruning
  pipelined          --num-of-heads K --finetune-from-model trained.pt
                     (weights frozen, only the choice is learned)
  straight-through   --num-of-heads K --joint-pruning --use-ste --pruning-schedule auto
  exact samples      --num-of-heads K --joint-pruning --sampler simple
                     (SIMPLE: masks of exactly K heads instead of relaxed ones)

The schedule (rate, temperatures, cool-down ...) is worked out from --max-update or --max-epoch where none of
its options is given, and told at the start. As published:

  joint, annealed    --num-of-heads K --joint-pruning --annealing --initial-temperature 0.1
                     --final-temperature 1e-8 --cooldown-steps 15000 --pruning-lr 0.2
  straight-through   --num-of-heads K --joint-pruning --use-ste
  pipelined          --num-of-heads K --annealing --cooldown-steps 250
                     --restore-file trained.pt --reset-optimizer

`--arch transformer_iwslt_de_en` and other stock names are taken as the plugin's gated ones. Started
again, the same command goes on from its own last checkpoint. At the end: the kept heads, and
results.json in --save-dir.

With --tune-updates N the same command then takes the dead heads out and trains the smaller model on for N
updates, in --save-dir/tuned.

  python scripts/mt/run_dsp.py data-bin/ --arch transformer_iwslt_de_en ... --num-of-heads 4 \\
    --joint-pruning --annealing
"""

import os
import sys


def main() -> None:
    # imported here and not above: a worker process that fairseq spawns imports this file again, and must
    # find the plugin not yet imported for --user-dir to register it
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import training_program

    training_program(__doc__, "dsp", sys.argv[1:])


if __name__ == "__main__":
    main()
