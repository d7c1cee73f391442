#!/usr/bin/env bash
# Gates of Voita et al., pipelined: a trained model's weights stay, only the gates are learned. From raw text to BLEU.
# Starts from UNPRUNED, the checkpoint of unpruned.sh, which is trained first where it is missing.
#   DATASET=multi30k L0_PENALTY=200 K=9 SEED=1 FLAGS=--cpu scripts/mt/voita_pipelined.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_penalty
need_unpruned
name_run "voita-pipelined-L$L0_PENALTY${K:+-K$K}-seed$SEED"
train_model "${VOITA[@]}" --pruning-lr "$PRUNING_LR" --finetune-from-model "$UNPRUNED" \
    --max-update "$PIPELINED_UPDATES" --max-epoch 0
keep_training_record
score_model "$SAVE_DIR/$RESULT" voita-pipelined
remove_heads voita-pipelined
