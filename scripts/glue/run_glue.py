#!/usr/bin/env python3
"""Finetune a model on a GLUE task, with all its heads or with those that pruning has left.

Reads the official TSV files in --data_dir, or fetches the task by the `datasets` library. --do_eval scores
every development set (MNLI's two apart), --do_predict writes prediction files for the test sets as the
leaderboard takes them. Started again, the same command goes on from the last checkpoint in --output_dir. All
of Transformers' TrainingArguments are options, and older programs' flags (--per_gpu_train_batch_size,
--evaluation_strategy ...) are understood. Records: results.json in --output_dir, and one in a folder for each
scored set (`dsp report` reads them). --tune_epochs N then trains the model on, in output_dir/tuned, as
run_dsp.py and run_voita.py do after heads were removed: a baseline tuned alike.

  python scripts/glue/run_glue.py --model_name_or_path MODEL --task_name MRPC --data_dir data/MRPC \\
    --max_seq_length 128 \\
    --do_train --do_eval --per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 3 \\
    --output_dir output/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.chassis.finetuning import finetune

    return finetune(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "finetuning")


if __name__ == "__main__":
    main()
