# Shared by the pipelines of this folder: settings by environment variables, data, training, scoring, head removal.
# Every step is skipped when its result is there, and training goes on from its last checkpoint.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
export PATH="$(dirname "$(command -v "$PYTHON")"):$PATH"

DATASET=${DATASET:-multi30k}            # multi30k, iwslt14, or embedded (a generated corpus, no download)
DATA_BIN=${DATA_BIN:-data-bin/$DATASET} # prepared from raw text when it is not there
SEED=${SEED:-1}
FLAGS=${FLAGS:-}                        # more fairseq flags for training and scoring, e.g. --cpu or --fp16 ...
TRAIN_FLAGS=${TRAIN_FLAGS:-}            # more fairseq flags for training alone
TRAIN_PROGRAM=${TRAIN_PROGRAM:-run_dsp.py}
RESULT=checkpoint_best.pt               # what a training is judged by
# which steps to do: a pipeline of many runs (pipelines/mt.smk) starts them one by one
STEPS=${STEPS:-train score prune score-pruned tune score-tuned}
DOING=train                             # what train_model is called for

asked() { [[ " $STEPS " == *" $1 "* ]]; }

# The schedule of the choice of heads. auto: run_dsp.py and run_voita.py work it out from the length of the run, and say it.
# hand: by the settings OF_SCHEDULE, with the defaults below; so it is where one of them is given.
# INIT_SCORES (importance or random) and PRUNING_FLAGS (more of the gates' options) go beside either.
OF_SCHEDULE="PRUNING_LR T0 TF COOLDOWN PIPELINED_COOLDOWN WARMUP L0_PENALTY"
GIVEN=
for NAME in $OF_SCHEDULE; do [[ -z ${!NAME:-} ]] || GIVEN=$NAME; done
SCHEDULE=${SCHEDULE:-$([[ -n $GIVEN ]] && echo hand || echo auto)}
case $SCHEDULE in
hand) ;;
auto) [[ -z $GIVEN ]] || { echo "SCHEDULE=auto works $GIVEN out itself: leave one of them out" >&2; exit 2; } ;;
*)
    echo "SCHEDULE=$SCHEDULE: choose auto or hand" >&2
    exit 2
    ;;
esac

# By hand: annealing for runs of some hundreds of updates. The paper's (0.1 to 1e-8 over 15,000 updates, rate 0.2), squeezed
# into so few, freezes the scores while they still differ by less than the sampler's noise: the gradient is gone by
# T = 1e-3. Warmer ones settle in time. And the choice waits until cross-attention has learnt something: made earlier, it
# can drop all of it (docs/mt.md tells of both).
short_run() {
    PRUNING_LR=${PRUNING_LR:-0.1} T0=${T0:-1} TF=${TF:-0.01}
    WARMUP=${WARMUP:-$((MAX_UPDATE / 3))} COOLDOWN=${COOLDOWN:-$((MAX_UPDATE / 4))}
}

case $DATASET in
multi30k)
    ARCH=${ARCH:-transformer_multi30k}
    MAX_UPDATE=${MAX_UPDATE:-1600} MAX_TOKENS=${MAX_TOKENS:-2048}
    VALIDATE_INTERVAL=${VALIDATE_INTERVAL:-2}
    LR=3e-3
    RECIPE=(--share-all-embeddings --lr "$LR" --warmup-updates 500 --dropout 0.2 --max-update "$MAX_UPDATE")
    PIPELINED_UPDATES=${PIPELINED_UPDATES:-390}
    short_run
    SUBSETS=${SUBSETS:-test test1}      # test_2016_flickr, test_2017_flickr
    ;;
embedded)
    ARCH=${ARCH:-transformer_multi30k_small}
    MAX_UPDATE=${MAX_UPDATE:-700} MAX_TOKENS=${MAX_TOKENS:-2048}
    VALIDATE_INTERVAL=${VALIDATE_INTERVAL:-3}
    LR=4e-3
    RECIPE=(--share-decoder-input-output-embed --lr "$LR" --warmup-updates 200 --dropout 0.0 --max-update "$MAX_UPDATE")
    PIPELINED_UPDATES=${PIPELINED_UPDATES:-200}
    # cross-attention is quick to learn here, so the choice need not wait; few heads want --min-heads-per-block 1
    PRUNING_LR=${PRUNING_LR:-0.5} WARMUP=${WARMUP:-0} COOLDOWN=${COOLDOWN:-$((MAX_UPDATE * 3 / 10))}
    short_run
    SUBSETS=${SUBSETS:-test}
    ;;
iwslt14)                                # the recipe of the paper
    ARCH=${ARCH:-transformer_iwslt_de_en}
    MAX_UPDATE=${MAX_UPDATE:-0}
    VALIDATE_INTERVAL=${VALIDATE_INTERVAL:-1}
    LR=5e-4
    RECIPE=(--share-decoder-input-output-embed --lr "$LR" --warmup-updates 4000 --dropout 0.3 --weight-decay 0.0001
        --max-epoch 60 --max-update "$MAX_UPDATE")
    PRUNING_LR=${PRUNING_LR:-0.2} COOLDOWN=${COOLDOWN:-15000} PIPELINED_UPDATES=${PIPELINED_UPDATES:-1100}
    T0=${T0:-0.1} TF=${TF:-1e-8} WARMUP=${WARMUP:-0}
    SUBSETS=${SUBSETS:-test}
    ;;
*)
    echo "DATASET=$DATASET: choose multi30k, iwslt14 or embedded" >&2
    exit 2
    ;;
esac

need_budget() {
    [[ ${K:-} =~ ^[0-9]+$ ]] || { echo "K='${K:-}': set K to the number of heads to keep, e.g. K=9" >&2; exit 2; }
}

# The options of Voita et al.: K, or L0_PENALTY, which is lambda, or both. Without K heads close one by one, so that the
# last checkpoint, not the best, is what lambda has made.
need_voita() {
    TRAIN_PROGRAM=run_voita.py VOITA=()
    if [[ $SCHEDULE == hand ]]; then
        [[ -n ${L0_PENALTY:-} ]] || { echo "L0_PENALTY is not set: give the price of an open head, e.g. L0_PENALTY=200" >&2; exit 2; }
        VOITA+=(--l0-penalty "$L0_PENALTY")
    elif [[ -z ${K:-} ]]; then
        echo "neither K nor L0_PENALTY is set: give the number of heads to keep, e.g. K=9, or the price of an open head, e.g. L0_PENALTY=200" >&2
        exit 2
    fi
    if [[ -n ${K:-} ]]; then
        need_budget
        VOITA+=(--num-of-heads "$K")
    else
        RESULT=checkpoint_last.pt
    fi
}

# GATES, the rest of their options; $@ are those of the schedule by hand.
schedule() {
    [[ $SCHEDULE == hand ]] || set --
    # shellcheck disable=SC2206
    GATES=("$@" ${INIT_SCORES:+--init-scores "$INIT_SCORES"} ${PRUNING_FLAGS:-})
}

# UNPRUNED, the trained model that pipelined pruning starts from: that of unpruned.sh, trained first where it is missing.
need_unpruned() {
    [[ -z ${UNPRUNED:-} ]] || return 0
    UNPRUNED=runs/$DATASET/unpruned-seed$SEED/checkpoint_best.pt
    # the checkpoint alone may be that of a training that was stopped; its record is written at the end
    [[ -f ${UNPRUNED%/*}/results.json ]] || env -u SAVE_DIR -u RECORD_DIR -u TRAIN_PROGRAM -u STEPS -u TUNE_UPDATES scripts/mt/unpruned.sh
}

# Where this run's checkpoints and records go; $1 names the run.
name_run() {
    SAVE_DIR=${SAVE_DIR:-runs/$DATASET/$1}
    RECORD_DIR=${RECORD_DIR:-$SAVE_DIR/records}
}

prepare_data() {
    [[ -f $DATA_BIN/dict.en.txt ]] && return
    export DSP_PYTHON=${DSP_PYTHON:-$PYTHON}
    if [[ $DATASET == embedded ]]; then
        "$PYTHON" data-prep/embedded_corpus.py --out data/embedded --train 40000 --valid 500 --test 1000 --seed 1
        "$PYTHON" data-prep/binarise.py --text data/embedded --dest "$DATA_BIN"
    else
        "data-prep/prepare-$DATASET.sh" --dest "$DATA_BIN"
    fi
}

# Of every training, whoever's model it is.
TRAINING=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0 --lr-scheduler inverse_sqrt
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens "${MAX_TOKENS:-4096}"
    --eval-bleu --eval-bleu-args '{"beam": 5, "max_len_a": 1.2, "max_len_b": 10}' --eval-bleu-detok moses
    --eval-bleu-remove-bpe --best-checkpoint-metric bleu --maximize-best-checkpoint-metric
    --validate-interval "$VALIDATE_INTERVAL" --no-epoch-checkpoints --log-interval 50)

# Train by $TRAIN_PROGRAM with the recipe and the options given; does nothing when the run is complete.
train_model() {
    asked "$DOING" || return 0
    prepare_data
    [[ -f $SAVE_DIR/results.json ]] && { echo "| $SAVE_DIR is trained"; return; }
    mkdir -p "$SAVE_DIR"
    # shellcheck disable=SC2086
    "$PYTHON" "scripts/mt/$TRAIN_PROGRAM" "$DATA_BIN" --arch "$ARCH" --seed "$SEED" "${TRAINING[@]}" \
        --record-name "${RECORD_NAME:-$DATASET}" --save-dir "$SAVE_DIR" "${RECIPE[@]}" "$@" $FLAGS $TRAIN_FLAGS
}

# The record of this training among the scores, for the pictures of which heads were open when.
keep_training_record() {
    asked train || return 0
    mkdir -p "$RECORD_DIR/train"
    cp "$SAVE_DIR/results.json" "$RECORD_DIR/train/results.json"
}

# Score checkpoint $1 on every test set; $2 is the method's name in the records, $3 a suffix of their folders.
score_model() {
    local subset out
    asked "score${3:-}" || return 0
    prepare_data
    for subset in $SUBSETS; do
        out=$RECORD_DIR/$subset${3:-}
        [[ -f $out/results.json ]] && { echo "| $out is scored"; continue; }
        # shellcheck disable=SC2086
        "$PYTHON" scripts/mt/generate_dsp.py "$DATA_BIN" -s de -t en --path "$1" --gen-subset "$subset" --quiet \
            --batch-size 32 --beam 5 --remove-bpe --record-dir "$out" --record-name "${RECORD_NAME:-$DATASET}" \
            --method "$2" --record-seed "$SEED" $FLAGS
    done
}

# Take the dead heads of the best checkpoint out for good; with SCORE_PRUNED=1 score the smaller model too
# (method $1, with "-pruned"), with TUNE_UPDATES=N train it on for N updates and score that (method $1, with "-tuned").
remove_heads() {
    local pruned=$SAVE_DIR/checkpoint_pruned.pt
    ! asked prune || [[ -f $pruned ]] || "$PYTHON" -m dsp_plugin.cli.main prune "$SAVE_DIR/$RESULT" --out "$pruned"
    [[ -z ${SCORE_PRUNED:-} ]] || score_model "$pruned" "$1-pruned" -pruned
    tune_model "$1" "$pruned"
}

# Tuning after pruning, of checkpoint $2 (method $1, with "-tuned"): what was removed stays removed, and an unpruned model is
# trained on alike. The schedule is that of run_dsp.py --tune-updates: up to TUNE_LR, by default a third of the training's
# rate, then linearly down to 0.
tune_model() {
    [[ ${TUNE_UPDATES:-0} -gt 0 ]] || return 0
    local schedule
    (
        SAVE_DIR=$SAVE_DIR/tuned TRAIN_PROGRAM=run_dsp.py DOING=tune
        schedule=$("$PYTHON" -m dsp_plugin.mt.programs.heads.tuning_schedule "$TUNE_UPDATES" "$LR" ${TUNE_LR:+"$TUNE_LR"})
        # shellcheck disable=SC2086
        train_model --finetune-from-model "$2" --validate-interval 1 $schedule
        score_model "$SAVE_DIR/checkpoint_best.pt" "$1-tuned" -tuned
    )
}
