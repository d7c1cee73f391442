#!/usr/bin/env bash
# SQuAD v1.1: train-v1.1.json and dev-v1.1.json into one folder.
#
#   download_squad.sh [--data_dir DIR]
#
#   --data_dir DIR   where they go (default data/squad)
#
# A file that $DSP_DATA_DIR/squad has is copied from there, the other is fetched. Each is checked for its number of
# questions. Started again, it skips what is done. The address could only be tried online.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

address=https://rajpurkar.github.io/SQuAD-explorer/dataset
folder=data/squad
while (($#)); do
    case $1 in
    -h | --help) usage ;;
    --data_dir)
        [[ -n ${2:-} ]] || die "$1 needs a value"
        folder=$2
        shift
        ;;
    *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
find_python
need_modules tqdm

missing=()
for split in train:87599 dev:10570; do
    name=${split%:*}-v1.1.json
    check=("$PYTHON" "$prep/squad_questions.py" --published "${split#*:}")
    if [[ -f $folder/$name ]]; then
        "${check[@]}" "$folder/$name" || die "remove it, or name another folder with --data_dir"
        continue
    fi
    mkdir -p "$folder"
    # a folder of our own: nobody else can have put a link under the file's name
    part=$(mktemp -d "$folder/.squad.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    if [[ -n ${DSP_DATA_DIR:-} && -f $DSP_DATA_DIR/squad/$name ]]; then
        cp "$DSP_DATA_DIR/squad/$name" "$part/$name"
    elif ! "$PYTHON" "$prep/fetch.py" --at-most 100 "$address/$name" "$part/$name"; then
        rm -rf "$part"
        missing+=("$name")
        continue
    fi
    # the name comes last, so that a file that has it is whole
    "${check[@]}" "$part/$name" || die "$name is not what was expected"
    mv "$part/$name" "$folder/$name"
    rm -rf "$part"
done
((${#missing[@]} == 0)) || die "SQuAD lacks ${missing[*]}: go online, or put it into $folder or \$DSP_DATA_DIR/squad"
