#!/usr/bin/env bash
# Diff pruning on GLUE tasks with the paper's hyperparameters: learn a diff, project it, finetune what is kept.
#
#   scripts/glue/experiments.sh                          the paper's eight tasks with BERT-large
#   DATA=data OUT=out scripts/glue/experiments.sh CoLA MRPC
#   MODEL=bert-base-cased DENSITIES="0.01 0.005 0.001" SEED=1 scripts/glue/experiments.sh RTE
#   FLAGS="--per_params_alpha 0 --bf16" OUT=unstructured scripts/glue/experiments.sh
#
# Started again, it goes on where it was stopped; what was trained with other settings is refused. Settings, by
# environment variables:
#   DATA         folder with CoLA/, MRPC/ ... of official TSV files; default: $DSP_DATA_DIR/glue where that is set; a task
#                that is in neither is fetched by the `datasets` library
#   OUT          results, a folder a task (default: runs/experiments/glue)
#   MODEL        folder or hub name of the base (default: bert-large-cased-whole-word-masking)
#   DENSITIES    shares of the weights to keep (default: 0.005); one stage 1 serves all
#   SEED         default 0
#   SPARSITY_PEN lambda (default: 1.25e-7); LR, FINETUNE_LR: rates of stages 1 and 3 (1e-5, 5e-5)
#   EPOCHS, FINETUNE_EPOCHS: of stages 1 and 3 (3; 3, for MRPC, STS-B, RTE and SST-2 5)
#   BATCH        examples an update (8), PER_GPU of them at once on each of GPUS (8, 1)
#   FLAGS        more options for the programs of all stages
#   PYTHON       the interpreter (default: .venv/bin/python)
source "$(dirname "${BASH_SOURCE[0]}")/../diff/stages.sh"

case ${1:-} in
-h | --help) usage && exit ;;
-*) refuse "$1: options are environment variables, see --help" ;;
esac

OUT=${OUT:-runs/experiments/glue}
DATA=${DATA:-${DSP_DATA_DIR:+$DSP_DATA_DIR/glue}}
DENSITIES=${DENSITIES:-0.005}
LR=${LR:-0.00001} FINETUNE_LR=${FINETUNE_LR:-0.00005}
BATCH=${BATCH:-8} PER_GPU=${PER_GPU:-8}
batch_flags
check_densities

known=" CoLA SST-2 MRPC STS-B QQP MNLI QNLI RTE WNLI "
[[ $# -gt 0 ]] || set -- QNLI SST-2 MNLI CoLA MRPC STS-B RTE QQP
for task in "$@"; do # before any training
    [[ $known == *" $task "* ]] || refuse "$task is no GLUE task: choose of$known"
done

for task in "$@"; do
    case $task in
    MRPC | STS-B | RTE | SST-2) third_epochs=5 ;;
    *) third_epochs=3 ;;
    esac
    scored=dev
    [[ $task != MNLI ]] || scored=dev_mismatched
    DATA_FLAGS=(--task_name "$task" --max_seq_length 128)
    PREDICT_FLAGS=(--do_predict)
    if [[ -n $DATA && -d $DATA/$task ]]; then
        DATA_FLAGS+=(--data_dir "$DATA/$task")
        compgen -G "$DATA/$task/test*.tsv" >/dev/null || PREDICT_FLAGS=()
    fi
    three_stages glue/run_glue "$OUT/$task" "$scored" "${EPOCHS:-3}" "${FINETUNE_EPOCHS:-$third_epochs}"
done
report "$OUT"
