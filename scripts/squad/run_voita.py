#!/usr/bin/env python3
"""Finetune a model on SQuAD v1.1 whose attention heads close under an L0 penalty (Voita et al., 2019).

  joint              --num_of_heads K --joint_pruning
  pipelined          --num_of_heads K --model_name_or_path output/
                     (a finetuned model: its weights stay, only the gates are learned)
  by LAMBDA alone    --l0_penalty LAMBDA --joint_pruning --pruning_lr 0.1
  a constraint       --num_of_heads K --joint_pruning --closing lagrangian
                     (CoFi: the price rises until K heads are open)
  PASS, PASSCONC     --num_of_heads K --joint_pruning --closing pass [--concentrate]

Exactly K heads stay, those with the largest log_a; without K as many as the penalty leaves. Rate, penalty and
open phase are worked out from the length of the training, and told when it begins. Any of them given is a
schedule by hand; --pruning_schedule published gives the paper's.

Reads train-v1.1.json and dev-v1.1.json in --data_dir, or --train_file and --predict_file. --do_eval scores
the answers (exact match and F1) and writes predictions.json and nbest_predictions.json.
At the end: how many heads LAMBDA has left open, which, mask.json, and in output_dir/pruned the smaller model.
--tune_epochs N then trains that on, in output_dir/tuned, and scores both.
Started again, the same command goes on from the last checkpoint in --output_dir. All of Transformers'
TrainingArguments are options, and older programs' flags (--per_gpu_train_batch_size, --evaluation_strategy
...) are understood.

  python scripts/squad/run_voita.py --model_name_or_path MODEL --data_dir data/squad \\
    --max_seq_length 384 --doc_stride 128 \\
    --do_train --do_eval --per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 3 \\
    --output_dir voita_output/ \\
    --l0_penalty 0.0015 --joint_pruning --pruning_lr 0.1
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import SquadArguments
    from dsp_plugin.hf.programs.heads.gated import train_heads
    from dsp_plugin.hf.programs.heads.methods import VoitaArguments

    return train_heads(__doc__, SquadArguments, VoitaArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "squad", "voita")


if __name__ == "__main__":
    main()
