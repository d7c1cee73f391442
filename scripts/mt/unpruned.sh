#!/usr/bin/env bash
# The unpruned model, from raw text to BLEU: what pipelined pruning starts from and all else is compared with.
#   DATASET=multi30k SEED=1 FLAGS=--cpu scripts/mt/unpruned.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
name_run "unpruned-seed$SEED"
train_model
score_model "$SAVE_DIR/checkpoint_best.pt" unpruned
