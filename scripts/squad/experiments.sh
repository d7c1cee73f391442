#!/usr/bin/env bash
# Diff pruning on SQuAD v1.1 with the paper's hyperparameters: learn a diff, project it, finetune what is kept.
#
#   scripts/squad/experiments.sh
#   DATA=data/squad OUT=out GPUS=8 scripts/squad/experiments.sh
#   MODEL=bert-base-cased DENSITIES="0.01 0.005" scripts/squad/experiments.sh
#
# Started again, it goes on where it was stopped; what was trained with other settings is refused. Settings, by
# environment variables:
#   DATA         folder with train-v1.1.json and dev-v1.1.json; default: $DSP_DATA_DIR/squad where that is set, else data/squad
#   TRAIN, DEV   other file names
#   OUT          results (default: runs/experiments/squad)
#   MODEL        folder or hub name of the base (default: bert-large-cased-whole-word-masking)
#   DENSITIES    shares of the weights to keep (default: 0.01); one stage 1 serves all
#   SEED         default 0
#   SPARSITY_PEN lambda (default: 1.25e-7); LR, FINETUNE_LR: rates of stages 1 and 3 (3e-5, not checked against the paper)
#   EPOCHS, FINETUNE_EPOCHS: of stages 1 and 3 (2, 2)
#   BATCH        examples an update (24: the paper's 8 GPUS with 3 each), PER_GPU of them at once on each of GPUS (3, 1)
#   FLAGS        more options for the programs of all stages
#   PYTHON       the interpreter (default: .venv/bin/python)
source "$(dirname "${BASH_SOURCE[0]}")/../diff/stages.sh"

case ${1:-} in
-h | --help) usage && exit ;;
?*) refuse "$1: settings are environment variables, see --help" ;;
esac

OUT=${OUT:-runs/experiments/squad}
DATA=${DATA:-${DSP_DATA_DIR:-data}/squad}
TRAIN=${TRAIN:-train-v1.1.json} DEV=${DEV:-dev-v1.1.json}
DENSITIES=${DENSITIES:-0.01}
LR=${LR:-0.00003} FINETUNE_LR=${FINETUNE_LR:-0.00003}
BATCH=${BATCH:-24} PER_GPU=${PER_GPU:-3}
batch_flags
check_densities

for file in "$DATA/$TRAIN" "$DATA/$DEV"; do
    [[ -f $file ]] || refuse "$file is missing: set DATA, or bash data-prep/download_squad.sh --data_dir $DATA"
done

DATA_FLAGS=(--train_file "$DATA/$TRAIN" --predict_file "$DATA/$DEV" --max_seq_length 384 --doc_stride 128)
PREDICT_FLAGS=()
three_stages squad/run_squad "$OUT" dev "${EPOCHS:-2}" "${FINETUNE_EPOCHS:-2}"
report "$OUT"
