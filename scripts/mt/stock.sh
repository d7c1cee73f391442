#!/usr/bin/env bash
# The unpruned model by stock fairseq, from raw text to BLEU: its own model, task, criterion and optimizer train it, by the
# recipe for 3+3 layers on Multi30k. This plugin is loaded beside them so that a training that was stopped goes on: stock
# fairseq cannot read its own checkpoints again with torch 2.6 or later.
# EPOCHS (14); UNPRUNED=FILE is a trained model that is scored in the place of a new one.
#   SEED=1 FLAGS=--cpu scripts/mt/stock.sh
MAX_TOKENS=${MAX_TOKENS:-4096} VALIDATE_INTERVAL=${VALIDATE_INTERVAL:-1}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ $DATASET == multi30k ]] || { echo "DATASET=$DATASET: the recipe is that of multi30k" >&2; exit 2; }
name_run "stock-seed$SEED"
OWN=$SAVE_DIR/checkpoint_best.pt UNPRUNED=${UNPRUNED:-$SAVE_DIR/checkpoint_best.pt}
SIZES=()
for SIDE in encoder decoder; do
    SIZES+=("--$SIDE-layers" 3 "--$SIDE-embed-dim" 256 "--$SIDE-ffn-embed-dim" 512 "--$SIDE-attention-heads" 4)
done

train_stock() {
    asked train || return 0
    prepare_data
    [[ -f $SAVE_DIR/results.json ]] && { echo "| $SAVE_DIR is trained"; return; }
    mkdir -p "$SAVE_DIR"
    # shellcheck disable=SC2086
    "$PYTHON" -m fairseq_cli.train "$DATA_BIN" --user-dir dsp_plugin --task translation --arch transformer "${SIZES[@]}" \
        "${TRAINING[@]}" --share-all-embeddings --lr "$LR" --warmup-updates 500 --dropout 0.2 --weight-decay 0.0001 \
        --max-epoch "${EPOCHS:-14}" --seed "$SEED" --save-dir "$SAVE_DIR" $FLAGS $TRAIN_FLAGS
    # written at the end: with it the training is done
    "$PYTHON" -m dsp_plugin.mt.programs.chassis.training_results "$SAVE_DIR" --method unpruned --record-name "${RECORD_NAME:-$DATASET}"
}

[[ $UNPRUNED != "$OWN" ]] || train_stock
score_model "$UNPRUNED" unpruned
