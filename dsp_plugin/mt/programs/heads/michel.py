"""What `run_michel.py` does: the checks before any long work, the sweep, the record at the end."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from ....gating import Step, Sweep, plan_removal
from ....options.errors import OptionError
from ....records.files.whole import check_folder
from ....records.record import Metric, Record, fingerprint, kept_heads, new_record, save_record
from ....reports.pictures.heads import head_map_text
from ...checkpoints.checkpoint import check_same_sizes, load_checkpoint
from ...heads.checkpoint_heads import SCORES, heads_of_checkpoint
from ...heads.feed_forward import NEURONS
from ...heads.importance import MAX_TOKENS, SentenceRanking, batches_of
from ...surgery.fewer_heads import model_without
from ...surgery.pruning import CheckpointModel, prepare, remove_heads
from ...training.data_checks import data_fingerprint
from ...training.dictionaries import check_dictionaries
from ...training.option_checks import check_options
from ...translate.scoring import score_model
from ...translate.translate import translation_task
from ..chassis.argv import given
from ..chassis.launch import hush_hosts
from .michel_options import fairseq_options, own_options


def run(argv: Sequence[str]) -> Record:
    """Remove heads step by step, scoring what is left, as the command line of `run_michel.py` asks.

    Raises:
        ValueError, OSError: options, checkpoint or data that cannot be; before any long work.
    """
    hush_hosts()
    # as fairseq's own programs, but of its messages only the progress bar's
    logging.basicConfig(
        format="%(asctime)s | %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
        force=True,
    )
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    logging.getLogger("fairseq.logging").setLevel(logging.INFO)
    own, rest = own_options().split(argv)
    check_options(own)
    args, ignored = fairseq_options(rest)
    if ignored:
        print(f"| without a meaning here, so ignored: {' '.join(ignored)}", flush=True)
    path = args.path or args.restore_file
    if path == "checkpoint_last.pt" and not os.path.isfile(path):  # fairseq's default
        reason = "is missing: name the trained checkpoint whose heads are to be removed"
        raise OptionError("restore_file", reason)
    folder = own.save_dir or os.path.join("michel_results", _default_name(path, own, args.seed))
    check_folder("--save-dir", folder)
    state = load_checkpoint(path)
    source = prepare(state, own.neurons)
    if {"-a", "--arch"} & set(given(rest)):
        check_same_sizes(path, source.options, vars(args))
    keep = heads_of_checkpoint({**state, "model": source.tensors}).keep if SCORES in source.tensors else None
    keep = torch.ones(source.head_map.num_heads, dtype=torch.bool) if keep is None else keep
    if own.num_of_heads is None:
        reason = "is missing: give the number of heads to remove a step (a step here, not a budget)"
        raise OptionError("num_of_heads", reason)
    if source.head_map.mixed:
        _check_mixed(own)
    ends = own.heads_per_kind, own.min_heads_per_block
    plan = plan_removal(source.head_map, int(keep.sum()), own.num_of_heads, own.budgets, *ends)
    kept_after = plan.kept_after
    ranking = SentenceRanking(
        own.rank_by,
        own.batch_importance,
        not own.dont_normalize_importance_by_layer,
        not own.dont_normalize_global_importance,
        own.importance_samples,
        args.seed,
        args.max_tokens or (None if args.batch_size else MAX_TOKENS),
        args.batch_size,
    )
    ranking.check()

    asked = [] if own.no_scores else own.eval_subset
    subsets = list(dict.fromkeys(subset for given in asked for subset in given.split(",")))
    needed = {**dict.fromkeys(subsets, "eval_subset")}
    if ranking.rank_by == "importance":
        needed[own.importance_subset] = "importance_subset"
    task = _task(args, needed)
    check_dictionaries(state.get("task_state"), task, path)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    search = {**args.search, "beam": args.beam, "batch_size": args.batch_size or 64}
    dataset = task.datasets.get(own.importance_subset)
    sentences = (
        0
        if ranking.rank_by != "importance"
        else sum(len(batch) for batch in batches_of(dataset, task, ranking))
    )

    def score(mask: torch.Tensor, subset: str):
        model = model_without(source, mask, task).to(device)
        return score_model(model, task, subset, args.post_process, not own.no_detok, **search)

    sweep = Sweep(folder, _settings(path, own, args, ranking, search), source.head_map, "BLEU", "save_dir")
    model = model_without(source, torch.ones_like(keep), task).to(device)
    bar = args.log_format or ("simple" if args.no_progress_bar else "tqdm")
    wanted = set(own.budgets) | {int(keep.sum()), kept_after[-1] if kept_after else int(keep.sum())}
    started = time.time()
    steps = sweep.run(
        keep,
        kept_after,
        ranking.source(model, dataset, task, log_format=bar),
        score,
        lambda kept: subsets if not own.score_only_budgets or kept in wanted else [],
        plan.budget,
        own.exact_pruning and ranking.rank_by == "importance",
        [*own.budgets, *kept_after[-1:]] if own.budgets else kept_after,
        lambda line: print(f"| {line}", flush=True),
    )
    return _report(steps, source, own, args, ranking, path, folder, device, sentences, time.time() - started)


def _check_mixed(own: argparse.Namespace) -> None:
    """Refuse numbers that count heads and groups of neurons, which are not of one size, together."""
    if not own.heads_per_kind:
        reason = "is missing: heads and groups of neurons are not of one size, so the end is a number a kind "
        raise OptionError("heads_per_kind", f"{reason}(encoder-self=4,...,encoder-ffn=12,decoder-ffn=12)")
    if own.budgets:
        reason = "count heads and groups of neurons together: leave them out, {} says the end"
        raise OptionError("budgets", reason, "heads_per_kind")


def _task(args: argparse.Namespace, needed: dict[str, str]):
    """Load the translation task with these subsets ({subset: option that names it})."""
    folder = args.data.split(os.pathsep)[0]
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no prepared data: {folder} is not a folder")
    try:
        task = translation_task(args.data, None, args.source_lang, args.target_lang)
    except Exception as error:
        if type(error) is not Exception:
            raise
        # a bare one is how fairseq says that it finds no languages
        raise ValueError(f"{args.data}: {error}") from error
    for subset, name in needed.items():
        try:
            task.load_dataset(subset)
        except FileNotFoundError as error:
            there = sorted({file.split(".")[0] for file in os.listdir(folder) if file.endswith(".idx")})
            reason = f"{subset}: {args.data} has no such set; there are {', '.join(there)}"
            raise OptionError(name, reason) from error
    return task


def _default_name(path: str, own: argparse.Namespace, seed: int) -> str:
    how = {"importance": "exact" if own.exact_pruning else "one-shot", "random": f"random-seed{seed}"}
    return f"{_run_name(path)}-{how.get(own.rank_by, own.rank_by)}"


def _run_name(path: str) -> str:
    return os.path.basename(os.path.dirname(os.path.abspath(path))) or "model"


def _settings(path: str, own, args, ranking: SentenceRanking, search: dict[str, Any]) -> dict[str, Any]:
    """Collect all that the steps depend on; what is scored may change from one start to the next."""
    names = (
        "num_of_heads",
        "exact_pruning",
        "heads_per_kind",
        "min_heads_per_block",
        "importance_subset",
        "no_detok",
    )
    return {
        "checkpoint": fingerprint([path]),
        "data": data_fingerprint(args.data),
        **{name: getattr(own, name) for name in names},
        **({NEURONS: own.neurons} if own.neurons else {}),
        "budgets": sorted(own.budgets),
        **vars(ranking),
        "post_process": args.post_process,
        **search,
    }


def _report(
    steps: list[Step],
    source: CheckpointModel,
    own,
    args,
    ranking: SentenceRanking,
    path: str,
    folder: str,
    device,
    sentences: int,
    seconds: float,
) -> Record:
    """Print the table and the heads that are left, and write results.json."""
    last = steps[-1]
    pruned = remove_heads(source, torch.tensor(last["keep"], dtype=torch.bool))
    method = own.method or ("michel" if ranking.rank_by == "importance" else ranking.rank_by)
    metrics = [
        Metric("BLEU", found["value"], signature=found["signature"], subset=f"{subset}, K={step['kept']}")
        for step in steps
        for subset, found in step["scores"].items()
    ]
    curve = [
        {"kept": s["kept"], "BLEU": {name: found["value"] for name, found in s["scores"].items()}}
        for s in steps
    ]
    record = new_record(
        "mt-michel",
        own.record_name or _run_name(path),
        method,
        device=device,
        seed=args.seed,
        data=data_fingerprint(args.data),
        heads=kept_heads(pruned.head_map.to_dict(), pruned.keep.tolist()),
        parameters={"before": pruned.parameters_before, "after": pruned.parameters_after},
        seconds={"sweep": seconds},
        metrics=metrics,
        extra={
            "curve": curve,
            "removed": [head for step in steps for head in step["removed"]],
            "step": own.num_of_heads,
            "exact": own.exact_pruning,
            "importance_subset": own.importance_subset if ranking.rank_by == "importance" else None,
            "importance_sentences": sentences,
            "per_batch": ranking.per_batch,
        },
    )
    written = save_record(record, os.path.join(folder, "results.json"))
    names = list(dict.fromkeys(name for step in steps for name in step["scores"]))
    print("  ".join(["|    K", *(f"BLEU {name:>6}" for name in names)]))
    for step in steps:
        found = [step["scores"].get(name) for name in names]
        scores = [f"{score['value']:>11.2f}" if score else f"{'-':>11}" for score in found]
        print("  ".join([f"| {step['kept']:>4}", *scores]))
    shown = [step for step in steps if step["kept"] in own.budgets]
    shown = shown or [step for step in steps if step["kept"]][-1:]
    for step in shown:
        print(head_map_text({"blocks": step["blocks"]}, step["keep"]))
    print(f"| steps and masks: {folder}; record: {written}", flush=True)
    return record
