"""What is kept of a generation: score, record, masks and translations."""

from __future__ import annotations

import glob
import json
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch

from ...delta.artefact import DeltaFile
from ...delta.labels import label_of as delta_label
from ...diffs import DiffPack
from ...diffs.packs.summary import pack_label, record_figures
from ...dsee.artefact import DseeFile
from ...dsee.labels import label_of
from ...dsee.summary import summarise
from ...records.bleu import bleu, bleu_statistics, detokenize
from ...records.files.sealed import with_checksum
from ...records.files.whole import write_text
from ...records.record import Metric, Record, kept_heads, new_record, save_record
from ...records.sentences import save_sentences
from ...reports.pictures.heads import head_map_text
from ..checkpoints.checkpoint import model_options
from ..delta.account import figures_of
from ..heads.checkpoint_heads import CheckpointHeads
from ..training.coverage import Coverage
from ..training.data_checks import data_fingerprint
from ..translate.deployed_heads import heads_of_model, original_heads_of, parameters_of_model
from ..translate.hypotheses import Hypotheses


@dataclass(frozen=True)
class Beside:
    """What was put into the model of --path.

    Attributes:
        pack: of --diff-pack. update: of --dsee-checkpoint. delta: of --delta.
    """

    pack: Optional[DiffPack] = None
    update: Optional[DseeFile] = None
    delta: Optional[DeltaFile] = None

    @property
    def method(self) -> Optional[str]:
        """The name of the method in records; None where nothing was put in."""
        if self.delta is not None:
            return delta_label({method: part.stage for method, part in self.delta.parts.items()})
        if self.update is not None:
            return label_of(self.update.config)
        return pack_label(self.pack) if self.pack is not None else None

    def figures(self, own: Namespace) -> dict[str, Any]:
        """Return what the record says of it."""
        found: dict[str, Any] = {}
        if self.pack is not None:
            found["diff"] = record_figures(self.pack, os.path.getsize(own.diff_pack))
        if self.update is not None:
            found["dsee"] = _figures(self.update)
        if self.delta is not None:
            found["delta"] = {**figures_of(self.delta), "bytes": len(self.delta.to_bytes())}
        return found


@dataclass
class Generation:
    """A generation that has run, and what it was asked to do.

    Attributes:
        own: the options of `generate.own_options`. args: fairseq's.
        paths, states: the checkpoints. overrides: of --model-overrides.
        beside: what was put into them.
        ran: the models and what they translated. cfg: the configuration that they ran with.
        seconds: what it took.
    """

    own: Namespace
    args: Namespace
    paths: list[str]
    states: list[dict[str, Any]]
    overrides: dict[str, Any]
    beside: Beside
    ran: Hypotheses
    cfg: Any
    seconds: float


def keep_results(done: Generation) -> Record:
    """Score the translations, write all files of the record's folder, and print what they say."""
    own, args, models, first = done.own, done.args, done.ran.models, done.states[0]
    coverage = done.ran.coverage(args.gen_subset)
    subset = coverage.label(args.gen_subset)
    heads = [heads_of_model(model) for model in models]
    # a model whose heads were removed is described by the heads it once had
    shown = [original_heads_of(*both) for both in zip(models, heads)]
    parameters = [parameters_of_model(*each) for each in zip(models, heads, shown)]
    methods = [own.method or done.beside.method or _method(*each) for each in zip(heads, shown)]
    maps = [kept_heads(each.head_map.to_dict(), each.keep.tolist()) for each in shown]
    hypotheses, references = done.ran.texts(done.cfg)
    metrics, sentences = score(hypotheses, references, args, own.no_detok, first, subset)
    weights = next(models[0].parameters())
    default_name = os.path.basename(os.path.dirname(os.path.abspath(done.paths[0]))) or "model"
    several = [
        {"method": method, "heads": found, "parameters": count}
        for method, found, count in zip(methods, maps, parameters)
    ]
    record = new_record(
        "mt-bleu",
        own.record_name or default_name,
        methods[0] if len(set(methods)) == 1 else "ensemble",
        device=weights.device,
        seed=_training_seed(first) if own.record_seed is None else own.record_seed,
        data=data_fingerprint(args.data, args.gen_subset),
        heads=maps[0] if all(found == maps[0] for found in maps) else None,
        parameters={when: sum(count[when] for count in parameters) for when in ("before", "after")},
        seconds={"generate": done.seconds},
        updates=(first.get("optimizer_history") or [{}])[-1].get("num_updates"),
        metrics=metrics,
        extra={
            "beam": args.beam,
            "models": len(models),
            "sentences": coverage.covered,
            **({} if coverage.whole else {"sentences_of_set": coverage.total}),
            **({"ensemble": several} if len(several) > 1 else {}),
            **({"model_overrides": done.overrides} if done.overrides else {}),
            **({"dtype": str(weights.dtype).split(".")[-1]} if weights.dtype != torch.float32 else {}),
            **done.beside.figures(own),
        },
    )
    folder = own.record_dir or os.path.join("dsp_results", f"{default_name}-{subset}")
    numbers = None if coverage.whole else done.ran.numbers()
    written = write_results(folder, record, heads, hypotheses, sentences, numbers, coverage)
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


def score(
    hypotheses: list[str], references: list[str], args, no_detok: bool, state: dict[str, Any], subset: str
) -> tuple[list[Metric], Optional[dict[str, Any]]]:
    """Score the translations by sacreBLEU, detokenised unless they are already; nothing without references.

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
    signature = result["signature"]
    sentences = {"metric": "BLEU", "signature": signature, "statistics": statistics}
    return [Metric(name="BLEU", value=result["value"], signature=signature, subset=subset)], sentences


def write_results(
    folder: str,
    record: Record,
    heads: Sequence[CheckpointHeads],
    hypotheses: list[str],
    sentences: Optional[dict[str, Any]] = None,
    numbers: Optional[Sequence[int]] = None,
    coverage: Optional[Coverage] = None,
) -> str:
    """Write `results.json`, `mask.json` (one mask a model), `translations.txt` and, where there are
    references, `sentences.json` (see `score`), each whole or not at all.

    Args:
        numbers: of the translated sentences within the set, where these are not all: each then stands before
            its translation and `coverage` in the file's name.

    Returns:
        The name of the file of translations.
    """
    os.makedirs(folder, exist_ok=True)
    masks = [with_checksum({**model.head_map.to_dict(), "keep": model.keep.tolist()}) for model in heads]
    text = json.dumps(masks[0] if len(masks) == 1 else masks, indent=1)
    write_text(os.path.join(folder, "mask.json"), text + "\n")
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


def _figures(file: DseeFile) -> dict[str, Any]:
    """Return what a record says of an update: its sizes, and how it was made."""
    found = summarise(file).to_dict()
    config = {name: value for name, value in found.pop("config").items() if name != "model_config"}
    return {"positions": found["trained"], "bytes": found["file_bytes"], **found, **config}


def _method(heads: CheckpointHeads, original: CheckpointHeads) -> str:
    if heads.method is not None:
        return heads.method
    return "unpruned" if original.keep.all() else "pruned"


def _training_seed(state: dict[str, Any]) -> Optional[int]:
    common = (state.get("cfg") or {}).get("common") or {}
    return common.get("seed", model_options(state).get("seed"))
