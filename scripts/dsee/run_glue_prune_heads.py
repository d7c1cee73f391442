#!/usr/bin/env python3
"""DSEE on a GLUE task, stages II and III: take heads and neurons out of the base under an update that
run_glue.py has trained, then train the update and the task head on.

The --prune_heads_num (default 3) heads of each layer whose rows of query and value have learnt least go, and
the share --prune_neurons of each feed-forward layer's groups of --neuron_group neurons. The model is smaller
and faster by that. --pruning_ratio and --ad_pruning_ratio set single weights to 0 as well, as
run_glue_prune.py does. In --output_dir: 2nd/ with what is
pruned, 3rd/ with what was trained on, each with task.dsee.safetensors, which is read back onto the base
before it is scored, and records with the account: numbers that learn, non-zeros, FLOPs, bytes, time. Started
again, the same command goes on. Without --do_train it prunes, writes and scores, in --output_dir itself.

  python scripts/dsee/run_glue_prune_heads.py --model_name_or_path bert-base-uncased --dsee_checkpoint out/ \\
    --task_name rte --data_dir data/RTE --do_train --do_eval --num_train_epochs 8 --learning_rate 6e-4 \\
    --prune_heads_num 3 --prune_neurons 0.4 --output_dir out-heads/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.dsee.all_stages import run_prune

    return run_prune(__doc__, GlueArguments, argv, heads=3)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "dsee_prune")


if __name__ == "__main__":
    main()
