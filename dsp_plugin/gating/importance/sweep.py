"""A sweep: heads of a model go step by step, and every step is saved, so that it can go on from there.

A step's file holds its mask in the form that `dsp prune --mask` takes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...records.files.claim import claimed
from ...records.files.sealed import DamagedError, read_json, write_json
from ...records.settings import other_settings, refusal
from ..budget import HeadBudget
from ..head_map import HeadMap
from .removal_order import ImportanceOf, remove_stepwise

Step = dict[str, Any]
"""step, kept, blocks, keep [N] of booleans, removed (in their order), importance [N] or null, scores,
settings."""


class Sweep:
    """The steps of one sweep in a folder.

    Args:
        folder: where `step-XX.json` and `mask-K<k>.json` go.
        settings: all that decides which heads go when and how they are scored; JSON.
        head_map: the model's heads, N.
        metric, decimals: what a score's "value" is and how it is shown in the lines of progress.
        folder_option: the option that names the folder.

    Raises:
        OptionError: the folder holds steps of other settings; says which. ValueError: a step is damaged.
    """

    def __init__(
        self,
        folder: str,
        settings: dict[str, Any],
        head_map: HeadMap,
        metric: str,
        folder_option: str,
        decimals: int = 2,
    ):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.head_map = head_map
        self.metric, self.decimals = metric, decimals
        self.folder_option = folder_option
        self.steps: list[Step] = self._read()

    def run(
        self,
        keep: Tensor,
        kept_after: Sequence[int],
        importance_of: ImportanceOf,
        score: Callable[[Tensor, str], Mapping[str, Any]],
        subsets: Callable[[int], Sequence[str]],
        budget: HeadBudget | None = None,
        exact: bool = False,
        masks_of: Sequence[int] = (),
        say: Callable[[str], None] = print,
    ) -> list[Step]:
        """Do the steps that are missing, to the last of `kept_after`.

        Args:
            keep: bool [N], heads of the full model.
            kept_after, importance_of, budget, exact: see `remove_stepwise`.
            score: (keep, subset) -> {"value": score, ...}, JSON, of the model with those heads.
            subsets: number of heads kept -> what to score.
            masks_of: numbers of heads that get a `mask-K<k>.json`.
            say: shows a line of progress.

        Raises:
            ValueError: another program is at work in the folder.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        first = not distributed or torch.distributed.get_rank() == 0
        with claimed(self.folder_option, self.folder) if first else contextlib.nullcontext():
            if self.steps:
                say(f"going on from step {self.steps[-1]['step']} of {len(kept_after)} in {self.folder}")
            else:
                self._save(self._step(0, keep, [], None))
            for step in self.steps:
                self._score(step, score, subsets, masks_of, say)
            last = self.steps[-1]
            keep, known = torch.tensor(last["keep"], dtype=torch.bool), last["importance"]
            importance = None if known is None else torch.tensor(known, dtype=torch.float64)
            to_come = kept_after[last["step"] :]
            for removal in remove_stepwise(importance_of, keep, to_come, budget, exact, importance):
                step = self._step(len(self.steps), removal.keep, removal.removed, removal.importance)
                self._save(step)
                self._score(step, score, subsets, masks_of, say)
            return self.steps

    def removed(self) -> list[int]:
        """List all heads that went, in their order."""
        return [head for step in self.steps for head in step["removed"]]

    def _step(self, number: int, keep: Tensor, removed: list[int], importance: Tensor | None) -> Step:
        return {
            "step": number,
            "kept": int(keep.sum()),
            **self.head_map.to_dict(),
            "keep": keep.tolist(),
            "removed": list(removed),
            "importance": None if importance is None else importance.double().tolist(),
            "scores": {},
            "settings": self.settings,
        }

    def _score(self, step: Step, score, subsets, masks_of, say) -> None:
        keep = torch.tensor(step["keep"], dtype=torch.bool)
        if step["kept"] in masks_of:
            mask = json.dumps({"blocks": step["blocks"], "keep": step["keep"]}, indent=1)
            write_json(os.path.join(self.folder, f"mask-K{step['kept']}.json"), mask + "\n")
        for subset in subsets(step["kept"]):
            if subset not in step["scores"]:
                step["scores"][subset] = score(keep, subset)
                self._save(step)
        shown = f"step {step['step']}: {step['kept']} of {self.head_map.num_heads} heads"
        for subset, found in step["scores"].items():
            shown += f"  {self.metric} on {subset} {found['value']:.{self.decimals}f}"
        say(shown)

    def _save(self, step: Step) -> None:
        write_json(self._path(step["step"]), json.dumps(step) + "\n")
        if step["step"] == len(self.steps):
            self.steps.append(step)

    def _path(self, number: int) -> str:
        return os.path.join(self.folder, f"step-{number:02d}.json")

    def _read(self) -> list[Step]:
        steps: list[Step] = []
        advice = "delete it and start again, the steps before it are kept"
        while os.path.isfile(path := self._path(len(steps))):
            try:
                step = read_json(path)
                settings, count = step["settings"], len(step["keep"])
                sound = (
                    step["step"] == len(steps)
                    and sum(step["keep"]) == step["kept"]
                    and count == self.head_map.num_heads
                )
            except DamagedError as error:
                raise ValueError(f"{error}; {advice}") from None
            except (KeyError, TypeError):
                sound = False
            if not sound:
                raise ValueError(f"{path} is damaged: {advice}")
            if differing := other_settings(settings, self.settings):
                remedy = "choose another folder, or delete that one"
                raise refusal(f"{self.folder} holds a sweep", differing, remedy, self.folder_option)
            steps.append(step)
        return steps
