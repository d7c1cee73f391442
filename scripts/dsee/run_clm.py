#!/usr/bin/env python3
"""Finetune a causal language model (GPT-2 and its like) on text, or train a new one from scratch.

Reads --train_file and --validation_file, or train and dev in --data_dir: JSONL of {"source": "...", "target":
"..."}, where target may be a list of references and several lines of one source are references of it; or
plain text, one text a line or `source => target`. The model reads "source => target" and learns the target
(--loss_on_source: all). --do_eval scores loss and perplexity, each token counting the same; with --generate
it also writes a text for each source to generated.txt, greedily or by --num_beams, and scores it by sacreBLEU
against all references. --do_predict writes generated_test.txt for the sources of the test file.
Started again, the same command goes on from the last checkpoint in --output_dir. All of Transformers'
TrainingArguments are options. Records: results.json in --output_dir, and one in dev/ (`dsp report` reads
them). --tune_epochs N then trains the model on, in output_dir/tuned.

--apply_lora trains DSEE's update instead of all weights (stage I, as run_glue.py); with --prune_heads_num,
--prune_neurons, --pruning_ratio or --ad_pruning_ratio stages II and III follow, each in its folder (as
run_dsee.py), or begin with --dsee_checkpoint (as run_glue_prune.py).

A pretrained model, as GPT-2 on E2E:

  python scripts/dsee/run_clm.py --model_name_or_path gpt2 --data_dir data/e2e --do_train --do_eval \\
    --generate --per_device_train_batch_size 8 --learning_rate 2e-4 --num_train_epochs 5 \\
    --label_smoothing_factor 0.1 --output_dir e2e/

A new model with a tokenizer of its own, which needs no hub (data: data-prep/parallel_to_jsonl.py):

  python scripts/dsee/run_clm.py --config_name gpt2 --train_tokenizer 6000 \\
    --config_overrides n_layer=4,n_head=4,n_embd=256,n_positions=128 --data_dir data/multi30k-jsonl \\
    --max_seq_length 128 --do_train --do_eval --generate --per_device_train_batch_size 32 \\
    --learning_rate 1e-3 --num_train_epochs 10 --output_dir m30k-gpt2/
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.chassis.arguments import ClmArguments
    from dsp_plugin.hf.programs.dsee.all_stages import run_any

    return run_any(__doc__, ClmArguments, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    needs = "--output_dir, and --model_name_or_path or --config_name"
    return start_program(program, __doc__, argv, "clm", "dsee_any", needs)


if __name__ == "__main__":
    main()
