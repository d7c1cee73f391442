#!/usr/bin/env bash
# A small GPT-2 from scratch on captions (`German => English`), then adapted to talks by the three stages of DSEE: perplexity
# and BLEU of the talks before, after each stage, and after finetuning all weights for as many updates.
#
#   DSP_DATA_DIR=/data scripts/dsee/talks_gpt2.sh
#   EPOCHS=1 STAGE_ONE=100 STAGE_THREE=100 OUT=runs/short RESULTS=runs/short/results scripts/dsee/talks_gpt2.sh
#
# Started again, it goes on where it was stopped. Settings, by environment variables:
#   DATA         folder with multi30k/ and iwslt14/ of aligned text files (default: $DSP_DATA_DIR)
#   OUT          models (default: runs/talks-gpt2); RESULTS  records (default: results/dsee/talks-gpt2)
#   EPOCHS       of the captions (2); STAGE_ONE, STAGE_THREE  updates of the talks (500, 500), FULL their sum
#   HEADS, NEURONS  taken out: heads of every layer (1 of 4), share of the groups of neurons (0.4)
#   SENTENCES    of the talks' test set that are scored, the first ones (500)
#   SEED         default 1; FLAGS  more options for every program
#   PYTHON       the interpreter (default: .venv/bin/python)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
DATA=${DATA:-${DSP_DATA_DIR:-}}
OUT=${OUT:-runs/talks-gpt2} RESULTS=${RESULTS:-results/dsee/talks-gpt2}
EPOCHS=${EPOCHS:-2} STAGE_ONE=${STAGE_ONE:-500} STAGE_THREE=${STAGE_THREE:-500}
HEADS=${HEADS:-1} NEURONS=${NEURONS:-0.4} SENTENCES=${SENTENCES:-500} SEED=${SEED:-1}
read -ra MORE <<<"${FLAGS:-}"

for needed in multi30k/train multi30k/val iwslt14/train_sample iwslt14/valid iwslt14/test; do
    [[ -f $DATA/$needed.de && -f $DATA/$needed.en ]] || {
        echo "DATA=$DATA: $needed.de and $needed.en are not there (DATA or DSP_DATA_DIR names the folder)" >&2
        exit 2
    }
done

CAPTIONS=$OUT/captions TALKS=$OUT/talks
[[ -f $CAPTIONS/dev.jsonl ]] ||
    "$PYTHON" data-prep/parallel_to_jsonl.py --out "$CAPTIONS" --train "$DATA/multi30k/train" --dev "$DATA/multi30k/val"
# the test set is scored; no setting is chosen by it
[[ -f $TALKS/dev.jsonl ]] ||
    "$PYTHON" data-prep/parallel_to_jsonl.py --out "$TALKS" --train "$DATA/iwslt14/train_sample" --dev "$DATA/iwslt14/test" --drop-shared

clm() { # folder of OUT and of RESULTS, its last record, folder of the data, options
    local name=$1 last=$2 data=$3
    shift 3
    [[ ! -f $RESULTS/$name/$last/results.json ]] || { echo "| $RESULTS/$name is there"; return 0; }
    "$PYTHON" scripts/dsee/run_clm.py --data_dir "$data" --max_seq_length 128 --max_new_tokens 60 --do_eval --generate \
        --per_device_eval_batch_size 64 --seed "$SEED" --output_dir "$OUT/$name" --record_dir "$RESULTS/$name" \
        --max_eval_samples "$SENTENCES" "$@" "${MORE[@]}"
}

BATCHES=(--per_device_train_batch_size 32 --train_sampling_strategy group_by_length)
BASE=(--model_name_or_path "$OUT/base")
clm base dev "$CAPTIONS" --do_train "${BATCHES[@]}" --config_name gpt2 --train_tokenizer 6000 \
    --config_overrides n_layer=4,n_head=4,n_embd=256,n_positions=128 --learning_rate 1e-3 --warmup_steps 100 \
    --num_train_epochs "$EPOCHS"
clm before dev "$TALKS" "${BASE[@]}" --method before
clm dsee 3rd/dev "$TALKS" --do_train "${BATCHES[@]}" "${BASE[@]}" --apply_lora --lora_r 16 --apply_sparse --num_sparse 64 \
    --learning_rate 2e-3 --max_steps "$STAGE_ONE" --prune_heads_num "$HEADS" --prune_neurons "$NEURONS" \
    --third_max_steps "$STAGE_THREE"
clm full dev "$TALKS" --do_train "${BATCHES[@]}" "${BASE[@]}" --learning_rate 5e-4 --max_steps $((STAGE_ONE + STAGE_THREE)) \
    --method full
