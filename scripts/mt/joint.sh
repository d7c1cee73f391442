#!/usr/bin/env bash
# Joint DSP, annealed: model and choice of K heads trained together, from raw text to BLEU and a smaller checkpoint.
#   DATASET=multi30k K=9 SEED=1 COOLDOWN=400 FLAGS=--cpu scripts/mt/joint.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
METHOD=${METHOD:-dsp-joint} # its name in folders and records: another one for other PRUNING_FLAGS
name_run "${METHOD#dsp-}-K$K-seed$SEED"
# shellcheck disable=SC2086
train_model --method "$METHOD" ${PRUNING_FLAGS:-} --num-of-heads "$K" --joint-pruning --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP" \
    --annealing --initial-temperature "$T0" --final-temperature "$TF" --cooldown-steps "$COOLDOWN"
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" "$METHOD"
remove_heads "$METHOD"
