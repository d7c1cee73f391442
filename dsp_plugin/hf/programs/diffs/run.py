"""What the three stages of diff pruning share: their command line, their base and its task head, the pack
they score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from ....diffs import DiffPack, SparseDiff, frozen_names
from ....diffs.base import Base
from ....diffs.packs.summary import pack_label, record_figures
from ....records.record import portable_path
from ...diffs.training import find_task_head
from ..chassis.arguments import ModelArguments, ResultArguments
from ..chassis.models import load
from ..chassis.parsing import parse, say
from ..chassis.train import WORK, Run, Work, log_levels
from .arguments import DiffArguments, FixMaskArguments, ProjectionArguments

PACK = "task.diff.safetensors"  # in --output_dir, what a task ends in
# What a folder's config.json must say for the merged model to be the task's.
_CONFIG_ENTRIES = ("id2label", "label2id", "problem_type", "pad_token_id")


class DiffRun(Run):
    """One start of one of the programs.

    Attributes:
        task_head: names of its parameters, once the model is loaded.
        pack: the pack that is scored, once there is one.
    """

    pack: DiffPack | None = None
    pack_path: Path | None = None

    def __init__(
        self,
        method: DiffArguments,
        work: Work,
        options: ModelArguments,
        results: ResultArguments,
        args: TrainingArguments,
        projection: ProjectionArguments,
        fixmask: FixMaskArguments,
    ):
        super().__init__(method, work, options, results, args)
        self.method: DiffArguments = method
        self.projection, self.fixmask = projection, fixmask
        self.task_head: list[str] = []
        self.prepare()

    @classmethod
    def chosen(cls, method: DiffArguments) -> type[DiffRun]:
        """The class that does the work with these options."""
        return cls

    def prepare(self) -> None:
        """Raises: ValueError, OSError: options and files of this stage that cannot be, before anything is
        loaded.
        """

    def _base_model(self) -> PreTrainedModel:
        """The base with its task head, freshly loaded; sets `tokenizer` and `task_head`."""
        model, self.tokenizer, new = load(self.options, self.work)
        self.task_head = find_task_head(model, new, self.method.task_head or ())
        return model

    def _frozen(self, model: PreTrainedModel) -> list[str]:
        """What --fix_layer keeps at the base.

        Raises:
            ValueError: more layers than there are.
        """
        task_head = set(self.task_head)
        try:
            return frozen_names(
                [name for name, _ in model.named_parameters() if name not in task_head], self.method.fix_layer
            )
        except ValueError as error:
            raise ValueError(f"--fix_layer: {error}") from error

    def _write_pack(
        self,
        path: Path,
        model: PreTrainedModel,
        diff: SparseDiff,
        base: Base,
        task_head: dict[str, torch.Tensor],
        dtype: str,
        config: dict[str, Any],
    ) -> None:
        """The first process writes the pack, all read it back: `pack` is what the file says."""
        ours = model.config.to_dict()
        entries = {name: ours[name] for name in _CONFIG_ENTRIES if ours.get(name) is not None}
        config = {
            "task": self.work.name,
            "base_model": portable_path(self.options.model_name_or_path.rstrip("/")),
            "seed": self.args.seed,
            "model_config": {"architectures": [type(model).__name__], **entries},
            **config,
        }
        with self.args.main_process_first(desc="writing the pack"):
            if self.main:
                size = DiffPack.create(diff, base, task_head, config, dtype).save(path)
                say(f"pack: {path}, {size:,} bytes")
            self._use_pack(path, DiffPack.load(path))

    def _use_pack(self, path: Path, pack: DiffPack) -> None:
        self.pack_path, self.pack = Path(path), pack

    def _packed_model(self) -> PreTrainedModel:
        """A freshly loaded base with the pack in it."""
        model = self._base_model()
        self._check_head()
        try:
            self.pack.apply(model)
        except ValueError as error:
            raise ValueError(f"{self.pack_path} does not fit --model_name_or_path: {error}") from error
        return model

    def _check_head(self) -> None:
        if sorted(self.pack.task_head) != sorted(self.task_head):
            raise ValueError(
                f"{self.pack_path} has the task head {', '.join(sorted(self.pack.task_head))}, "
                "--model_name_or_path "
                "lacks "
                f"{', '.join(self.task_head)}: --task_head names it"
            )

    def _method_name(self) -> str:
        """Of the pack, with its density: diff-structured-0.5%."""
        return pack_label(self.pack)

    def _extra(self) -> dict[str, Any]:
        if self.pack is None:
            return {}
        return {"diff": record_figures(self.pack, self.pack_path.stat().st_size)}


def stage_options(doc: str, data: type, argv: Sequence[str]) -> tuple[Any, ...]:
    """The options of a stage, one instance of each group.

    Raises:
        ValueError: options that cannot be; named.
    """
    groups = [
        ModelArguments,
        data,
        DiffArguments,
        ProjectionArguments,
        FixMaskArguments,
        ResultArguments,
        TrainingArguments,
    ]
    found = parse(doc, groups, argv)
    if not found[-1].output_dir:
        raise ValueError("--output_dir: name a folder for the results")
    found[2].check()
    return found


def run_stage(stage: type[DiffRun], doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """The whole of a program.

    Args:
        stage: the class of the stage. doc: the program's help. data: `GlueArguments` or `SquadArguments`.

    Returns:
        split -> metrics as the Trainer names them, of every scored split.

    Raises:
        ValueError, OSError: options, model, data or files that cannot be; before training.
    """
    options, data_options, method, projection, fixmask, results, args = stage_options(doc, data, argv)
    log_levels(args)
    stage = stage.chosen(method)
    return stage(
        method, WORK[data](data_options, options.cache_dir), options, results, args, projection, fixmask
    ).go()
