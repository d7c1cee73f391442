#!/usr/bin/env bash
# DSEE of a trained model: an update of low rank plus a few entries on its attention (stage I), heads and neurons taken out
# under it (II), the update trained on (III); from raw text to BLEU. Of the base UNPRUNED, the checkpoint of unpruned.sh,
# which is trained first where it is missing.
# UPDATES and THIRD_UPDATES are the updates of stages I and III, UPDATE_LR their rate, HEADS the heads that go from every
# block, PRUNE_NEURONS the share of the groups of NEURONS neurons. DSEE_FLAGS has more options of run_dsee.py.
#   DATASET=multi30k HEADS=1 SEED=1 FLAGS=--cpu scripts/mt/dsee.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_unpruned
HEADS=${HEADS:-1} PRUNE_NEURONS=${PRUNE_NEURONS:-0.25}
METHOD=${METHOD:-dsee-h$HEADS-n$PRUNE_NEURONS}
name_run "$METHOD-seed$SEED"

update() {
    asked train || return 0
    prepare_data
    # shellcheck disable=SC2086
    "$PYTHON" scripts/mt/run_dsee.py "$DATA_BIN" --base-checkpoint "$UNPRUNED" --seed "$SEED" "${TRAINING[@]}" \
        --lora-r "${RANK:-16}" --lora-alpha "${ALPHA:-32}" --num-sparse "${ENTRIES:-64}" \
        --prune-heads-num "$HEADS" --prune-neurons "$PRUNE_NEURONS" --neurons "${NEURONS:-32}" \
        --lr "${UPDATE_LR:-1e-3}" --lr-scheduler fixed --dropout 0.1 --max-update "${UPDATES:-500}" \
        --third-max-update "${THIRD_UPDATES:-500}" --save-dir "$SAVE_DIR" --record-name "${RECORD_NAME:-$DATASET}" \
        ${DSEE_FLAGS:-} $FLAGS $TRAIN_FLAGS
}

update
! asked prune || [[ -f $SAVE_DIR/merged.pt ]] ||
    "$PYTHON" -m dsp_plugin.cli.main dsee merge "$SAVE_DIR/3rd/task.dsee.safetensors" "$UNPRUNED" --out "$SAVE_DIR/merged.pt"
score_model "$SAVE_DIR/merged.pt" "$METHOD"
