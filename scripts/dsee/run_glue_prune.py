#!/usr/bin/env python3
"""DSEE on a GLUE task, stages II and III: set single weights of the base to 0 under an update that
run_glue.py has trained, then train the update and the task head on.

Two global groups are ranked: weights without an update (key, dense, pooler) by magnitude, --pruning_ratio of
them go; weights with one (query and value) by --prune_mode, --ad_pruning_ratio of them go. All at once, or
over the first --gradual_updates of stage III. What is pruned stays exactly 0. --prune_heads_num and
--prune_neurons take heads and neurons out before, as run_glue_prune_heads.py does.
In --output_dir: 2nd/ with what is pruned, 3rd/ with what was trained on, each with task.dsee.safetensors,
which is read back onto the base before it is scored, and records with the account: numbers that learn,
non-zeros, FLOPs, bytes, time. Started again, the same command goes on. Without --do_train it prunes, writes
and scores, in --output_dir itself.

  python scripts/dsee/run_glue_prune.py --model_name_or_path bert-base-uncased --dsee_checkpoint out/ \\
    --task_name rte --data_dir data/RTE --do_train --do_eval --num_train_epochs 3 --learning_rate 5e-4 \\
    --pruning_ratio 0.2 --ad_pruning_ratio 0.2 --prune_mode ABS --output_dir out-pruned/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.dsee.all_stages import run_prune

    return run_prune(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "dsee_prune")


if __name__ == "__main__":
    main()
