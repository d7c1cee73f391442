#!/usr/bin/env bash
# One run of Delta-Tuning on a task's whole training set; what follows goes to run.py.
#
#   TASK=MRPC LR=1e-3 bash run_fulldata_experiment.sh "--training_params adapter"
#
# The official development set is scored: the official test set has no labels, and its predictions are written.
# Settings: those of run_experiment.sh, but
#   TAG      name of the runs (full)
#   BS       examples an update (64)
#   DATA     folder of the official files (data/original, or else $DSP_DATA_DIR/glue)
#   EPOCHS   passes through the training set (10), or STEPS updates; EVAL: updates between two looks at dev (500)
TAG=${TAG:-full} # few-shot runs have folders of their own
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }

BS=${BS:-64} LR=${LR:-1e-3} EPOCHS=${EPOCHS:-10} EVAL=${EVAL:-500}
check_settings BS EVAL
MAX_LENGTH=${LENGTH:-$(default_length)}
LENGTH_FLAGS=(--num_train_epochs "$EPOCHS" --eval_steps "$EVAL" --save_steps "$EVAL")
[[ -z ${STEPS:-} ]] || LENGTH_FLAGS=(--max_steps "$STEPS" --eval_steps "$EVAL" --save_steps "$EVAL")
if [[ -z ${DATA:-} ]]; then
    DATA=data/original
    [[ -d $DATA || -z ${DSP_DATA_DIR:-} ]] || DATA=$DSP_DATA_DIR/glue
fi
scored=dev
[[ $TASK != MNLI ]] || scored=dev_mismatched
if ! compgen -G "$DATA/$TASK/test*.tsv" >/dev/null; then
    FLAGS="$FLAGS --do_predict False"
fi
# shellcheck disable=SC2048,SC2086
experiment "$DATA/$TASK" "$scored" $*
