"""Translate and score with fairseq's own generation program, keeping what a record needs."""

import argparse
import ast
import glob
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional, TextIO

import torch

from ...diffs import DiffPack
from ...diffs.packs.summary import pack_label, record_figures
from ...records.bleu import bleu, bleu_statistics, detokenize
from ...records.files.sealed import with_checksum
from ...records.files.whole import check_folder, replacing, write_text
from ...records.record import Metric, Record, kept_heads, new_record, save_record
from ...records.sentences import save_sentences
from ...reports.pictures.heads import head_map_text
from ..checkpoints.checkpoint import load_checkpoint, model_options
from ..diffs.base import read_pack
from ..heads.checkpoint_heads import CheckpointHeads, heads_of_checkpoint
from ..training.coverage import Coverage
from ..training.data_checks import data_fingerprint
from ..training.option_checks import check_options
from ..translate.running import Running, heads_of_model, original_heads_of, parameters_of_model, watch_loading
from .launch import PLUGIN_DIR, hush_hosts, option, parse_for_fairseq
from .refusals import raise_errors


class TranslationLog:
    """A text stream that passes fairseq's output on and keeps the best translations and references.

    Args:
        out: where the output goes.
        quiet: hold back the sentence lines (S-, T-, H-, D-, P-, A-, I-, E-), as fairseq's `--quiet` does.
    """

    def __init__(self, out: TextIO, quiet: bool):
        self.out, self.quiet = out, quiet
        self.hypotheses: dict[int, str] = {}
        self.scores: dict[int, float] = {}
        self.references: dict[int, str] = {}
        self.names: dict[str, Callable[[], str]] = {}
        """Beginnings of lines, and what to put in their place."""
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        self.out.flush()

    def _take(self, line: str) -> None:
        kind, dash, rest = line[:1], line[1:2], line[2:]
        number, tab, content = rest.partition("\t")
        is_sentence = dash == "-" and tab and kind in "STHDPAIE" and number.partition("_")[0].isdigit()
        if is_sentence and kind == "T":
            self.references[int(number)] = content
        # the first is the best of --nbest
        elif is_sentence and kind == "D" and int(number) not in self.hypotheses:
            score, _, translation = content.partition("\t")
            self.hypotheses[int(number)], self.scores[int(number)] = translation, float(score)
        for start, instead in self.names.items():
            if not is_sentence and line.startswith(start):
                line = instead() + line[len(start) :]
        if not (self.quiet and is_sentence):
            self.out.write(line + "\n")

    def covered(self, ran: Running, subset: str) -> Coverage:
        """How many sentences of the set have a translation."""
        return Coverage(len(self.hypotheses), len(ran.task.dataset(subset)))

    def pairs(self) -> tuple[list[str], list[str]]:
        """Translations and references in the order of the test set; no references, empty list."""
        order = sorted(self.hypotheses)
        references = [self.references[i] for i in order] if self.references else []
        return [self.hypotheses[i] for i in order], references


def own_options() -> argparse.ArgumentParser:
    """The options `generate_dsp.py` and its like add to fairseq-generate's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num-of-heads", type=int, help="K to deploy, instead of the checkpoint's own")
    parser.add_argument(
        "--record-dir", help="folder for results.json, mask.json, the translations and sentences.json"
    )
    parser.add_argument(
        "--record-name", help="name of the setting in the record (default: the checkpoint's folder)"
    )
    parser.add_argument("--method", help="name of the method in the record")
    parser.add_argument(
        "--no-detok", action="store_true", help="score the text as it is, not Moses-detokenised"
    )
    return parser


def generate(argv: Sequence[str]) -> Record:
    """Run `fairseq-generate` in this process; print sacreBLEU and the kept heads; write the record.

    Raises:
        ValueError: K outside 0..N, a damaged or hostile checkpoint, checkpoints that do not exist.
    """
    from fairseq import options, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli import generate as fairseq_generate

    from ... import register

    register()
    hush_hosts()
    parser = own_options()
    raise_errors(parser)
    own, rest = parser.parse_known_args(list(argv))
    check_options(own)
    pack_path = option(rest, "--diff-pack")
    task = "diff_translation" if pack_path else "dsp_translation"
    for name, default in (("--user-dir", PLUGIN_DIR), ("--task", task)):
        if option(rest, name) is None:
            rest += [name, default]
    args = parse_for_fairseq(options.get_generation_parser, rest)
    for name, folder in (("--record-dir", own.record_dir), ("--results-path", args.results_path)):
        if folder is not None:
            check_folder(name, folder)
    if not args.path:
        raise ValueError(
            "--path: name the checkpoint to translate with (several, joined by ':', make an ensemble)"
        )

    if not 0 <= args.shard_id < args.num_shards:
        raise ValueError(
            f"--shard-id {args.shard_id}: one of 0..{args.num_shards - 1} of --num-shards "
            f"{args.num_shards} is wanted"
        )
    if args.num_shards > 1:  # fairseq's program has these options, but goes by those of distributed training
        args.distributed_world_size, args.distributed_rank = args.num_shards, args.shard_id
    pack = read_pack(pack_path, "--diff-pack") if pack_path else None
    paths = _files(args, utils.split_paths(args.path))
    states = [load_checkpoint(path) for path in paths]
    overrides = _overrides(args.model_overrides, states)
    if own.num_of_heads is not None:
        if overrides.get("num_of_heads", own.num_of_heads) != own.num_of_heads:
            raise ValueError(
                f"--num-of-heads {own.num_of_heads} and --model-overrides ask for two numbers "
                "of heads: leave one out"
            )
        # the K best of all heads, whatever the training's budget was
        budget = {"num_of_heads": own.num_of_heads, "heads_per_kind": None, "min_heads_per_block": 0}
        args.model_overrides = repr({**overrides, **budget})
    if not overrides:
        for state in states:  # says what is wrong with a checkpoint before any long work
            heads_of_checkpoint(state, own.num_of_heads)
    if args.results_path is not None:
        check_folder("--results-path", args.results_path)
    quiet, args.quiet = args.quiet, False

    started = time.time()
    with (
        watch_loading() as ran,
        _output(args.results_path, lambda: log.covered(ran, args.gen_subset).label(args.gen_subset)) as out,
    ):
        log = TranslationLog(out, quiet)
        log.names[f"Generate {args.gen_subset} "] = lambda: (
            f"Generate {log.covered(ran, args.gen_subset).label(args.gen_subset)} "
        )
        fairseq_generate._main(convert_namespace_to_omegaconf(args), log)
    seconds = time.time() - started

    coverage = log.covered(ran, args.gen_subset)
    subset = coverage.label(args.gen_subset)
    heads = [heads_of_model(model) for model in ran.models]
    # a model whose heads were removed is described by the heads it once had
    shown = [original_heads_of(*both) for both in zip(ran.models, heads)]
    parameters = [parameters_of_model(*each) for each in zip(ran.models, heads, shown)]
    methods = [own.method or _method(*each, pack) for each in zip(heads, shown)]
    maps = [kept_heads(each.head_map.to_dict(), each.keep.tolist()) for each in shown]
    hypotheses, references = log.pairs()
    metrics, sentences = score(hypotheses, references, args, own.no_detok, states[0], subset)
    weights = next(ran.models[0].parameters())
    default_name = os.path.basename(os.path.dirname(os.path.abspath(paths[0]))) or "model"
    several = [
        {"method": method, "heads": found, "parameters": count}
        for method, found, count in zip(methods, maps, parameters)
    ]
    record = new_record(
        "mt-bleu",
        own.record_name or default_name,
        methods[0] if len(set(methods)) == 1 else "ensemble",
        device=weights.device,
        seed=_training_seed(states[0]),
        data=data_fingerprint(args.data, args.gen_subset),
        heads=maps[0] if all(found == maps[0] for found in maps) else None,
        parameters={when: sum(count[when] for count in parameters) for when in ("before", "after")},
        seconds={"generate": seconds},
        updates=(states[0].get("optimizer_history") or [{}])[-1].get("num_updates"),
        metrics=metrics,
        extra={
            "beam": args.beam,
            "models": len(ran.models),
            "sentences": coverage.covered,
            **({} if coverage.whole else {"sentences_of_set": coverage.total}),
            **({"ensemble": several} if len(several) > 1 else {}),
            **({"model_overrides": overrides} if overrides else {}),
            **({"dtype": str(weights.dtype).split(".")[-1]} if weights.dtype != torch.float32 else {}),
            **({"diff": record_figures(pack, os.path.getsize(pack_path))} if pack else {}),
        },
    )
    folder = own.record_dir or os.path.join("dsp_results", f"{default_name}-{subset}")
    written = write_results(
        folder,
        record,
        heads,
        hypotheses,
        sentences,
        None if coverage.whole else sorted(log.hypotheses),
        coverage,
    )
    for position, model_heads in enumerate(shown):
        if len(heads) > 1:
            print(f"| model {position + 1} of {len(heads)}")
        print(head_map_text(model_heads.head_map.to_dict(), model_heads.keep.tolist()))
    if not coverage.whole:
        print(
            f"| ONLY {coverage.covered} OF {coverage.total} SENTENCES of {args.gen_subset} were "
            f"translated: {written} has their numbers"
        )
    for metric in metrics:
        print(f"| {metric.name} on {metric.subset}: {metric.value:.2f}  {metric.signature}")
    print(f"| record, mask and translations: {folder}", flush=True)
    return record


def _files(args, paths: Sequence[str]) -> list[str]:
    """The checkpoints that fairseq reads for these paths.

    Raises:
        ValueError: parts of checkpoints.
    """
    from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename

    if args.checkpoint_shard_count != 1:
        raise ValueError(
            f"--checkpoint-shard-count {args.checkpoint_shard_count}: only whole checkpoints "
            "are translated with (1)"
        )
    return [get_maybe_sharded_checkpoint_filename(path, args.checkpoint_suffix, 0, 1) for path in paths]


def _overrides(text: str, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """--model-overrides as a dictionary.

    Raises:
        ValueError: it is none, or has an option that no checkpoint has: fairseq would leave it out without a
            word.
    """
    try:
        overrides = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        raise ValueError(
            f"--model-overrides {text}: a Python dictionary is wanted, such as \"{{'num_of_heads': 6}}\""
        )
    known = set()
    for state in states:
        groups = state.get("cfg") or {"model": model_options(state)}
        for group, options in groups.items():
            options = vars(options) if isinstance(options, argparse.Namespace) else options
            known |= {group, *(options if isinstance(options, dict) else ())}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ValueError(f"--model-overrides: the checkpoint has no option {', '.join(unknown)}")
    return overrides


def score(
    hypotheses: list[str], references: list[str], args, no_detok: bool, state: dict[str, Any], subset: str
) -> tuple[list[Metric], Optional[dict[str, Any]]]:
    """sacreBLEU of the translations, detokenised unless they are already; nothing without references.

    Returns:
        The metrics, and what `sentences.json` is to hold (see records/sentences.py).
    """
    if not references:
        return [], None
    if not no_detok and getattr(args, "tokenizer", None) is None:
        target = args.target_lang or ((state.get("cfg") or {}).get("task") or {}).get("target_lang") or "en"
        hypotheses, references = detokenize(hypotheses, target), detokenize(references, target)
    result = bleu(hypotheses, references)
    statistics = bleu_statistics(hypotheses, references)
    sentences = {"metric": "BLEU", "signature": result["signature"], "statistics": statistics}
    return [
        Metric(name="BLEU", value=result["value"], signature=result["signature"], subset=subset)
    ], sentences


def write_results(
    folder: str,
    record: Record,
    heads: Sequence[CheckpointHeads],
    hypotheses: list[str],
    sentences: Optional[dict[str, Any]] = None,
    numbers: Optional[Sequence[int]] = None,
    coverage: Optional[Coverage] = None,
) -> str:
    """`results.json`, `mask.json` (one mask a model), `translations.txt` and, where there are references,
    `sentences.json` (see `score`), each whole or not at all.

    Args:
        numbers: of the translated sentences within the set, where these are not all: each then stands before
            its translation and `coverage` in the file's name.

    Returns:
        The name of the file of translations.
    """
    os.makedirs(folder, exist_ok=True)
    masks = [with_checksum({**model.head_map.to_dict(), "keep": model.keep.tolist()}) for model in heads]
    write_text(
        os.path.join(folder, "mask.json"), json.dumps(masks[0] if len(masks) == 1 else masks, indent=1) + "\n"
    )
    name, lines = "translations.txt", hypotheses
    if numbers is not None:
        name, lines = (
            coverage.label("translations") + ".txt",
            [f"{n}\t{line}" for n, line in zip(numbers, hypotheses)],
        )
    for other in glob.glob(os.path.join(glob.escape(folder), "translations*.txt")):
        if os.path.basename(other) != name:
            os.remove(other)  # of an earlier run
    write_text(os.path.join(folder, name), "".join(line + "\n" for line in lines))
    save_sentences(folder, sentences)
    save_record(record, os.path.join(folder, "results.json"))
    return name


@contextmanager
def _output(folder: Optional[str], label: Callable[[], str]) -> Iterator[TextIO]:
    """Where fairseq's own output goes: standard output, or the file of its --results-path, which appears when
    it is whole.

    Args:
        label: asked at the end for the set's name, which says how much of it there is.
    """
    if folder is None:
        yield sys.stdout
        return
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".generate-") as unfinished:
        path = os.path.join(unfinished, "output.txt")
        with open(path, "w", buffering=1, encoding="utf-8") as file:
            yield file
        with replacing(os.path.join(folder, f"generate-{label()}.txt")) as temporary:
            os.replace(path, temporary)


def _method(heads: CheckpointHeads, original: CheckpointHeads, pack: Optional[DiffPack]) -> str:
    if pack is not None:
        return pack_label(pack)
    if heads.method is not None:
        return heads.method
    return "unpruned" if original.keep.all() else "pruned"


def _training_seed(state: dict[str, Any]) -> Optional[int]:
    common = (state.get("cfg") or {}).get("common") or {}
    return common.get("seed", model_options(state).get("seed"))
