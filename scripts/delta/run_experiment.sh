#!/usr/bin/env bash
# One few-shot run of Delta-Tuning; what follows goes to run.py.
#
#   TASK=SST-2 LR=1e-3 PROMPT=prompt SEED=42 bash run_experiment.sh "--training_params prompt,bias --use_adapters"
#
# Settings, by environment variables:
#   TASK      CoLA, SST-2, MRPC, QQP, MNLI, QNLI, RTE or STS-B
#   TAG       name of the runs, by which tools/gather_result.py finds them (exp)
#   BS, LR    examples an update (4), learning rate (1e-3)
#   PROMPT    prompt: the template has a place for the soft prompt; empty: none (prompt)
#   SEED      of the data (K-SEED) and of all else that is random (42)
#   MODEL     folder or hub name of a masked language model (roberta-large)
#   HARD      Y: the template in words; N: the mask alone (Y)
#   GPUN      processes, one a GPU; without a GPU, 1 is the CPU (1)
#   NOTRAIN   1: score the model as it is
#   TYPE      prompt, prompt-demo or finetune (prompt)
#   K, DATA   examples a class (16), folder of tools/generate_k_shot_data.py (data/k-shot)
#   STEPS, EVAL, LENGTH   updates (6000), updates between two looks at dev (200), tokens (256; MNLI and RTE 512)
#   OUT       results, TAG/TASK/METHODS in it (result)
#   FLAGS     more options for run.py; PYTHON: the interpreter
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }

BS=${BS:-4} LR=${LR:-1e-3} K=${K:-16} STEPS=${STEPS:-6000} EVAL=${EVAL:-200}
check_settings BS K STEPS EVAL
MAX_LENGTH=${LENGTH:-$(default_length)}
LENGTH_FLAGS=(--max_steps "$STEPS" --eval_steps "$EVAL" --save_steps "$EVAL" --num_k "$K")
test=test
[[ $TASK != MNLI ]] || test=test_mismatched
# shellcheck disable=SC2048,SC2086
experiment "${DATA:-data/k-shot}/$TASK/$K-$SEED" "$test" $*
