"""Stage 1 of diff pruning: the base, with a gate and a change for each of its weights, is finetuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....diffs import DiffVector, layer_numbers, penalties_by_layer
from ....diffs.training.groups import group_function
from ....diffs.training.vector_file import save_vector
from ....options.faults import naming
from ....records.record import portable_path
from ...diffs.training import DiffCallback, diff_optimizers
from ..chassis.parsing import say
from .arguments import DiffArguments, settings_of
from .baselines import BaselineRun
from .run import DiffRun

INFO = "checkpoint-last-info.pt"


class PruneRun(DiffRun):
    """Trains, and writes `checkpoint-last-info.pt`, from which stage 2 projects; scores the deterministic
    theta.
    """

    @classmethod
    def chosen(cls, method: DiffArguments) -> type[DiffRun]:
        return BaselineRun if method.baseline else cls

    def prepare(self) -> None:
        if not self.args.do_train:
            raise ValueError(
                "nothing to do: give --do_train (the second stage's program scores a diff that is trained)"
            )

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), **settings_of(self.method)}

    def _model(self) -> PreTrainedModel:
        return self._base_model()

    def _label(self, model: PreTrainedModel) -> str:
        return f"{self.method.label()}-unprojected"

    def _trainer(self, model: PreTrainedModel) -> Trainer:
        method, args = self.method, self.args
        model.to(args.device)
        names = [name for name, _ in model.named_parameters()]
        task_head = set(self.task_head)
        body = [name for name in names if name not in task_head]
        frozen = self._frozen(model)
        if self.projection.per_layer_projection:  # stage 2 would find out only after this training
            with naming("--per_layer_projection"):
                layer_numbers(body)
        penalty: Any = method.sparsity_pen
        if method.sparsity_penalty_per_layer:
            try:
                penalty = penalties_by_layer(body, method.sparsity_penalty_per_layer)
            except ValueError as error:
                raise ValueError(f"--sparsity_penalty_per_layer: {error}") from error
        # the model holds the base now; a checkpoint's theta comes later, and with its hash
        self.vector = DiffVector(
            model,
            task_head=self.task_head,
            frozen=frozen,
            grouping=group_function(method.grouping, names),
            concrete=method.concrete(),
            alpha_init=method.alpha_init,
            penalty=penalty,
            penalty_form=method.penalty_form,
            seed=args.seed,
        )
        optimizers = diff_optimizers(self.vector, args, alpha_lr=method.alpha_learning_rate)
        return self._stock_trainer(model, optimizers=optimizers, callbacks=[DiffCallback(optimizers[0])])

    def _save(self, trainer: Trainer) -> None:
        if self.main:
            path = Path(self.args.output_dir) / INFO
            save_vector(
                path,
                self.vector,
                {
                    "method": self.method.label(),
                    "grouping": self.method.grouping,
                    "sparsity_pen": self.method.sparsity_penalty_per_layer or self.method.sparsity_pen,
                    "task": self.work.name,
                    "base_model": portable_path(self.options.model_name_or_path.rstrip("/")),
                    "labels": self.work.config_entries().get("id2label"),
                },
            )
            say(f"for the projection: {path}")

    def _extra(self) -> dict[str, Any]:
        deltas = self.vector.deltas()
        nonzeros = sum(int(deltas[name].count_nonzero()) for name in deltas)
        total = self.vector.layout.total
        return {
            "diff": {
                "nonzeros": nonzeros,
                "total": total,
                "density": nonzeros / total,
                "expected_density": self.vector.expected_count() / total,
                "method": self.method.label(),
            }
        }
