#!/usr/bin/env python3
"""Tie a masked-LM head to an encoder that has none, and pretrain it on training sentences, for a short time.

Prompting needs a model that fills masks. The head of --model_name_or_path is new where the folder has none;
its words are the embeddings. Learnt from are the train.tsv of the GLUE folders in --glue_dir and the lines of
--text_files, by default those of DSP_DATA_DIR with Multi30k's English training side: never a sentence that a
development or test set there has, too. A part of the sentences is held out; the share of masked words told
right is scored on them before and after, and both stand in the record results.json. The learning rate rises
with --warmup_steps (a share below 1 is one of the time) and falls to 0 as --max_minutes, or the updates,
end. Started again, the same command goes on from its last checkpoint.

  DSP_DATA_DIR=data python scripts/delta/pretrain_mlm.py --model_name_or_path minilm/ --output_dir runs/mlm \\
    --max_minutes 25 --learning_rate 3e-4 --warmup_steps 0.05 --per_device_train_batch_size 32 \\
    --train_sampling_strategy group_by_length --num_train_epochs 20 --save_steps 200 --save_total_limit 1
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.delta.pretrain_mlm import pretrain

    return pretrain(__doc__, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "mlm", "masked_lm")


if __name__ == "__main__":
    main()
