#!/usr/bin/env bash
# Gates of Voita et al., joint: heads close under an L0 penalty while the model is trained, from raw text to BLEU and a
# smaller checkpoint. With K exactly that many heads stay; with L0_PENALTY alone as many as it leaves open.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/voita.sh                (L0_PENALTY=200: a schedule by hand)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_voita
METHOD=${METHOD:-voita-joint} # its name in folders and records: another one for other PRUNING_FLAGS
name_run "${METHOD%-joint}${L0_PENALTY:+-L$L0_PENALTY}${K:+-K$K}-seed$SEED"
schedule --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP"
train_model --method "$METHOD" "${VOITA[@]}" --joint-pruning "${GATES[@]}"
keep_training_record
score_model "$SAVE_DIR/$RESULT" "$METHOD"
remove_heads "$METHOD"
