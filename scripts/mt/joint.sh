#!/usr/bin/env bash
# Joint DSP, annealed: model and choice of K heads trained together, from raw text to BLEU and a smaller checkpoint.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu scripts/mt/joint.sh                (COOLDOWN=400 ...: a schedule by hand)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
METHOD=${METHOD:-dsp-joint} # its name in folders and records: another one for other PRUNING_FLAGS
name_run "${METHOD#dsp-}-K$K-seed$SEED"
schedule --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP" \
    --annealing --initial-temperature "$T0" --final-temperature "$TF" --cooldown-steps "$COOLDOWN"
train_model --method "$METHOD" --num-of-heads "$K" --joint-pruning "${GATES[@]}"
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" "$METHOD"
remove_heads "$METHOD"
