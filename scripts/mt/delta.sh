#!/usr/bin/env bash
# Delta-Tuning of a trained model: its biases, bottleneck adapters or LoRA on a frozen base, alone, together or one after
# another; from raw text to BLEU. Of the base UNPRUNED, the checkpoint of unpruned.sh (of any data with DATA_BIN's
# dictionaries), which is trained first where it is missing.
# METHODS: bias,adapter trains both together, "bias adapter" one after the other. UPDATES are those of a stage, DELTA_LR its
# rate (default: 3e-3 of biases alone, else 1e-3), ADAPTER houlsby or pfeiffer, REDUCTION the model's width over an
# adapter's. DELTA_FLAGS has more options of run_delta.py.
#   DATASET=multi30k METHODS=bias,adapter SEED=1 FLAGS=--cpu scripts/mt/delta.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
METHODS=${METHODS:-bias,adapter}
read -ra STAGES <<<"$METHODS"
for NAME in ${METHODS//,/ }; do
    case $NAME in
    bias | adapter | lora) ;;
    *) echo "METHODS=$METHODS: some of bias, adapter and lora, joined by commas or one after the other" >&2 && exit 2 ;;
    esac
done
need_unpruned
NAME=${METHODS//,/+}
METHOD=${METHOD:-delta-${NAME// /-then-}}
DELTA_LR=${DELTA_LR:-$([[ $METHODS == bias ]] && echo 3e-3 || echo 1e-3)}
name_run "$METHOD-seed$SEED"

deltas() {
    asked train || return 0
    prepare_data
    local adapters=()
    [[ $METHODS != *adapter* ]] || adapters=(--adapter "${ADAPTER:-houlsby}" --adapter-reduction "${REDUCTION:-16}")
    # shellcheck disable=SC2086
    "$PYTHON" scripts/mt/run_delta.py "$DATA_BIN" --base-checkpoint "$UNPRUNED" --seed "$SEED" "${TRAINING[@]}" \
        --delta-methods "${STAGES[@]}" "${adapters[@]}" --lr "$DELTA_LR" --lr-scheduler fixed --dropout 0.1 \
        --max-update "${UPDATES:-500}" --save-dir "$SAVE_DIR" --record-name "${RECORD_NAME:-$DATASET}" \
        ${DELTA_FLAGS:-} $FLAGS $TRAIN_FLAGS
}

deltas
! asked prune || [[ -f $SAVE_DIR/merged.pt ]] ||
    "$PYTHON" -m dsp_plugin.cli.main delta merge "$SAVE_DIR/task.delta.safetensors" "$UNPRUNED" --out "$SAVE_DIR/merged.pt"
score_model "$SAVE_DIR/merged.pt" "$METHOD"
