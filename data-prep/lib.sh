# Shared by the prepare-*.sh scripts: messages, options, the Python to use, steps that can be resumed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prep=$root/data-prep
export PYTHONUTF8=1

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# The script's own head comment is its help.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
}

# parse_options "$@": sets data, text, dest, codes and text_only; a script gives their defaults before.
parse_options() {
    while (($#)); do
        case $1 in
        -h | --help) usage ;;
        --text-only) text_only=yes ;;
        --data | --text | --dest | --codes)
            (($# > 1)) || die "$1 needs a value"
            [[ -n $2 ]] || die "$1 needs a value, not an empty one"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        *) die "unknown option $1 (see --help)" ;;
        esac
        shift
    done
    [[ -z $data || -e $data ]] || die "--data $data does not exist"
    [[ -z $codes || -s $codes ]] || die "--codes $codes is missing or empty"
    whole_number BPE_OPS "$bpe_ops"
    whole_number WORKERS "$workers"
}

whole_number() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1=$2: a whole number above 0 is wanted"
}

# PYTHON is the one that DSP_PYTHON names, else the active environment's, else the project's own, else
# any. (Not one from PYTHON itself: make exports that, and means the one that .venv was made from.)
find_python() {
    PYTHON=python3
    [[ -x $root/.venv/bin/python ]] && PYTHON=$root/.venv/bin/python
    [[ -n ${VIRTUAL_ENV:-} ]] && PYTHON=$VIRTUAL_ENV/bin/python
    PYTHON=${DSP_PYTHON:-$PYTHON}
    command -v "$PYTHON" >/dev/null || die "there is no $PYTHON"
}

need_modules() {
    local module
    for module in "$@"; do
        "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" ||
            die "$PYTHON has no $module: run 'make venv' first, or name another Python with DSP_PYTHON=..."
    done
}

need_tools() {
    find_python
    local modules=(sacremoses subword_nmt tqdm)
    [[ -n $text_only ]] || modules+=(fairseq)
    need_modules "${modules[@]}"
}

# local_copy NAME: data becomes that folder of DSP_DATA_DIR, where --data gave none.
local_copy() {
    [[ -n $data || -z ${DSP_DATA_DIR:-} ]] && return 0
    if [[ -d $DSP_DATA_DIR/$1 ]]; then
        data=$DSP_DATA_DIR/$1
    else
        say "note: DSP_DATA_DIR=$DSP_DATA_DIR has no folder $1: fetching"
    fi
}

# make_file FILE COMMAND...: FILE becomes the command's output, unless an earlier run made it.
make_file() {
    local file=$1 part
    shift
    [[ -s $file ]] && return 0
    part=$(mktemp "$(dirname "$file")/.$(basename "$file").XXXXXX")
    if ! "$@" >"$part"; then
        rm -f "$part"
        return 1
    fi
    chmod "$(printf %o $((0666 & ~$(umask))))" "$part"
    mv "$part" "$file"
}

# same_settings FOLDER SETTINGS: what an earlier run did only counts when it had the same settings.
same_settings() {
    local record=$1/settings
    mkdir -p "$1"
    if [[ -f $record && $(<"$record") != "$2" ]]; then
        die "$1 was made with other settings or from other data: remove it, or name another folder with --text
  then: $(<"$record")
  now:  $2"
    fi
    printf '%s\n' "$2" >"$record"
}

# bpe SPLIT...: joint BPE, learnt on $text/tmp/train.* unless $codes names ready-made codes, applied to every split.
bpe() {
    local split lang
    if [[ -n $codes ]]; then
        make_file "$text/code" cat "$codes"
    elif [[ ! -s $text/code ]]; then
        say "learning $bpe_ops BPE operations"
        cat "$text"/tmp/train.{de,en} >"$text/tmp/train.both"
        make_file "$text/code" "$PYTHON" -m subword_nmt.learn_bpe -s "$bpe_ops" -i "$text/tmp/train.both"
    fi
    for split in "$@"; do
        for lang in de en; do
            [[ -s $text/$split.$lang ]] || say "applying BPE: $text/$split.$lang"
            make_file "$text/$split.$lang" "$PYTHON" -m subword_nmt.apply_bpe -c "$text/code" -i "$text/tmp/$split.$lang"
        done
    done
}
