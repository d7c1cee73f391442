#!/usr/bin/env bash
# All six orders of prompt, bias and adapter in three stages, on one task, few-shot.
#
#   TASK=SST-2 bash run_mulstage_task.sh
#   TASK=SST-2 ORDERS="prompt,adapter bias" SEEDS=42 RATES=1e-3 bash run_mulstage_task.sh
#
# Settings: those of run_experiment.sh, and SEEDS (100 13 21 42 87), RATES (1e-3 3e-4 1e-4 3e-5), ORDERS: one a line, or
# separated by ";" (all six).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }

check_settings
ORDERS=${ORDERS:-prompt bias adapter;prompt adapter bias;bias prompt adapter;bias adapter prompt;adapter prompt bias;adapter bias prompt}
mapfile -t orders < <(tr ';' '\n' <<<"$ORDERS")
for order in "${orders[@]}"; do
    for seed in ${SEEDS:-100 13 21 42 87}; do
        for rate in ${RATES:-1e-3 3e-4 1e-4 3e-5}; do
            TASK=$TASK SEED=$seed LR=$rate TRAIN_PARAM=$order bash "$HERE/run_mulstage_experiment.sh" "$*"
        done
    done
done
