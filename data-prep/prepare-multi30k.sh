#!/usr/bin/env bash
# Multi30k German-English: raw captions -> tokens -> joint BPE -> data-bin.
#
#   prepare-multi30k.sh [--data DIR] [--text DIR] [--dest DIR] [--codes FILE] [--text-only]
#
#   --data DIR     raw text: train, val, test_2016_flickr, test_2017_flickr, each .de and .en (or .gz of them);
#                  default $DSP_DATA_DIR/multi30k, else the files are fetched
#   --text DIR     tokenised text (default data/multi30k)
#   --dest DIR     binarised (default data-bin/multi30k)
#   --codes FILE   ready-made BPE codes instead of new ones
#   --text-only    stop before fairseq-preprocess
#
# Environment:
#   BPE_OPS        joint BPE operations (default 6000)
#   MAX_RATIO      training pairs more uneven than this are dropped (default 2)
#   WORKERS        processes of fairseq-preprocess (default 2)
#
# test_2016_flickr becomes fairseq's `test`, test_2017_flickr its `test1`. One joined dictionary, so
# that a model can share all its embeddings. Started again, it skips what is done.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Could only be tried online.
address=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw
data= codes= text_only=
text=data/multi30k
dest=data-bin/multi30k
bpe_ops=${BPE_OPS:-6000} max_ratio=${MAX_RATIO:-2} workers=${WORKERS:-2}
parse_options "$@"
need_tools

raw=(train val test_2016_flickr test_2017_flickr)
splits=(train valid test test1)

local_copy multi30k
if [[ -z $data ]]; then
    data=$text/orig
    for name in "${raw[@]}"; do
        for lang in de en; do
            "$PYTHON" "$prep/fetch.py" --at-most 20 "$address/$name.$lang.gz" "$data/$name.$lang.gz" ||
                die "Multi30k is missing: go online, or name the folder of its raw files (${raw[*]}, each .de and .en) by --data, or put it at \$DSP_DATA_DIR/multi30k"
        done
    done
fi

print=$("$PYTHON" "$prep/pairs.py" "${raw[@]/#/$data/}" --published 29000 1014 1000 1000) || die "Multi30k in $data cannot be used"
same_settings "$text" "multi30k data=$print bpe_ops=$bpe_ops codes=$codes max_ratio=$max_ratio"

"$PYTHON" "$prep/tokenize_pairs.py" "$data/train" "$text/tmp/train" --normalise --max-tokens 175 --max-ratio "$max_ratio"
for i in 1 2 3; do
    "$PYTHON" "$prep/tokenize_pairs.py" "$data/${raw[i]}" "$text/tmp/${splits[i]}" --normalise
done
bpe "${splits[@]}"
say "text: $text"
[[ -n $text_only ]] && exit 0
"$PYTHON" "$prep/binarise.py" --text "$text" --dest "$dest" --tests test test1 --joined-dictionary --workers "$workers"
