"""Stage 2 of diff pruning: the diff is cut down to exactly so many weights and packed, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ....artefacts.base import Base
from ....diffs import Difference, SparseDiff, count_of, layer_numbers, project
from ....diffs.training.groups import group_function
from ....diffs.training.vector_file import SavedVector, read_vector
from ....options.errors import OptionError
from ....options.faults import naming
from ..chassis.models import load
from ..chassis.output_folder import settings_of
from ..chassis.parsing import say
from ..chassis.places import check_written_file
from ..chassis.system import Setup
from ..chassis.train import train_system
from .arguments import DiffOptions
from .stage import DiffStage, read_stage_options


def run_project(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program of stage 2. Arguments as `read_options`, result as `train_system`."""
    return train_system(ProjectStage(*read_stage_options(doc, data, argv)))


class ProjectStage(DiffStage):
    """Projects stage 1's diff, or a finetuned model's change (non-adaptive), and scores the reloaded pack.

    Attributes:
        saved: what stage 1 wrote, once it was looked at; None of a finetuned model.
    """

    def __init__(self, setup: Setup, options: DiffOptions):
        super().__init__(setup, options)
        self.saved: SavedVector | None = None

    def check(self) -> None:
        setup, method = self.setup, self.options.method
        given = self.options.projection.eval_checkpoint
        if not given:
            raise OptionError(
                "eval_checkpoint", ": name what the first stage wrote, or the folder of a finetuned model"
            )
        read = {"eval_checkpoint": given, "model_name_or_path": setup.model.model_name_or_path}
        check_written_file("save_checkpoint", self.path, read)
        if setup.args.do_train:
            say("--do_train is ignored: the projection trains nothing")
            setup.args.do_train = False
        if Path(given).is_dir():
            self._check_origin(given)
            return
        with naming("eval_checkpoint", given):
            self.saved = read_vector(given)
        low, high = self.saved.header["concrete"]
        if (method.concrete_lower, method.concrete_upper) != (low, high):
            raise OptionError(
                "concrete_lower",
                f"{method.concrete_lower} {{}} {method.concrete_upper}: the diff was trained with {low} and "
                f"{high}",
                "concrete_upper",
            )
        if self.saved.config.get("task", setup.task.name) != setup.task.name:
            raise OptionError(
                "eval_checkpoint",
                f"{given} was trained on {self.saved.config['task']}, not on {setup.task.name}",
            )

    @property
    def path(self) -> Path:
        """The file of the pack to write."""
        return Path(
            self.options.projection.save_checkpoint
            or f"{self.setup.args.output_dir}/projected.diff.safetensors"
        )

    def _check_origin(self, folder: str) -> None:
        """Say where the model in the folder was finetuned from another base, perhaps only by name.

        Raises:
            ValueError: it was finetuned on another task.
        """
        noted, base = settings_of(folder), self.setup.model.model_name_or_path.rstrip("/")
        if noted.get("task", self.setup.task.name) != self.setup.task.name:
            raise OptionError(
                "eval_checkpoint", f"{folder} was trained on {noted['task']}, not on {self.setup.task.name}"
            )
        if Path(str(noted.get("model", base))).name != Path(base).name:
            say(
                f"--eval_checkpoint {folder} was finetuned from {noted['model']}: --model_name_or_path "
                "should be the same weights"
            )

    def label(self, model: PreTrainedModel) -> str:
        return f"{self.pack_name()}-projected"

    def load(self) -> PreTrainedModel:
        """Project, write the pack, and load the base with it."""
        projection = self.options.projection
        model = self.load_base()
        base = Base.of(model, self.task_head)
        deltas, task_head, config = self._finetuned(model) if self.saved is None else self._trained(model)
        count = self._count(deltas, base.total)
        layers = layer_numbers(list(deltas))[0] if projection.per_layer_projection else None
        (diff,) = project(deltas, [count], layers)
        config["projection"] = {
            name: getattr(projection, name)
            for name in ("target_sparsity", "threshold", "per_layer_projection", "sampled_diff")
        }
        self._say(diff, base.total)
        self.write_pack(self.path, model, diff, base, task_head, "float32", config)
        return self.load_with_pack()

    def _trained(
        self, model: PreTrainedModel
    ) -> tuple[Mapping[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Read changes, task head and configuration out of stage 1's file."""
        saved, names = self.saved, [name for name, _ in model.named_parameters()]
        with naming("eval_checkpoint", self.options.projection.eval_checkpoint):
            vector = saved.restore(model, group_function(saved.config.get("grouping", "tensor"), names))
        if sorted(saved.task_head) != sorted(self.task_head):
            known = ", ".join(saved.task_head)
            raise OptionError("task_head", f": the diff was trained with the task head {known}")
        deltas = vector.deltas(vector.steps if self.options.projection.sampled_diff else None)
        return (
            deltas,
            dict(saved.task_head),
            {name: saved.config.get(name) for name in ("method", "grouping", "sparsity_pen")},
        )

    def _finetuned(
        self, model: PreTrainedModel
    ) -> tuple[Mapping[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Read them off a finetuned model in a folder, the baseline of the paper."""
        if self.options.projection.sampled_diff:
            raise OptionError("sampled_diff", ": there is nothing to sample in a finetuned model")
        folder = self.options.projection.eval_checkpoint
        named = replace(self.setup.model, model_name_or_path=folder, config_name=None)
        finetuned, _, new = load(named, self.setup.task)
        if new:
            raise OptionError(
                "eval_checkpoint",
                f"{folder} is no model of {self.setup.task.name}: {', '.join(new[:3])} are missing in it",
            )
        state = dict(finetuned.named_parameters())
        try:
            deltas = Difference(state, dict(model.named_parameters()), self.body_of(model))
        except ValueError as error:
            raise OptionError(
                "eval_checkpoint", f"{folder} is no finetuned {{}}: {error}", "model_name_or_path"
            ) from error
        return deltas, {name: state[name].detach() for name in self.task_head}, {"method": "non-adaptive"}

    def _count(self, deltas: Mapping[str, Tensor], total: int) -> int:
        """Count the weights that may differ, by --threshold or by the share of them all."""
        threshold = self.options.projection.threshold
        if threshold < 0:
            return count_of(self.options.projection.target_sparsity, total)
        count = sum(int((deltas[name].abs() > threshold).sum()) for name in deltas)
        if not count:
            raise OptionError("threshold", f"{threshold}: no change is larger")
        return count

    def _say(self, diff: SparseDiff, total: int) -> None:
        groups = sum(1 for name in diff.shapes if name not in diff.entries)
        still = f"{groups} of {len(diff.shapes)} tensors do not at all"
        say(f"{diff.count:,} of {total:,} weights may differ from the base; {still}")
