#!/usr/bin/env python3
"""Diff pruning on a GLUE task, stage 2 of 3: keep exactly a share of the weights' changes, the largest.
Trains nothing.

--eval_checkpoint is what stage 1 wrote, or the folder of a finetuned model (the non-adaptive baseline). The
pack goes to --save_checkpoint, a safetensors file whatever its name; --do_eval scores it as it is reloaded,
--do_predict predicts. Reads the official TSV files in --data_dir, or fetches the task by the `datasets`
library. One stage 1 serves all --target_sparsity. The three programs take the same flags.

  python scripts/glue/run_glue_mag.py --model_name_or_path MODEL --task_name CoLA --data_dir data/CoLA \\
    --do_eval \\
    --eval_checkpoint out/checkpoint-last-info.pt --save_checkpoint out/mag0.5p.pt \\
    --target_sparsity 0.005 --output_dir out/2nd
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.diffs.project import run_project

    return run_project(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    needs = "--model_name_or_path, --eval_checkpoint and --output_dir"
    return start_program(program, __doc__, argv, "glue", "diff", needs)


if __name__ == "__main__":
    main()
