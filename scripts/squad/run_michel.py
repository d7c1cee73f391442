#!/usr/bin/env python3
"""Remove the least important heads of a model finetuned on SQuAD v1.1, step by step (Michel, Levy and Neubig,
2019).

  --num_of_heads STEP  heads to remove a step: a step here, not a budget as in the other programs
  --budgets K ...      numbers of heads to land on exactly; the sweep stops at the smallest (default: 0)
  --exact_pruning      work the importance out anew before every step
  --rank_by            importance, or the baselines magnitude and random
  --data_subset N      importance on N training examples, not on all

Scores the questions of --predict_file at every step, saves every step at once in --output_dir and goes on
from there when it is started again. mask-K<k>.json has the mask of a budget, pruned-K<k>/ the smaller model,
which these programs and `dsp_plugin.hf.load_pruned` take. No training; --model_name_or_path is a model of
run_squad.py.

  python scripts/squad/run_michel.py --model_name_or_path output/ --data_dir data/squad \\
    --output_dir michel_output/ \\
    --num_of_heads 6 --exact_pruning --budgets 36 18
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import SquadArguments
    from dsp_plugin.hf.programs.heads.michel import michel

    return michel(__doc__, SquadArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "squad", "michel")


if __name__ == "__main__":
    main()
