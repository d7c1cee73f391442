#!/usr/bin/env bash
# All few-shot runs of one task: eight combinations and plain finetuning, five seeds, four rates each.
#
#   TASK=SST-2 bash run_one_task.sh
#   TASK=CoLA SEEDS="13 42" RATES=1e-3 COMBINATIONS="none prompt bias,adapter" bash run_one_task.sh
#
# Started again, it goes on where it was stopped. Then tools/gather_result.py takes each seed's rate by dev. Settings:
# those of run_experiment.sh, and
#   SEEDS          100 13 21 42 87
#   COMBINATIONS   none, prompt, bias ... joined by commas where they are trained together, full (all weights, prompted)
#                  and finetune (all weights, task head); default: all
#   RATES          default: a grid for each combination
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }

check_settings
SEEDS=${SEEDS:-100 13 21 42 87}
COMBINATIONS=${COMBINATIONS:-none $SUBSETS finetune}
for combination in $COMBINATIONS; do
    for seed in $SEEDS; do
        case $combination in
        none)
            TASK=$TASK SEED=$seed NOTRAIN=1 PROMPT='' bash "$HERE/run_experiment.sh" "$*"
            continue
            ;;
        full) words='' kind=$TYPE ;;
        finetune) words='' kind=finetune ;;
        *) words="--training_params $combination --use_adapters" kind=$TYPE ;;
        esac
        prompt=$([[ ,$combination, == *,prompt,* ]] && echo prompt || true)
        for rate in ${RATES:-$(few_shot_rates "${combination/finetune/full}")}; do
            TASK=$TASK SEED=$seed LR=$rate PROMPT=$prompt TYPE=$kind bash "$HERE/run_experiment.sh" "$words $*"
        done
    done
done
