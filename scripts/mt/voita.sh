#!/usr/bin/env bash
# Gates of Voita et al., joint: heads close under an L0 penalty while the model is trained, from raw text to BLEU and a
# smaller checkpoint. With K exactly that many heads stay, without it as many as the penalty leaves open.
#   DATASET=multi30k L0_PENALTY=200 K=9 SEED=1 FLAGS=--cpu scripts/mt/voita.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_penalty
name_run "voita-L$L0_PENALTY${K:+-K$K}-seed$SEED"
train_model "${VOITA[@]}" --joint-pruning --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP"
keep_training_record
score_model "$SAVE_DIR/$RESULT" voita-joint
remove_heads voita-joint
