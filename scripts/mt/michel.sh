#!/usr/bin/env bash
# Michel et al.: the K most important heads of a trained model stay, the others are removed; from raw text to BLEU.
# Starts from UNPRUNED, the checkpoint of unpruned.sh, which is trained first where it is missing.
# RANK_BY=random or magnitude makes a baseline of it; STEP heads (4) go at a time, each time by importance worked out anew
# (MICHEL_FLAGS='' works it out once), on the whole training set or on IMPORTANCE_SAMPLES of its sentences.
# TUNE_UPDATES=N trains the smaller model on. BUDGETS="18 9" is one sweep for several K, in a folder SWEEP that they share.
#   DATASET=multi30k K=9 SEED=1 FLAGS=--cpu TUNE_UPDATES=500 scripts/mt/michel.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_budget
need_unpruned
RANK_BY=${RANK_BY:-importance}
METHOD=${METHOD:-$([[ $RANK_BY == importance ]] && echo michel || echo "$RANK_BY")} # its name in folders and records
name_run "$METHOD-K$K-seed$SEED"
SWEEP=${SWEEP:-$SAVE_DIR/sweep} PRUNED=$SAVE_DIR/checkpoint_pruned.pt

sweep() {
    prepare_data
    # shellcheck disable=SC2086
    "$PYTHON" scripts/mt/run_michel.py "$DATA_BIN" -s de -t en --restore-file "$UNPRUNED" --seed "$SEED" \
        --max-tokens "${MAX_TOKENS:-4096}" --num-of-heads "${STEP:-4}" --budgets ${BUDGETS:-$K} --rank-by "$RANK_BY" --no-scores \
        ${IMPORTANCE_SAMPLES:+--importance-samples "$IMPORTANCE_SAMPLES"} ${MICHEL_FLAGS---exact-pruning} \
        --save-dir "$SWEEP" --record-name "${RECORD_NAME:-$DATASET}" --method "$METHOD" $FLAGS
    mkdir -p "$RECORD_DIR/sweep"
    cp "$SWEEP/results.json" "$RECORD_DIR/sweep/results.json"
}

! asked sweep || sweep # alone, it is that of several K
if asked prune && [[ ! -f $PRUNED ]]; then
    [[ -n ${BUDGETS:-} && -f $SWEEP/results.json && -f $SWEEP/mask-K$K.json ]] || sweep
    "$PYTHON" -m dsp_plugin.cli.main prune "$UNPRUNED" --mask "$SWEEP/mask-K$K.json" --out "$PRUNED"
fi
score_model "$PRUNED" "$METHOD"
tune_model "$METHOD" "$PRUNED"
