#!/usr/bin/env python3
"""DSEE on a GLUE task, all three stages: train an update (as run_glue.py), prune the base under it (as
run_glue_prune.py and run_glue_prune_heads.py), train on.

--apply_lora and what is to be pruned (--prune_heads_num, --prune_neurons, --pruning_ratio,
--ad_pruning_ratio) must be given. All stages train as the command line says, stage III by
--third_learning_rate, --third_num_train_epochs or --third_max_steps where they are given. In --output_dir:
1st/, 2nd/ and 3rd/, each with task.dsee.safetensors and its records; --record_dir has the same folders.
Started again, the same command goes on where it was stopped.

  python scripts/dsee/run_dsee.py --model_name_or_path bert-base-uncased --task_name rte \\
    --data_dir data/RTE --do_train --do_eval --apply_lora --lora_r 16 --apply_sparse --num_sparse 64 \\
    --learning_rate 5e-4 --num_train_epochs 3 --prune_heads_num 3 --prune_neurons 0.4 --prune_mode ABS \\
    --third_learning_rate 6e-4 --third_num_train_epochs 8 --output_dir out/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.dsee.all_stages import run_all

    return run_all(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "dsee")


if __name__ == "__main__":
    main()
