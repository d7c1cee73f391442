#!/usr/bin/env bash
# Pipelined DSP: a trained model's weights stay, only the choice of K heads is learned. From raw text to BLEU.
# Starts from UNPRUNED, the checkpoint of unpruned.sh, which is trained first where it is missing.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/pipelined.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
need_unpruned
METHOD=${METHOD:-dsp-pipelined} # its name in folders and records: another one for other PRUNING_FLAGS
name_run "${METHOD#dsp-}-K$K-seed$SEED"
schedule --pruning-lr "$PRUNING_LR" \
    --annealing --initial-temperature "$T0" --final-temperature "$TF" --cooldown-steps "${PIPELINED_COOLDOWN:-250}"
train_model --method "$METHOD" --num-of-heads "$K" --finetune-from-model "$UNPRUNED" "${GATES[@]}" \
    --max-update "$PIPELINED_UPDATES" --max-epoch 0
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" "$METHOD"
remove_heads "$METHOD"
