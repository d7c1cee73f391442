#!/usr/bin/env bash
# Pipelined DSP: a trained model's weights stay, only the choice of K heads is learned. From raw text to BLEU.
# Starts from UNPRUNED, the checkpoint of unpruned.sh, which is trained first where it is missing.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/pipelined.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
need_unpruned
name_run "pipelined-K$K-seed$SEED"
train_model --num-of-heads "$K" --pruning-lr "$PRUNING_LR" --finetune-from-model "$UNPRUNED" \
    --annealing --initial-temperature "$T0" --final-temperature "$TF" --cooldown-steps "${PIPELINED_COOLDOWN:-250}" \
    --max-update "$PIPELINED_UPDATES" --max-epoch 0
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" dsp-pipelined
remove_heads dsp-pipelined
