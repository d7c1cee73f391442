#!/usr/bin/env python3
"""Train a translation model whose attention heads close under an L0 penalty (Voita et al., 2019).

Takes fairseq-train's options and Voita's own:

  exactly K heads    --num-of-heads K           (those with the largest log_a; the rest is worked out from
                                                --max-update or --max-epoch, and told at the start)
  by lambda, joint   --l0-penalty LAMBDA        (the default where nothing to start from is given)
  pipelined          --l0-penalty LAMBDA --restore-file trained.pt --reset-optimizer
                                                             (weights frozen, only the gates are learned)
  from a trained model, weights and gates   the same with --joint-pruning
  both               --num-of-heads K --l0-penalty LAMBDA
  a constraint       --num-of-heads K --closing lagrangian   (CoFi: the price rises until K heads are open)
  PASS, PASSCONC     --num-of-heads K --closing pass [--concentrate]

`--arch transformer_iwslt_de_en` and other stock names are taken as the plugin's gated ones. Started
again, the same command goes on from its own last checkpoint. At the end: how many heads LAMBDA has
left open, which, and results.json in --save-dir.

With --tune-updates N the same command then takes the dead heads out and trains the smaller model on for N
updates, in --save-dir/tuned.

  python scripts/mt/run_voita.py data-bin/ --arch transformer_iwslt_de_en ... --l0-penalty 200
"""

import os
import sys


def main() -> None:
    # imported here and not above: see run_dsp.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import training_program

    training_program(__doc__, "voita", sys.argv[1:])


if __name__ == "__main__":
    main()
