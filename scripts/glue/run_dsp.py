#!/usr/bin/env python3
"""Finetune a model on a GLUE task so that exactly K of its attention heads stay (differentiable subset
pruning).

  joint              --num_of_heads K --joint_pruning
  pipelined          --num_of_heads K --model_name_or_path output/
                     (a finetuned model: its weights stay, only the choice is learned)
  exact samples      --num_of_heads K --joint_pruning --sampler simple
                     (SIMPLE: masks of exactly K heads instead of relaxed ones)

Rate, temperatures and open phase are worked out from the length of the training, and told when it begins.
Any of them given is a schedule by hand; --pruning_schedule published gives the paper's:

  joint, annealed    --num_of_heads K --joint_pruning --annealing --initial_temperature 1000
                     --final_temperature 1e-8 --cooldown_steps 25000 --pruning_lr 0.5
  straight-through   --num_of_heads K --joint_pruning --use_ste
  pipelined          --num_of_heads K --annealing --cooldown_steps 8333 --num_train_epochs 1
                     --model_name_or_path output/

Reads the official TSV files in --data_dir, or fetches the task by the `datasets` library. --do_eval scores
every development set (MNLI's two apart), --do_predict writes prediction files for the test sets as the
leaderboard takes them. Validation and --do_eval use the hard mask of exactly K heads. At the end: the kept
heads, mask.json (with the scores), and in output_dir/pruned the smaller model, which these programs and
`dsp_plugin.hf.load_pruned` take. --tune_epochs N then trains the smaller model on, in output_dir/tuned, and
scores both. Without --do_train a model trained by this program is scored again, with any K, and its smaller
model written. Started again, the same command goes on from the last checkpoint in --output_dir. All of
Transformers' TrainingArguments are options, and older programs' flags (--per_gpu_train_batch_size,
--evaluation_strategy ...) are understood.

  python scripts/glue/run_dsp.py --model_name_or_path MODEL --task_name CoLA --data_dir data/CoLA \\
    --do_train --do_eval --per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 3 \\
    --output_dir cola-K72/ --num_of_heads 72 --joint_pruning
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
    from dsp_plugin.hf.programs.heads.gated import train_heads
    from dsp_plugin.hf.programs.heads.methods import DSPArguments

    return train_heads(__doc__, GlueArguments, DSPArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "glue", "dsp")


if __name__ == "__main__":
    main()
