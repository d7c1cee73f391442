#!/usr/bin/env python3
"""Finetune a model on SQuAD v1.1, with all its heads or with those that pruning has left.

Reads train-v1.1.json and dev-v1.1.json in --data_dir, or --train_file and --predict_file. --do_eval scores
the answers (exact match and F1) and writes predictions.json and nbest_predictions.json.
Started again, the same command goes on from the last checkpoint in --output_dir. All of Transformers'
TrainingArguments are options, and older programs' flags (--per_gpu_train_batch_size, --evaluation_strategy
...) are understood. Records: results.json in --output_dir, and one in a folder for each scored set
(`dsp report` reads them). --tune_epochs N then trains the model on, in output_dir/tuned, as run_dsp.py and
run_voita.py do after heads were removed: a baseline tuned alike.

  python scripts/squad/run_squad.py --model_name_or_path MODEL --data_dir data/squad \\
    --max_seq_length 384 --doc_stride 128 \\
    --do_train --do_eval --per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 3 \\
    --output_dir output/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import SquadArguments
    from dsp_plugin.hf.programs.chassis.finetuning import finetune

    return finetune(__doc__, SquadArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "squad", "finetuning")


if __name__ == "__main__":
    main()
