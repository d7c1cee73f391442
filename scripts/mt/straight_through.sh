#!/usr/bin/env bash
# DSP's straight-through variant: hard top-K from the end of the warm-up, from raw text to BLEU and a smaller checkpoint.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/straight_through.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
name_run "ste-K$K-seed$SEED"
train_model --num-of-heads "$K" --joint-pruning --use-ste --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP"
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" dsp-ste
remove_heads dsp-ste
