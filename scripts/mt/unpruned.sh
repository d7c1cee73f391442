#!/usr/bin/env bash
# The unpruned model, from raw text to BLEU: what pipelined pruning starts from and all else is compared with.
# TUNE_UPDATES=N trains it on as pruned models are, in SAVE_DIR/tuned; UNPRUNED=FILE is a trained model that is scored and
# trained on in the place of a new one.
#   DATASET=multi30k SEED=1 FLAGS=--cpu TUNE_UPDATES=500 scripts/mt/unpruned.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
name_run "unpruned-seed$SEED"
OWN=$SAVE_DIR/checkpoint_best.pt UNPRUNED=${UNPRUNED:-$SAVE_DIR/checkpoint_best.pt}
[[ $UNPRUNED != "$OWN" ]] || train_model
score_model "$UNPRUNED" unpruned
tune_model unpruned "$UNPRUNED"
