#!/usr/bin/env bash
# All full-data runs of one task: eight combinations, rates from 1e-2 to 1e-5.
#
#   TASK=MRPC bash run_fulldataset_one_task.sh
#
# Settings: those of run_fulldata_experiment.sh, and SEEDS (42), COMBINATIONS (as in run_one_task.sh), RATES (1e-2 3e-3
# 1e-3 3e-4 1e-4 3e-5 1e-5).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }

check_settings
for combination in ${COMBINATIONS:-none $SUBSETS}; do
    for seed in ${SEEDS:-42}; do
        case $combination in
        none)
            TASK=$TASK SEED=$seed NOTRAIN=1 PROMPT='' bash "$HERE/run_fulldata_experiment.sh" "$*"
            continue
            ;;
        full) words='' kind=$TYPE ;;
        finetune) words='' kind=finetune ;;
        *) words="--training_params $combination --use_adapters" kind=$TYPE ;;
        esac
        prompt=$([[ ,$combination, == *,prompt,* ]] && echo prompt || true)
        for rate in ${RATES:-1e-2 3e-3 1e-3 3e-4 1e-4 3e-5 1e-5}; do
            TASK=$TASK SEED=$seed LR=$rate PROMPT=$prompt TYPE=$kind \
                bash "$HERE/run_fulldata_experiment.sh" "$words $*"
        done
    done
done
