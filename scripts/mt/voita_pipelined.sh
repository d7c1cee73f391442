#!/usr/bin/env bash
# Gates of Voita et al., pipelined: a trained model's weights stay, only the gates are learned. From raw text to BLEU.
# Starts from UNPRUNED, the checkpoint of unpruned.sh, which is trained first where it is missing.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/voita_pipelined.sh      (L0_PENALTY=200: a schedule by hand)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_voita
need_unpruned
METHOD=${METHOD:-voita-pipelined} # its name in folders and records: another one for other PRUNING_FLAGS
name_run "$METHOD${L0_PENALTY:+-L$L0_PENALTY}${K:+-K$K}-seed$SEED"
schedule --pruning-lr "$PRUNING_LR"
train_model --method "$METHOD" "${VOITA[@]}" --finetune-from-model "$UNPRUNED" "${GATES[@]}" \
    --max-update "$PIPELINED_UPDATES" --max-epoch 0
keep_training_record
score_model "$SAVE_DIR/$RESULT" "$METHOD"
remove_heads "$METHOD"
