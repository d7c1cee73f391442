"""Stage 1 of diff pruning: the base, with a gate and a change for each of its weights, is finetuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....diffs import DiffVector, layer_numbers, penalties_by_layer
from ....diffs.training.groups import group_function
from ....diffs.training.vector_file import save_vector
from ....options.faults import naming
from ...diffs.training import DiffCallback, diff_optimizers
from ..chassis.parsing import say
from ..chassis.system import Setup
from ..chassis.train import train_system
from .arguments import DiffOptions
from .baselines import FullFinetuning, LastLayer
from .stage import DiffStage, read_stage_options

INFO = "checkpoint-last-info.pt"
BASELINES = {"full": FullFinetuning, "last-layer": LastLayer}


def run_prune(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program of stage 1. Arguments as `read_options`, result as `train_system`."""
    return prune(*read_stage_options(doc, data, argv))


def prune(setup: Setup, options: DiffOptions) -> dict[str, Any]:
    """Run stage 1, or the baseline that the options name instead; see `train_system`."""
    return train_system(BASELINES.get(options.method.baseline, PruneStage)(setup, options))


class PruneStage(DiffStage):
    """Trains; writes `checkpoint-last-info.pt`, which stage 2 projects; scores the deterministic theta.

    Attributes:
        vector: once the Trainer is made.
    """

    def __init__(self, setup: Setup, options: DiffOptions):
        super().__init__(setup, options)
        self.vector: DiffVector | None = None

    def check(self) -> None:
        if not self.setup.args.do_train:
            raise ValueError(
                "nothing to do: give --do_train (the second stage's program scores a diff that is trained)"
            )

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **vars(self.options.method)}

    def load(self) -> PreTrainedModel:
        return self.load_base()

    def label(self, model: PreTrainedModel) -> str:
        return f"{self.method_name()}-unprojected"

    def trainer(self, model: PreTrainedModel) -> Trainer:
        method, args = self.options.method, self.setup.args
        model.to(args.device)
        body, frozen = self.body_of(model), self.frozen(model)
        if self.options.projection.per_layer_projection:  # stage 2 would find out only after this training
            with naming("per_layer_projection", True):
                layer_numbers(body)
        penalty: Any = method.sparsity_pen
        if method.sparsity_penalty_per_layer:
            penalty = penalties_by_layer(body, method.sparsity_penalty_per_layer)
        # the model holds the base now; a checkpoint's theta comes later, and with its hash
        self.vector = DiffVector(
            model,
            task_head=self.task_head,
            frozen=frozen,
            grouping=group_function(method.grouping, [name for name, _ in model.named_parameters()]),
            concrete=method.concrete(),
            alpha_init=method.alpha_init,
            penalty=penalty,
            penalty_form=method.penalty_form,
            seed=args.seed,
        )
        optimizers = diff_optimizers(self.vector, args, alpha_lr=method.alpha_learning_rate)
        return self.stock_trainer(model, optimizers=optimizers, callbacks=[DiffCallback(optimizers[0])])

    def save(self, trainer: Trainer) -> None:
        setup, method = self.setup, self.options.method
        if not setup.is_main:
            return
        path = Path(setup.args.output_dir) / INFO
        config = {
            "method": method.label(),
            "grouping": method.grouping,
            "sparsity_pen": method.sparsity_penalty_per_layer or method.sparsity_pen,
            "task": setup.task.name,
            "base_model": setup.model_name,
            "labels": setup.task.config_entries().get("id2label"),
        }
        save_vector(path, self.vector, config)
        say(f"for the projection: {path}")

    def figures(self) -> dict[str, Any]:
        deltas = self.vector.deltas()
        nonzeros = sum(int(deltas[name].count_nonzero()) for name in deltas)
        total = self.vector.layout.total
        diff = {
            "nonzeros": nonzeros,
            "total": total,
            "density": nonzeros / total,
            "expected_density": self.vector.expected_count() / total,
            "method": self.method_name(),
        }
        return {"diff": diff}
