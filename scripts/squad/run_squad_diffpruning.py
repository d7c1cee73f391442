#!/usr/bin/env python3
"""Diff pruning on SQuAD v1.1, stage 1 of 3: learn which weights of a base differ for the task, and by how
much.

Reads train-v1.1.json and dev-v1.1.json in --data_dir, or --train_file and --predict_file.
At the end, in --output_dir: checkpoint-last-info.pt (a safetensors file), from which run_squad_mag.py makes
the sparse diff. --do_eval scores the model before the projection.
Started again, the same command goes on from the last checkpoint in --output_dir. All of Transformers'
TrainingArguments are options, and older programs' flags (--per_gpu_train_batch_size,
--evaluate_during_training ...) are understood. The three programs take the same flags.

  python scripts/squad/run_squad_diffpruning.py --model_name_or_path MODEL --data_dir data/squad \\
    --do_train --do_eval \\
    --per_device_train_batch_size 8 --learning_rate 1e-5 --num_train_epochs 3 --sparsity_pen 1.25e-7 \\
    --output_dir out/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import SquadArguments
    from dsp_plugin.hf.programs.diffs.prune import run_prune

    return run_prune(__doc__, SquadArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "squad", "diff")


if __name__ == "__main__":
    main()
