#!/usr/bin/env python3
"""Diff pruning on a GLUE task, stage 3 of 3: finetune the weights that the projection kept, and write the
task as a pack.

--mask_checkpoint is the pack of stage 2. At the end, in --output_dir: task.diff.safetensors
(`dsp diff inspect`, `merge` ...), which --do_eval and --do_predict use as it is reloaded. Without --do_train
the pack of --mask_checkpoint is scored. Reads the official TSV files in --data_dir, or fetches the task by
the `datasets` library. Started again, the same command goes on from the last checkpoint in --output_dir. All
of Transformers' TrainingArguments are options, and older programs' flags (--per_gpu_train_batch_size,
--evaluate_during_training ...) are understood. The three programs take the same flags.

  python scripts/glue/run_glue_fixmask_finetune.py --model_name_or_path MODEL --task_name CoLA \\
    --data_dir data/CoLA --do_train --do_eval \\
    --mask_checkpoint out/mag0.5p.pt --per_device_train_batch_size 8 --learning_rate 5e-5 \\
    --num_train_epochs 3 --output_dir out/3rd
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.diffs.fixmask import run_fixmask

    return run_fixmask(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    needs = "--model_name_or_path, --mask_checkpoint and --output_dir"
    return start_program(program, __doc__, argv, "glue", "diff", needs)


if __name__ == "__main__":
    main()
