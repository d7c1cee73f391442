"""Raw sentence pairs to lower-cased Moses tokens (sacremoses), with the usual cleaning.

    python data-prep/tokenize_pairs.py raw/train tmp/train --normalise --max-tokens 175 --max-ratio 1.5

Cleaning is for training data only; without its options every line is kept, empty ones too, so that
a test set keeps the order and the number of its sentences.
"""

from __future__ import annotations

import argparse
import sys

from pairs import BREAKS, LANGS, CorpusError, is_complete, read_pair, write_pair
from sacremoses import MosesPunctNormalizer, MosesTokenizer
from tqdm import tqdm
from whole_files import check_file


def tokenizer(lang: str, normalise: bool):
    """Return a function from a raw line to its lower-cased tokens, joined by single spaces."""
    moses = MosesTokenizer(lang=lang)
    punctuation = MosesPunctNormalizer(lang=lang)

    def tokenize(line: str) -> str:
        if normalise:
            line = punctuation.normalize(line)
        # Lower-cased last: the tokeniser tells abbreviations from sentence ends by their case.
        return " ".join(moses.tokenize(line)).lower()

    return tokenize


def is_clean(source: str, target: str, max_tokens: int, max_ratio: float) -> bool:
    """Apply the rule of Moses' clean-corpus-n: 1 to max_tokens tokens a side, neither side longer than
    max_ratio times the other."""
    shorter, longer = sorted((len(source.split()), len(target.split())))
    return 1 <= shorter and longer <= max_tokens and longer <= max_ratio * shorter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", metavar="RAW", help="prefix of the raw files")
    parser.add_argument("out", metavar="OUT", help="prefix of the files to write")
    parser.add_argument("--langs", nargs=2, default=list(LANGS), metavar=("SOURCE", "TARGET"))
    parser.add_argument(
        "--tokenised", action="store_true", help="the input is tokenised and lower-cased already"
    )
    parser.add_argument("--normalise", action="store_true", help="normalise punctuation first")
    parser.add_argument(
        "--max-tokens", type=int, help="drop pairs with an empty side or more tokens than this"
    )
    parser.add_argument(
        "--max-ratio", type=float, default=float("inf"), help="drop pairs more uneven than this"
    )
    parser.add_argument(
        "--not-in",
        nargs="*",
        default=[],
        metavar="PREFIX",
        help="drop pairs whose source sentence occurs in these tokenised splits",
    )
    parser.add_argument("--hold-out", metavar="PREFIX", help="write every 23rd pair here instead of to OUT")
    args = parser.parse_args()
    langs = tuple(args.langs)

    outputs = [args.out, args.hold_out] if args.hold_out else [args.out]
    if all(is_complete(prefix, langs, for_fairseq=True) for prefix in outputs):
        print(f"{args.out}: done before", file=sys.stderr)
        return
    try:
        for path in (f"{prefix}.{lang}" for prefix in outputs for lang in langs):
            check_file(path)
        raw = read_pair(args.raw, langs)
        forbidden = {source for prefix in args.not_in for source, _ in read_pair(prefix, langs)}
    except (CorpusError, OSError) as error:
        sys.exit(f"error: {error}")

    if args.tokenised:
        pairs = [(BREAKS.sub(" ", source), BREAKS.sub(" ", target)) for source, target in raw]
        changed = sum(one != other for one, other in zip(raw, pairs))
        if changed:
            print(f"{args.raw}: U+2028 or its like in {changed:,} pairs, taken for a space", file=sys.stderr)
    else:
        of_source, of_target = (tokenizer(lang, args.normalise) for lang in langs)
        progress = tqdm(raw, args.out, unit=" pairs", mininterval=1)
        pairs = [(of_source(source), of_target(target)) for source, target in progress]
    if args.max_tokens is not None:
        pairs = [pair for pair in pairs if is_clean(*pair, args.max_tokens, args.max_ratio)]
    pairs = [pair for pair in pairs if pair[0] not in forbidden]
    if len(pairs) < len(raw):
        print(f"{args.out}: {len(raw) - len(pairs):,} of {len(raw):,} pairs dropped", file=sys.stderr)

    held_out = pairs[22::23] if args.hold_out else []
    kept = [pair for i, pair in enumerate(pairs) if i % 23 != 22] if args.hold_out else pairs
    if not kept or (args.hold_out and not held_out):
        sys.exit(f"error: {args.raw}: only {len(pairs)} of {len(raw)} pairs are left after cleaning: too few")
    try:
        if args.hold_out:
            write_pair(args.hold_out, held_out, langs)
        write_pair(args.out, kept, langs)
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
