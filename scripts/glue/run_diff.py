#!/usr/bin/env python3
"""Diff pruning on a GLUE task, all three stages: learn a diff, keep its largest changes, finetune those; a
pack for each density.

--target_sparsity takes several densities (default 0.005); one stage 1 serves them all. Where the command line
does not say otherwise, the paper's hyperparameters: batch 8; stage 1: learning rate 1e-5, 3 epochs; stage 3:
--finetune_learning_rate 5e-5, --finetune_num_train_epochs 3 (5 for MRPC, STS-B, RTE, SST-2). All other
options are those of the single stages' programs (run_glue_diffpruning.py, run_glue_mag.py,
run_glue_fixmask_finetune.py) and go to all stages; what --help says of defaults below is theirs, where it
differs from the above. Not those of a single stage: --baseline, --threshold, --method and the files, which
this program names. In --output_dir: stage 1; in its folder DENSITY: task.diff.safetensors, the results of
stage 2 in 2nd, of stage 3 in 3rd. --record_dir has the same folders.
Started again, the same command goes on where it was stopped.

  python scripts/glue/run_diff.py --model_name_or_path MODEL --task_name CoLA --data_dir data/CoLA \\
    --do_train --do_eval --target_sparsity 0.005 0.001 --output_dir out/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.diffs.all_stages import run_all

    return run_all(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "diff")


if __name__ == "__main__":
    main()
