"""Translate and score with fairseq's own generation program, keeping what a record needs."""

import argparse
import ast
import json
import os
import sys
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, TextIO, Tuple

import torch

from ..diffs import DiffPack
from ..diffs.pack_summary import told_of_pack
from ..reports.files import write_text
from ..reports.sealed import with_checksum
from ..reports.head_pictures import head_map_text
from ..reports.records import Metric, Record, fingerprint, kept_heads, new_record, save_record
from ..reports.scores import bleu, bleu_statistics, detokenize
from ..reports.sentences import save_sentences
from .checkpoints import load_checkpoint, model_options
from .diff_base import read_pack
from .diff_packs import label_of
from .heads import CheckpointHeads, heads_of_checkpoint, in_original_numbers, parameters_of_head
from .launch import PLUGIN_DIR, hush_hosts, option
from .pruning import count_parameters


class TranslationLog:
    """A text stream that passes fairseq's output on and keeps the best translations and references.

    Args:
        out: where the output goes.
        quiet: hold back the sentence lines (S-, T-, H-, D-, P-, A-, I-, E-), as fairseq's `--quiet` does.
    """

    def __init__(self, out: TextIO, quiet: bool):
        self.out, self.quiet = out, quiet
        self.hypotheses: Dict[int, str] = {}
        self.scores: Dict[int, float] = {}
        self.references: Dict[int, str] = {}
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
        elif is_sentence and kind == "D" and int(number) not in self.hypotheses:  # the first is the best of --nbest
            score, _, translation = content.partition("\t")
            self.hypotheses[int(number)], self.scores[int(number)] = translation, float(score)
        if not (self.quiet and is_sentence):
            self.out.write(line + "\n")

    def pairs(self) -> Tuple[List[str], List[str]]:
        """Translations and references in the order of the test set; no references, empty list."""
        order = sorted(self.hypotheses)
        references = [self.references[i] for i in order] if self.references else []
        return [self.hypotheses[i] for i in order], references


def own_options() -> argparse.ArgumentParser:
    """The options `generate_dsp.py` and its like add to fairseq-generate's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num-of-heads", type=int, help="K to deploy, instead of the checkpoint's own")
    parser.add_argument("--record-dir", help="folder for results.json, mask.json, the translations and sentences.json")
    parser.add_argument("--record-name", help="name of the setting in the record (default: the checkpoint's folder)")
    parser.add_argument("--method", help="name of the method in the record")
    parser.add_argument("--no-detok", action="store_true", help="score the text as it is, not Moses-detokenised")
    return parser


def generate(argv: Sequence[str]) -> Record:
    """Run `fairseq-generate` in this process; print sacreBLEU and the kept heads; write the record.

    Raises:
        ValueError: K outside 0..N, a damaged or hostile checkpoint, checkpoints that do not exist.
    """
    from fairseq import options, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli import generate as fairseq_generate

    from .. import register

    register()
    hush_hosts()
    own, rest = own_options().parse_known_args(list(argv))
    pack_path = option(rest, "--diff-pack")
    task = "diff_translation" if pack_path else "dsp_translation"
    for name, default in (("--user-dir", PLUGIN_DIR), ("--task", task)):
        if option(rest, name) is None:
            rest += [name, default]
    parser = options.get_generation_parser()
    args = options.parse_args_and_arch(parser, input_args=rest)
    if not args.path:
        raise ValueError("--path: name the checkpoint to translate with (several, joined by ':', make an ensemble)")

    pack = read_pack(pack_path, "--diff-pack") if pack_path else None
    paths = utils.split_paths(args.path)
    states = [load_checkpoint(path) for path in paths]
    heads = [heads_of_checkpoint(state, own.num_of_heads) for state in states]
    if own.num_of_heads is not None:
        # the K best of all heads, whatever the training's budget was
        budget = {"num_of_heads": own.num_of_heads, "heads_per_kind": None, "min_heads_per_block": 0}
        args.model_overrides = repr({**ast.literal_eval(args.model_overrides), **budget})
    quiet, args.quiet = args.quiet, False

    started = time.time()
    with _output(args.results_path, args.gen_subset) as out:
        log = TranslationLog(out, quiet)
        fairseq_generate._main(convert_namespace_to_omegaconf(args), log)
    seconds = time.time() - started

    # a model whose heads were removed is described by the heads it once had
    shown = [in_original_numbers(state, model_heads) for state, model_heads in zip(states, heads)]
    hypotheses, references = log.pairs()
    metrics, sentences = score(hypotheses, references, args, own.no_detok, states[0])
    default_name = os.path.basename(os.path.dirname(os.path.abspath(paths[0]))) or "model"
    record = new_record(
        "mt-bleu",
        own.record_name or default_name,
        own.method or _method(heads[0], shown[0], pack),
        device="cpu" if args.cpu or not torch.cuda.is_available() else None,
        seed=_training_seed(states[0]),
        data=data_fingerprint(args.data),
        heads=kept_heads(shown[0].head_map.to_dict(), shown[0].keep.tolist()),
        parameters=parameters_of(states[0], heads[0], shown[0]),
        seconds={"generate": seconds},
        updates=(states[0].get("optimizer_history") or [{}])[-1].get("num_updates"),
        metrics=metrics,
        extra={
            "beam": args.beam, "models": len(paths), "sentences": len(hypotheses),
            **({"diff": told_of_pack(pack, os.path.getsize(pack_path))} if pack else {}),
        },
    )
    folder = own.record_dir or os.path.join("dsp_results", f"{default_name}-{args.gen_subset}")
    write_results(folder, record, heads, hypotheses, sentences)
    for position, model_heads in enumerate(shown):
        if len(heads) > 1:
            print(f"| model {position + 1} of {len(heads)}")
        print(head_map_text(model_heads.head_map.to_dict(), model_heads.keep.tolist()))
    for metric in metrics:
        print(f"| {metric.name} on {metric.subset}: {metric.value:.2f}  {metric.signature}")
    print(f"| record, mask and translations: {folder}", flush=True)
    return record


def score(
    hypotheses: List[str], references: List[str], args, no_detok: bool, state: Dict[str, Any]
) -> Tuple[List[Metric], Optional[Dict[str, Any]]]:
    """sacreBLEU of the translations, detokenised unless they are already; nothing without references.

    Returns:
        The metrics, and what `sentences.json` is to hold (see reports/sentences.py).
    """
    if not references:
        return [], None
    if not no_detok and getattr(args, "tokenizer", None) is None:
        target = args.target_lang or ((state.get("cfg") or {}).get("task") or {}).get("target_lang") or "en"
        hypotheses, references = detokenize(hypotheses, target), detokenize(references, target)
    result = bleu(hypotheses, references)
    statistics = bleu_statistics(hypotheses, references)
    sentences = {"metric": "BLEU", "signature": result["signature"], "statistics": statistics}
    return [Metric(name="BLEU", value=result["value"], signature=result["signature"], subset=args.gen_subset)], sentences


def parameters_of(state: Dict[str, Any], heads: CheckpointHeads, original: CheckpointHeads) -> Dict[str, int]:
    """Parameters of the model with all the heads it once had, and with the deployed ones alone."""
    options = model_options(state)

    def of_heads(among: CheckpointHeads, which) -> int:
        sizes = [parameters_of_head(block, options) for block in among.head_map.blocks for _ in range(block.num_heads)]
        return sum(size for size, counts in zip(sizes, which) if counts)

    now = count_parameters(state["model"], options)
    without_heads = now - of_heads(heads, [True] * heads.head_map.num_heads)
    return {
        "before": without_heads + of_heads(original, [True] * original.head_map.num_heads),
        "after": without_heads + of_heads(original, original.keep),
    }


def data_fingerprint(data: str) -> str:
    """Fingerprint of a binarised folder: its dictionaries and every held-out set, the same for all of them."""
    folder = data.split(os.pathsep)[0]
    names = sorted(n for n in os.listdir(folder) if n.startswith(("dict.", "valid", "test")))
    return fingerprint([os.path.join(folder, name) for name in names])


def write_results(
    folder: str,
    record: Record,
    heads: Sequence[CheckpointHeads],
    hypotheses: List[str],
    sentences: Optional[Dict[str, Any]] = None,
) -> None:
    """`results.json`, `mask.json` (one mask a model), `translations.txt` and, where there are references,
    `sentences.json` (see `score`), each whole or not at all."""
    os.makedirs(folder, exist_ok=True)
    masks = [with_checksum({**model.head_map.to_dict(), "keep": model.keep.tolist()}) for model in heads]
    write_text(os.path.join(folder, "mask.json"), json.dumps(masks[0] if len(masks) == 1 else masks, indent=1) + "\n")
    write_text(os.path.join(folder, "translations.txt"), "".join(line + "\n" for line in hypotheses))
    save_sentences(folder, sentences)
    save_record(record, os.path.join(folder, "results.json"))


@contextmanager
def _output(folder: Optional[str], subset: str) -> Iterator[TextIO]:
    """Where fairseq's own output goes: standard output, or the file of its --results-path."""
    if folder is None:
        yield sys.stdout
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"generate-{subset}.txt"), "w", buffering=1, encoding="utf-8") as file:
        yield file


def _method(heads: CheckpointHeads, original: CheckpointHeads, pack: Optional[DiffPack]) -> str:
    if pack is not None:
        return label_of(pack)
    if heads.method is not None:
        return heads.method
    return "unpruned" if original.keep.all() else "pruned"


def _training_seed(state: Dict[str, Any]) -> Optional[int]:
    common = (state.get("cfg") or {}).get("common") or {}
    return common.get("seed", model_options(state).get("seed"))
