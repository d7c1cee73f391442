#!/usr/bin/env python3
"""Remove the least important heads of a trained translation model step by step (Michel, Levy and Neubig
2019).

  --num-of-heads STEP  heads to remove a step: a step here, not a budget as in the other programs
  --budgets K ...      numbers of heads to land on exactly; the sweep stops at the smallest (default: 0)
  --exact-pruning      work the importance out anew before every step
  --rank-by            importance, or the baselines magnitude and random

Scores the validation set at every step (--eval-subset), saves every step at once in --save-dir and goes on
from there when it is started again. `dsp prune CHECKPOINT --mask mask-K<k>.json --out FILE` makes the smaller
model. Takes fairseq's options of training and generation; says which of them have no meaning here.

  python scripts/mt/run_michel.py data-bin -s de -t en -a transformer_iwslt_de_en \\
    --restore-file checkpoints/checkpoint_last.pt \\
    --batch-size 32 --beam 5 --remove-bpe --num-of-heads 4 --exact-pruning --budgets 36 18
"""

import os
import sys


def main() -> None:
    if len(sys.argv) == 1:
        sys.exit(
            __doc__ + "\nGive the prepared data folder, --restore-file and --num-of-heads; --help lists "
            "all options."
        )
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.chassis.argv import asks_for_help
    from dsp_plugin.mt.programs.chassis.refusals import run_program
    from dsp_plugin.mt.programs.heads.michel import own_options, run

    if asks_for_help(sys.argv):
        print(__doc__ + "\n" + own_options().format_help() + "\nfairseq's options:")
    run_program(run, sys.argv[1:])


if __name__ == "__main__":
    main()
