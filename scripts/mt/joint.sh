#!/usr/bin/env bash
# Joint DSP, annealed: model and choice of K heads trained together, from raw text to BLEU and a smaller checkpoint.
#   DATASET=multi30k K=9 SEED=1 COOLDOWN=400 FLAGS=--cpu scripts/mt/joint.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
name_run "joint-K$K-seed$SEED"
train_model --num-of-heads "$K" --joint-pruning --pruning-lr "$PRUNING_LR" --pruning-warmup-updates "$WARMUP" \
    --annealing --initial-temperature "$T0" --final-temperature "$TF" --cooldown-steps "$COOLDOWN"
keep_training_record
score_model "$SAVE_DIR/checkpoint_best.pt" dsp-joint
remove_heads dsp-joint
