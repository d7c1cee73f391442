#!/usr/bin/env bash
# The official GLUE files of the eight tasks, into the folder `original` beside this script.
#
#   bash data/download_dataset.sh            all eight: CoLA SST-2 MRPC QQP MNLI QNLI RTE STS-B
#   bash data/download_dataset.sh CoLA MRPC
#
# A task in $DSP_DATA_DIR/glue is copied from there, the others are fetched (data-prep/download_glue_data.py); what
# is there already is left alone. ORIGINAL=folder puts them elsewhere. Next: tools/generate_k_shot_data.py.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../../../data-prep/lib.sh"

case ${1:-} in
-h | --help) usage ;;
-*) die "$1: give names of tasks, or nothing (see --help)" ;;
esac
(($#)) || set -- CoLA SST-2 MRPC QQP MNLI QNLI RTE STS-B
find_python
need_modules tqdm
tasks=$(IFS=, && echo "$*")
exec "$PYTHON" "$prep/download_glue_data.py" --data_dir "${ORIGINAL:-$here/original}" --task "$tasks"
