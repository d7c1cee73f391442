"""Removal of a Transformers model's heads step by step, least important first, with scores at every step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...gating import HeadBudget, HeadMap, Step, Sweep, path_down
from ..probes.model_runs import evaluating
from .importance import Collate, ExampleRanking, gating_of, units_with_gates


def prune_by_importance(
    model: PreTrainedModel,
    dataset: Any,
    collate: Collate | None,
    folder: str | os.PathLike,
    step: int,
    evaluate: Callable[[str], Mapping[str, float]],
    exact: bool = False,
    ranking: ExampleRanking = ExampleRanking(),
    subsets: Sequence[str] = ("eval",),
    budgets: Sequence[int] = (),
    budget: HeadBudget | None = None,
    score_only_budgets: bool = False,
    settings: dict[str, Any] | None = None,
    folder_option: str = "output_dir",
    progress: bool = True,
    say: Callable[[str], None] = print,
    neurons: int | None = None,
    heads: bool = True,
) -> list[Step]:
    """Rank the heads, remove `step` of them, score the model, and so on (the loop of Michel et al. 2019).

    The last step is the smallest budget, or no heads. Every step is saved as it is made: mask, importance and
    scores; a second call with the same arguments goes on from there. The model's weights are not changed:
    heads are removed by their gates.

    Args:
        model: finetuned, with gates on it (which play no part) or without, on the device it is to run on.
        dataset, collate: the training set, on which importance is measured; see `measured_importance`. None
            for another ranking.
        folder: gets `step-XX.json`, and `mask-K<k>.json` of every budget (of every step, where there are no
            budgets).
        step: heads to remove at a time. A step that would miss a budget is shorter.
        evaluate: subset -> metrics, the first of them the one to show; called with the mask in force, so
            `trainer.evaluate(...)` or any other program that runs this model.
        exact: measure the importance again under the current mask before every step.
        ranking: the ranking's options.
        subsets: names of the subsets to score at every step; none for masks only.
        budgets: numbers of heads that the sweep lands on exactly; it stops at the smallest.
        budget: constraints at the end (heads by kind of attention, a minimum a block).
        score_only_budgets: score the full model, the budgets and the last step only.
        settings: further settings that decide the outcome (names of data sets, say): a folder that was made
            with other values is refused.
        folder_option: the option that names the folder.
        progress: show a bar while importance is measured, in the first process.
        say: called with a line for every step.
        neurons, heads: the units, see `head_map_of`; a gated model's are those that have gates. Heads and
            neurons together need a `budget` by kind.

    Returns:
        the steps, the full model's first: {"kept", "keep" [N], "removed", "importance" [N], "scores":
        {subset: {"value", "metrics"}}, ...}, see `Sweep`.

    Raises:
        OptionError: a step or budget that is not possible, an unknown ranking; the folder holds a sweep of
            other settings or of another model. ValueError: a step is damaged.
    """
    ranking.check()
    head_map = HeadMap([one.block for one in units_with_gates(model, neurons, heads)])
    kept_after, budgets, budget, _ = path_down(head_map, head_map.num_heads, step, budgets, budget)
    exact = exact and ranking.rank_by == "importance"
    decisive = {
        "model": _weights_fingerprint(model),
        "step": step,
        "exact": exact,
        "budgets": sorted(set(budgets)),
        "examples": 0 if ranking.rank_by != "importance" else len(ranking.sample(len(dataset))),
        **asdict(ranking),
        **(settings or {}),
    }
    sweep = Sweep(os.fspath(folder), decisive, head_map, "score", folder_option, decimals=4)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()  # all have read the folder before one writes into it
    wanted = {*budgets, head_map.num_heads, budget.total}
    importance = ranking.source(model, dataset, collate, progress, neurons, heads)
    all_heads = torch.ones(head_map.num_heads, dtype=torch.bool)
    masks_of = budgets or kept_after

    def subsets_at(num_heads: int) -> list[str]:
        return list(subsets) if not score_only_budgets or num_heads in wanted else []

    with evaluating(model), gating_of(model, neurons, heads) as board:

        def score(keep: Tensor, subset: str) -> dict[str, Any]:
            model.eval()
            with board.override(keep.float().to(next(model.parameters()).device)):
                metrics = {name: float(value) for name, value in evaluate(subset).items()}
            return {"value": next(iter(metrics.values())), "metrics": metrics}

        return sweep.run(all_heads, kept_after, importance, score, subsets_at, budget, exact, masks_of, say)


@torch.no_grad()
def _weights_fingerprint(model: PreTrainedModel) -> str:
    """Return a short hash of all weights but those of gates."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if not name.startswith("gating."):
            digest.update(name.encode())
            flat = weight.detach().cpu().contiguous().view(-1)  # [...] -> [number of weights]
            digest.update(flat.view(torch.uint8).numpy())  # -> [bytes]
    return digest.hexdigest()[:16]
