"""What a finished training is summed up in: the heads it keeps, its score, its record."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Optional

from fairseq.models import ARCH_MODEL_REGISTRY

from ....records.record import Metric, kept_heads, new_record, save_record
from ....reports.pictures.heads import head_map_text
from ...checkpoints.checkpoint import load_checkpoint, model_options
from ...heads.checkpoint_heads import (
    SCORES,
    gates_of_checkpoint,
    head_map_of_state,
    heads_of_checkpoint,
    in_original_numbers,
    model_of_checkpoint,
)
from ...heads.gated_model import GatedTransformerModel
from ...heads.history import read_history
from ...heads.schedule import recorded
from ...training.coverage import COVERAGE, Coverage
from .refusals import raise_errors, run_program


def summarise_training(
    save_dir: str,
    seconds: float,
    method: Optional[str] = None,
    name: Optional[str] = None,
    extra: Optional[Callable[[], dict]] = None,
) -> None:
    """Print which heads the finished training keeps and write `results.json` beside its checkpoints.

    Args:
        seconds: what it took, where its checkpoints do not say.
        method: label of the record; by default what the trained model's own options say.
        extra: asked for what else the record is to say.
    """
    path = result_of(save_dir)
    if path is None:
        print(f"| no checkpoint was saved in {save_dir}")
        return
    candidate = os.path.basename(path)
    state = load_checkpoint(path)
    heads = in_original_numbers(state, heads_of_checkpoint(state))
    history = state.get("optimizer_history") or [{}]
    is_best = candidate == "checkpoint_best.pt"
    score = (state.get("extra_state") or {}).get("best" if is_best else "val_loss")
    cfg = state.get("cfg") or {}
    metric_name = (cfg.get("checkpoint") or {}).get("best_checkpoint_metric", "loss")
    common = cfg.get("common") or {}
    # fairseq chooses the best checkpoint by the first of its validation sets
    subset = (cfg.get("dataset") or {}).get("valid_subset", "valid").split(",")[0]
    covered = ((state.get("task_state") or {}).get(COVERAGE) or {}).get(subset)
    subset = Coverage(*covered).label(subset) if covered else subset
    record = new_record(
        "mt-train",
        name or os.path.basename(os.path.abspath(save_dir)),
        method or _label(state),
        device="cpu" if common.get("cpu") else None,
        seed=common.get("seed"),
        heads=kept_heads(heads.head_map.to_dict(), heads.keep.tolist()),
        seconds={"train": _training_time(save_dir) or seconds},
        updates=history[-1].get("num_updates"),
        metrics=[Metric(name=metric_name, value=float(score), subset=subset)] if score is not None else [],
        extra={
            "checkpoint": candidate,
            "history": read_history(save_dir),
            **_schedule(state),
            **(extra() if extra else {}),
        },
    )
    written = save_record(record, os.path.join(save_dir, "results.json"))
    print(head_map_text(heads.head_map.to_dict(), heads.keep.tolist()))
    if heads.method is not None:
        model_class, options = model_of_checkpoint(state)
        now = head_map_of_state(state["model"], options)
        for remark in model_class.remarks(options, gates_of_checkpoint(state, now)):
            print(f"| {remark}")
    if score is not None:
        print(f"| {'best ' if is_best else ''}{metric_name} on {subset}: {float(score):.4g}")
    print(f"| {candidate} in {save_dir}; record: {written}", flush=True)


def result_of(save_dir: str) -> Optional[str]:
    """Return the checkpoint that a training comes to: the best, or the last where heads close one by one.

    A best checkpoint that the last one knows nothing of is another training's, which was in the folder
    before.
    """
    best, last = (os.path.join(save_dir, f"checkpoint_{name}.pt") for name in ("best", "last"))
    if not os.path.isfile(last):
        return best if os.path.isfile(best) else None
    state = load_checkpoint(last)
    if SCORES in state["model"]:
        model_class, options = model_of_checkpoint(state)
        if model_class.sparsifies(options):
            return last
    if os.path.isfile(best) and _best_score(load_checkpoint(best)) == _best_score(state):
        return best
    return last


def _best_score(state: dict) -> Optional[float]:
    """Return the best validation of a training, up to a checkpoint of it."""
    return (state.get("extra_state") or {}).get("best")


def _training_time(save_dir: str) -> float:
    """Return the seconds a training took, over all its starts; 0 where its last checkpoint is not there."""
    last = os.path.join(save_dir, "checkpoint_last.pt")
    state = load_checkpoint(last) if os.path.isfile(last) else {}
    return float((state.get("extra_state") or {}).get("previous_training_time", 0.0))


def _label(state: dict) -> str:
    """Return the method that a checkpoint's own options name."""
    model_class, options = _model_of(state)
    return "no-pruning" if model_class is None else model_class.label(model_class.with_defaults(options))


def _schedule(state: dict) -> dict:
    """Return what the record says of the schedule of a choice of heads; nothing where none was learned."""
    model_class, options = _model_of(state)
    found = {} if model_class is None else recorded(model_class, options)
    return {"schedule": found} if found else {}


def _model_of(state: dict) -> tuple[Optional[type[GatedTransformerModel]], dict]:
    """Return a checkpoint's model, None where it is none of ours, and its options as they were given."""
    options = model_options(state)
    model_class = ARCH_MODEL_REGISTRY.get(options.get("_name") or options.get("arch"))
    ours = model_class is not None and issubclass(model_class, GatedTransformerModel)
    return (model_class if ours else None), options


def main(argv: Sequence[str]) -> None:
    """Sum up a finished training of stock fairseq's, which writes no record itself."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("save_dir", metavar="SAVE_DIR", help="the training's")
    parser.add_argument("--method", help="name of the method in the record (default: by the options)")
    parser.add_argument("--record-name", help="name of the setting in the record (default: SAVE_DIR's)")
    raise_errors(parser)
    given = parser.parse_args(argv)
    if result_of(given.save_dir) is None:
        raise ValueError(f"{given.save_dir} has no checkpoint")
    summarise_training(given.save_dir, 0.0, given.method, given.record_name)


if __name__ == "__main__":
    from dsp_plugin import register

    register()
    run_program(main, sys.argv[1:])
