#!/usr/bin/env python3
"""DSEE on a GLUE task, stage I: train an update of low rank, with a few single entries beside it, on a model
whose weights stay as they are.

With --apply_lora the query and value matrices (--dsee_targets) compute W x + s B(A x), s = alpha / r; with
--apply_sparse also s S2 x, S2 of --num_sparse entries a matrix at places that --sparse_method finds. They and
the task head learn. In --output_dir: task.dsee.safetensors, a few MB at most, which is read back onto the
base before it is scored; checkpoints, as small, from the last of which the same command goes on when it is
started again; and records (results.json, dev/results.json) with the account: numbers that learn, non-zeros,
FLOPs, bytes, time. Without --apply_lora all weights learn, as in scripts/glue/run_glue.py. With --do_eval and
--dsee_checkpoint alone a file is scored. Next: run_glue_prune.py or run_glue_prune_heads.py; all three stages
in one command: run_dsee.py.

  torchrun --nproc_per_node=4 scripts/dsee/run_glue.py --model_name_or_path bert-base-uncased \\
    --task_name sst2 --data_dir data/SST-2 --do_train --do_eval --num_train_epochs 3 \\
    --per_device_train_batch_size 8 --apply_lora --lora_r 16 --apply_sparse --num_sparse 64 \\
    --learning_rate 2e-4 --output_dir out/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.dsee.update import run_update

    return run_update(__doc__, GlueArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "dsee_update")


if __name__ == "__main__":
    main()
