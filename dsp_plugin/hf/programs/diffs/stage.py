"""The common part of diff pruning's stages: command line, base and task head, the pack they score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ....artefacts.base import Base
from ....diffs import DiffPack, SparseDiff, frozen_names
from ....diffs.packs.summary import pack_label, record_figures
from ...diffs.training import find_task_head
from ..chassis.models import load
from ..chassis.parsing import say
from ..chassis.system import Setup, System
from ..chassis.train import read_options
from .arguments import DiffArguments, DiffOptions, FixMaskArguments, ProjectionArguments

OPTIONS = (DiffArguments, ProjectionArguments, FixMaskArguments)
PACK = "task.diff.safetensors"  # in --output_dir, what a task ends in
# What a folder's config.json must say for the merged model to be the task's.
_CONFIG_ENTRIES = ("id2label", "label2id", "problem_type", "pad_token_id")


def read_stage_options(doc: str, data: type, argv: Sequence[str]) -> tuple[Setup, DiffOptions]:
    """Parse the command line of a stage; see `read_options`."""
    setup, groups = read_options(doc, data, OPTIONS, argv)
    return setup, DiffOptions(*groups)


class DiffStage(System):
    """One stage on one base.

    Attributes:
        task_head: names of its parameters, once the model is loaded.
        pack: the pack that is scored, once there is one, and `pack_path`, its file.
    """

    def __init__(self, setup: Setup, options: DiffOptions):
        super().__init__(setup)
        self.options = options
        self.task_head: list[str] = []
        self.pack: DiffPack | None = None
        self.pack_path: Path | None = None

    def method_name(self) -> str:
        return self.options.method.label()

    def load_base(self) -> PreTrainedModel:
        """Load the base anew, with its task head; sets `tokenizer` and `task_head`."""
        model, self.tokenizer, new = load(self.setup.model, self.setup.task)
        self.task_head = find_task_head(model, new, self.options.method.task_head or ())
        return model

    def body_of(self, model: PreTrainedModel) -> list[str]:
        """Return the names of the parameters that are not the task head's."""
        task_head = set(self.task_head)
        return [name for name, _ in model.named_parameters() if name not in task_head]

    def task_head_of(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Return the parameters of the task head by their names."""
        task_head = set(self.task_head)
        return {name: weight for name, weight in model.named_parameters() if name in task_head}

    def frozen(self, model: PreTrainedModel) -> list[str]:
        """Return the names of what --fix_layer keeps at the base.

        Raises:
            ValueError: more layers than there are.
        """
        return frozen_names(self.body_of(model), self.options.method.fix_layer)

    def write_pack(
        self,
        path: Path,
        model: PreTrainedModel,
        diff: SparseDiff,
        base: Base,
        task_head: dict[str, Tensor],
        dtype: str,
        config: dict[str, Any],
    ) -> None:
        """Let the first process write the pack, and all read it back: `pack` is what the file says."""
        setup, ours = self.setup, model.config.to_dict()
        entries = {name: ours[name] for name in _CONFIG_ENTRIES if ours.get(name) is not None}
        config = {
            "task": setup.task.name,
            "base_model": setup.model_name,
            "seed": setup.args.seed,
            "model_config": {"architectures": [type(model).__name__], **entries},
            **config,
        }
        with setup.args.main_process_first(desc="writing the pack"):
            if setup.is_main:
                size = DiffPack.create(diff, base, task_head, config, dtype).save(path)
                say(f"pack: {path}, {size:,} bytes")
            self.pack_path, self.pack = path, DiffPack.load(path)

    def load_with_pack(self) -> PreTrainedModel:
        """Load the base anew and apply the pack to it."""
        model = self.load_base()
        self.check_task_head()
        try:
            self.pack.apply(model)
        except ValueError as error:
            raise ValueError(f"{self.pack_path} does not fit --model_name_or_path: {error}") from error
        return model

    def check_task_head(self) -> None:
        """Raise a ValueError where the pack has another task head than the model lacks."""
        if sorted(self.pack.task_head) != sorted(self.task_head):
            raise ValueError(
                f"{self.pack_path} has the task head {', '.join(sorted(self.pack.task_head))}, "
                f"--model_name_or_path lacks {', '.join(self.task_head)}: --task_head names it"
            )

    def pack_name(self) -> str:
        """Return the pack's method with its density: diff-structured-0.5%."""
        return pack_label(self.pack)

    def figures(self) -> dict[str, Any]:
        if self.pack is None:
            return {}
        return {"diff": record_figures(self.pack, self.pack_path.stat().st_size)}
