# Shared by the pipelines of Delta-Tuning: settings by environment variables, the folder of a run, one run.
#
# A run whose test set is scored is done; one that was stopped goes on by itself. A run notes its command line in the
# file .command of its folder, and a folder of another command line is refused.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
HERE=$ROOT/scripts/delta
PYTHON=${PYTHON:-$([[ -x $ROOT/.venv/bin/python ]] && echo "$ROOT/.venv/bin/python" || echo python3)}

TAG=${TAG:-exp}
MODEL=${MODEL:-roberta-large}
SEED=${SEED:-42}
HARD=${HARD:-Y}
PROMPT=${PROMPT-prompt} # PROMPT= : no soft prompt
GPUN=${GPUN:-1}
case ${NOTRAIN:-} in
'' | 0 | N | n | no | false) NOTRAIN= ;;
1 | Y | y | yes | true) NOTRAIN=1 ;;
*) echo "${0##*/}: NOTRAIN=$NOTRAIN: 1, or nothing" >&2 && exit 2 ;;
esac
TYPE=${TYPE:-prompt}
OUT=${OUT:-result}
FLAGS=${FLAGS:-}

KNOWN=" CoLA SST-2 MRPC QQP MNLI QNLI RTE STS-B "

# The header of the script that was started, as its help.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}

refuse() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# TASK, HARD, PROMPT and the numbers are what they can be, before anything is started.
check_settings() {
    [[ -n ${TASK:-} ]] || refuse "TASK=... is missing: one of$KNOWN"
    [[ $KNOWN == *" $TASK "* ]] || refuse "TASK=$TASK is none of$KNOWN"
    [[ $HARD == Y || $HARD == N ]] || refuse "HARD=$HARD: Y or N"
    [[ -z $PROMPT || $PROMPT == prompt ]] || refuse "PROMPT=$PROMPT: prompt, or nothing"
    local name
    [[ $SEED =~ ^[0-9]+$ ]] || refuse "SEED=$SEED is no whole number"
    for name in "$@" GPUN; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] || refuse "$name=${!name} is no whole number from 1 on"
    done
}

# The words after --training_params in the arguments, as a list of stages: "prompt,bias adapter"; empty without any.
stages_in() {
    local taken='' word
    for word in "$@"; do
        if [[ $word == --* ]]; then
            taken=$([[ $word == --training_params || $word == --training-params ]] && echo yes || true)
        elif [[ -n $taken ]]; then
            printf '%s ' "$word"
        fi
    done
}

# The name of a run's folder: $1 the stages, $2 its rate.
run_name() {
    local stages=${1% }
    [[ -n $stages ]] || stages=full
    [[ -z $NOTRAIN ]] || stages=none
    stages=${stages//,/+}
    echo "$TAG/$TASK/${stages// /-then-}-$TYPE-$HARD/lr$2-seed$SEED"
}

# BS examples an update on GPUN devices.
batch_flags() {
    ((BS % GPUN == 0)) || refuse "BS=$BS is no multiple of GPUN=$GPUN"
    BATCH=(--per_device_train_batch_size $((BS / GPUN)) --per_device_eval_batch_size 16)
}

# Whether a training was begun in the folder $1, or something scored.
has_run() {
    [[ -n $(find "$1" \( -name settings.json -o -name results.json \) -print -quit) ]]
}

# Run run.py with the options that follow into the folder $1, unless it is done: until $2/results.json is there.
run_once() {
    local out=$1 scored=$2 line
    shift 2
    line="run.py $*"
    line=${line/"${BATCH[*]}"/"BS=$BS"} # on however many devices
    # a command that was refused at its start has left nothing that another one could spoil
    if [[ -f $out/.command && $(<"$out/.command") != "$line" ]] && has_run "$out"; then
        refuse "$out holds a run with other settings ($out/.command): name another TAG or OUT"
    fi
    if [[ -f $out/$scored/results.json ]]; then
        echo "| $out is done"
        return
    fi
    mkdir -p "$out"
    echo "$line" >"$out/.command"
    echo "| $out"
    if ((GPUN > 1)); then
        "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUN" "$HERE/run.py" "$@" --output_dir "$out"
    else
        CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} "$PYTHON" "$HERE/run.py" "$@" --output_dir "$out"
    fi
    find "$out" -name 'checkpoint-*' -type d -prune -exec rm -rf {} +
}

# The set that is scored last, in the folder of the last stage of the arguments.
last_scored() {
    local stages=$1 test=$2 count
    read -ra count <<<"$stages"
    if ((${#count[@]} > 1)) && [[ -z $NOTRAIN ]]; then
        echo "stage${#count[@]}-${count[-1]//,/+}/$test"
    else
        echo "$test"
    fi
}

# One run of TASK on the folder $1 with the options that follow; $2 is the set that is scored last.
experiment() {
    local data=$1 test=$2 stages out
    shift 2
    stages=$(stages_in "$@")
    if [[ -z $PROMPT && " ${stages//,/ } " == *" prompt "* ]]; then
        refuse "PROMPT is empty, and --training_params has prompt"
    fi
    [[ -d $data ]] || refuse "there is no folder $data"
    batch_flags
    out=$OUT/$(run_name "$stages" "$LR")
    local train=(--do_train --learning_rate "$LR" "${BATCH[@]}" --load_best_model_at_end --save_total_limit 1)
    train+=(--metric_for_best_model "$(metric_of "$TASK")" --eval_strategy steps "${LENGTH_FLAGS[@]}")
    [[ -z $NOTRAIN ]] || train=("${BATCH[@]:2}")
    # shellcheck disable=SC2086
    run_once "$out" "$(last_scored "$stages" "$test")" --model_name_or_path "$MODEL" --task_name "$TASK" \
        --data_dir "$data" --few_shot_type "$TYPE" --hard "$HARD" --do_eval --do_predict --seed "$SEED" --tag "$TAG" \
        --max_seq_length "$MAX_LENGTH" --report_to none "${train[@]}" "$@" $FLAGS
}

metric_of() {
    case $1 in
    CoLA) echo eval_matthews_correlation ;;
    MRPC | QQP) echo eval_f1 ;;
    STS-B) echo eval_spearmanr ;;
    *) echo eval_accuracy ;;
    esac
}

# Tokens of a text: as published, MNLI and RTE have long ones.
default_length() {
    case $TASK in
    MNLI | RTE) echo 512 ;;
    *) echo 256 ;;
    esac
}

# The grid of rates of the methods $1 (few-shot).
few_shot_rates() {
    case $1 in
    prompt) echo 1e-2 3e-3 1e-3 3e-4 ;;
    bias) echo 3e-3 1e-3 3e-4 1e-4 ;;
    full) echo 5e-5 2e-5 1e-5 5e-6 ;;
    *) echo 1e-3 3e-4 1e-4 3e-5 ;;
    esac
}

SUBSETS="prompt bias adapter prompt,bias prompt,adapter bias,adapter prompt,bias,adapter"
