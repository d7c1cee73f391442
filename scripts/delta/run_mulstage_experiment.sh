#!/usr/bin/env bash
# One run of Delta-Tuning in stages, few-shot: each stage in a folder of its own, what was learnt before stays frozen.
#
#   TASK=SST-2 TRAIN_PARAM="prompt bias adapter" bash run_mulstage_experiment.sh
#
# Settings: those of run_experiment.sh, and
#   TRAIN_PARAM   the stages in their order; joined by commas is what one stage trains together (prompt bias adapter)
# STEPS counts the updates of each stage; the next one begins with its last step.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }

TRAIN_PARAM=${TRAIN_PARAM:-prompt bias adapter}
TASK=${TASK:-} exec bash "$HERE/run_experiment.sh" "--training_params $TRAIN_PARAM --use_adapters $*"
