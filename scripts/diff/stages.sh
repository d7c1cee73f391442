# Shared by the experiments of scripts/glue and scripts/squad: settings by environment variables, and the three stages of
# diff pruning for one task. A stage whose records are there is skipped; one that was stopped goes on by itself. A stage
# notes its command line in the file .command of its folder, and a folder of another command line is refused.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

PYTHON=${PYTHON:-$([[ -x $ROOT/.venv/bin/python ]] && echo "$ROOT/.venv/bin/python" || echo python3)}

# The paper's settings (Guo, Rush and Kim, 2021) where a script does not say otherwise.
MODEL=${MODEL:-bert-large-cased-whole-word-masking}
SEED=${SEED:-0}
SPARSITY_PEN=${SPARSITY_PEN:-0.000000125}
FLAGS=${FLAGS:-} # more options for all stages, e.g. "--bf16"
GPUS=${GPUS:-1}  # processes, one a GPU; without a GPU, 1 is the CPU

# The header of the script that was started, as its help.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}

refuse() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# BATCH examples an update: PER_GPU on each of GPUS, and as many micro-batches as that takes.
batch_flags() {
    local at_once=$((PER_GPU * GPUS))
    ((BATCH % at_once == 0)) || refuse "BATCH=$BATCH is no multiple of PER_GPU=$PER_GPU times GPUS=$GPUS"
    BATCHES=(--per_gpu_train_batch_size "$PER_GPU" --gradient_accumulation_steps $((BATCH / at_once)))
}

# Each of DENSITIES is a share of the weights.
check_densities() {
    local density
    for density in $DENSITIES; do
        [[ $density =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$ ]] && awk "BEGIN { exit !(0 < $density && $density <= 1) }" ||
            refuse "DENSITIES: $density is no share of the weights, in (0, 1]"
    done
}

# Program $1 of this repository with the options that follow.
launch() {
    if ((GPUS > 1)); then
        "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" "$@"
    else
        CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} "$PYTHON" "$@" # several in one process are refused
    fi
}

# Program $3 with the options after it, unless $2 has the records of set $1; then its checkpoints are removed.
stage() {
    local scored=$1 out=$2 line
    shift 2
    line="${1##*/} ${*:2}"
    line=${line/"${BATCHES[*]}"/"BATCH=$BATCH"} # on however many GPUs
    if [[ -f $out/.command && $(<"$out/.command") != "$line" && -n $(ls "$out") ]]; then
        refuse "$out holds a run with other settings ($out/.command): name another OUT"
    fi
    if [[ -f $out/$scored/results.json ]]; then
        echo "| $out is done"
    else
        mkdir -p "$out"
        echo "$line" >"$out/.command"
        echo "| ${1##*/} -> $out"
        launch "$@" --output_dir "$out"
    fi
    rm -rf "$out"/checkpoint-*/
}

# The three stages of one task for each of DENSITIES: stage 1 in $2, the others in $2/DENSITY/2nd and 3rd, and the task's
# pack, $2/DENSITY/task.diff.safetensors.
#   $1 programs, such as glue/run_glue; $2 folder; $3 the set that is scored last; $4, $5 epochs of stages 1 and 3
#   DATA_FLAGS: the task's data; PREDICT_FLAGS: more for stage 3
three_stages() {
    local programs=$ROOT/scripts/$1 out=$2 scored=$3 epochs=$4 third_epochs=$5 density folder
    # shellcheck disable=SC2206
    local common=(--model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" --seed "$SEED" --do_eval --per_gpu_eval_batch_size 8 $FLAGS)
    local training=(--do_train "${BATCHES[@]}" --save_steps 5000 --save_total_limit 1 --logging_steps 500)
    stage "$scored" "$out" "${programs}_diffpruning.py" "${common[@]}" "${training[@]}" --sparsity_pen "$SPARSITY_PEN" \
        --learning_rate "$LR" --num_train_epochs "$epochs"
    for density in $DENSITIES; do
        folder=$out/$density
        stage "$scored" "$folder/2nd" "${programs}_mag.py" "${common[@]}" --target_sparsity "$density" \
            --eval_checkpoint "$out/checkpoint-last-info.pt" --save_checkpoint "$folder/mask.diff.safetensors"
        stage "$scored" "$folder/3rd" "${programs}_fixmask_finetune.py" "${common[@]}" "${training[@]}" \
            --mask_checkpoint "$folder/mask.diff.safetensors" --save_pack "$folder/task.diff.safetensors" \
            --learning_rate "$FINETUNE_LR" --num_train_epochs "$third_epochs" "${PREDICT_FLAGS[@]}"
    done
}

# All scores below $1 as tables and pictures.
report() {
    PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -m dsp_plugin.cli.main report "$1" --out "$1/report"
}
