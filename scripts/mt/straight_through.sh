#!/usr/bin/env bash
# DSP's straight-through variant: hard top-K from the end of the warm-up, from raw text to BLEU and a smaller checkpoint.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/straight_through.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
METHOD=${METHOD:-dsp-ste} # its name in folders and records: another one for other PRUNING_FLAGS
name_run "${METHOD#dsp-}-K$K-seed$SEED"
schedule --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP"
[[ $SCHEDULE == hand ]] || GATES=(--pruning-schedule auto "${GATES[@]}") # --use-ste alone is the published command line
train_model --method "$METHOD" --num-of-heads "$K" --joint-pruning --use-ste "${GATES[@]}"
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" "$METHOD"
remove_heads "$METHOD"
