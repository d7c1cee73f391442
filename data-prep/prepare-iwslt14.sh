#!/usr/bin/env bash
# IWSLT14 German-English by the usual recipe: archive -> tokens -> joint BPE -> data-bin.
#
#   prepare-iwslt14.sh [--data DIR|FILE] [--text DIR] [--dest DIR] [--codes FILE] [--text-only]
#
#   --data         the raw archive de-en.tgz, or a folder with it in, or a folder with tokenised,
#                  lower-cased train, valid and test, each .de and .en (train_sample in place of train
#                  will do, for trying things out); default $DSP_DATA_DIR/iwslt14, else it is fetched
#   --text DIR     tokenised text (default data/iwslt14)
#   --dest DIR     binarised (default data-bin/iwslt14)
#   --codes FILE   ready-made BPE codes instead of new ones (default with train_sample: bpe_codes.10k
#                  of its folder, for it holds codes of the full training set)
#   --text-only    stop before fairseq-preprocess
#
# Environment:
#   BPE_OPS        joint BPE operations (default 10000)
#   WORKERS        processes of fairseq-preprocess (default 2)
#
# The recipe: Moses tokens, 1 to 175 a side, ratio at most 1.5, lower-cased, every 23rd pair held out
# as valid, a dictionary for each language. Started again, it skips what is done.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Could only be tried online.
address=https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz
data= codes= text_only=
text=data/iwslt14
dest=data-bin/iwslt14
bpe_ops=${BPE_OPS:-10000} workers=${WORKERS:-2}
parse_options "$@"
need_tools

local_copy iwslt14
if [[ -z $data ]]; then
    data=$text/orig/de-en.tgz
    "$PYTHON" "$prep/fetch.py" --at-most 100 "$address" "$data" ||
        die "IWSLT14 is missing: go online, or name the archive de-en.tgz, or a folder with it or with tokenised train, valid and test (.de and .en) in, by --data, or put that folder at \$DSP_DATA_DIR/iwslt14"
fi
[[ -f $data/de-en.tgz ]] && data=$data/de-en.tgz

if [[ -f $data ]]; then
    print=$(cksum <"$data")
    same_settings "$text" "iwslt14 archive=$print bpe_ops=$bpe_ops codes=$codes"
    "$PYTHON" "$prep/iwslt14_archive.py" "$data" "$text/raw"
    "$PYTHON" "$prep/tokenize_pairs.py" "$text/raw/train" "$text/tmp/train" --max-tokens 175 --max-ratio 1.5 --hold-out "$text/tmp/valid"
    "$PYTHON" "$prep/tokenize_pairs.py" "$text/raw/test" "$text/tmp/test"
    "$PYTHON" "$prep/pairs.py" "$text"/tmp/{train,valid,test} --published 160239 7283 6750 >/dev/null
else
    train=train not_in=()
    if [[ ! -f $data/train.de && -f $data/train_sample.de ]]; then
        train=train_sample
        # A sample need not respect the split: what it shares with valid and test goes. The full set stays
        # as it is, few repetitions included, for scores are compared across papers.
        not_in=(--not-in "$data/valid" "$data/test")
        say "note: $data has no train, only train_sample: good for trying things out, not for scores to compare with other people's"
        [[ -z $codes && -s $data/bpe_codes.10k && $bpe_ops == 10000 ]] && codes=$data/bpe_codes.10k
    fi
    print=$("$PYTHON" "$prep/pairs.py" "$data"/{"$train",valid,test}) || die "IWSLT14 in $data cannot be used (for --data, see --help)"
    same_settings "$text" "iwslt14 data=$print bpe_ops=$bpe_ops codes=$codes"
    "$PYTHON" "$prep/tokenize_pairs.py" "$data/$train" "$text/tmp/train" --tokenised --max-tokens 175 "${not_in[@]}"
    for split in valid test; do
        "$PYTHON" "$prep/tokenize_pairs.py" "$data/$split" "$text/tmp/$split" --tokenised
    done
fi
bpe train valid test
say "text: $text (TEXT=$text for a fairseq-preprocess of your own)"
[[ -n $text_only ]] && exit 0
"$PYTHON" "$prep/binarise.py" --text "$text" --dest "$dest" --workers "$workers"
