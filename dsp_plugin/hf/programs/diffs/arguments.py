"""The options of the diff-pruning programs, which all take all of these: one set serves three stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ....diffs.training.groups import grouping_name, method_name
from ....diffs.training.passes.concrete import StretchedConcrete
from ....diffs.training.vector import PENALTY_FORMS
from ....options.numbers import MEANINGS, Meaning
from ..chassis.arguments import option

BELOW_0 = Meaning("a finite number below 0", most=0, open_most=True)
ABOVE_1 = Meaning("a finite number above 1", 1, open_least=True)
VALUE_DTYPES = ("float16", "bfloat16", "float32")


@dataclass
class DiffArguments:
    """Stage 1."""

    sparsity_pen: Annotated[float, "non-negative"] = option(
        "lambda, the price of a weight that may differ from the base", 1.25e-7
    )
    sparsity_penalty_per_layer: Annotated[list[float] | None, "non-negative"] = option(
        "one lambda a layer: the embeddings, each layer, everything else", None
    )
    penalty_form: str = option(
        "paper: P(z) P(group), summed; additive: as in the authors' program", "paper", choices=PENALTY_FORMS
    )
    concrete_lower: Annotated[float, BELOW_0] = option("l, the lower end of the stretched interval", -1.5)
    concrete_upper: Annotated[float, ABOVE_1] = option("r, its upper end", 1.5)
    alpha_init: Annotated[float, "finite"] = option("where alpha starts", 5.0)
    alpha_learning_rate: Annotated[float, "non-negative"] = option("constant learning rate of alpha", 0.1)
    per_params_alpha: Annotated[int, "switch"] = option(
        "1: a gate a tensor, too (structured); 0: unstructured", 1, choices=[0, 1]
    )
    per_neuron_alpha: Annotated[int, "switch"] = option(
        "1: the groups are neurons (rows of matrices) instead of tensors; 0: not", 0, choices=[0, 1]
    )
    per_layer_alpha: Annotated[int, "switch"] = option(
        "1: the groups are whole layers instead of tensors; 0: not", 0, choices=[0, 1]
    )
    fix_layer: Annotated[int, MEANINGS["amount"].or_else(-1, meant="for none")] = option(
        "N: the embeddings and the N lowest layers stay at the base; -1: nothing does", -1
    )
    task_head: list[str] | None = option(
        "modules or parameters of the task head; default: the weights that are new", None
    )

    baseline: str | None = option(
        "train no diff but, as its baseline, all weights (full) or the task head alone (last-layer)",
        None,
        choices=["full", "last-layer"],
    )

    def check(self) -> None:
        """Raise an OptionError for groups of gates that exclude each other."""
        grouping_name(self.per_params_alpha, self.per_neuron_alpha, self.per_layer_alpha)

    def concrete(self) -> StretchedConcrete:
        return StretchedConcrete(self.concrete_lower, self.concrete_upper)

    @property
    def grouping(self) -> str:
        """What shares a gate: tensor, neuron, layer, or none."""
        return grouping_name(self.per_params_alpha, self.per_neuron_alpha, self.per_layer_alpha)

    def label(self) -> str:
        """Return the method's name in records."""
        return method_name(self.grouping)


@dataclass
class ProjectionArguments:
    """Stage 2."""

    eval_checkpoint: str | None = option(
        "what stage 1 wrote (checkpoint-last-info.pt), or the folder of a finetuned model (the non-adaptive "
        "baseline)"
    )
    save_checkpoint: str | None = option(
        "the pack to write, a safetensors file; default: OUTPUT_DIR/projected.diff.safetensors"
    )
    target_sparsity: Annotated[float, "share"] = option(
        "share of the body's weights that may differ from the base, in (0, 1]", 0.01
    )
    threshold: Annotated[float, MEANINGS["non-negative"].or_else(-1, meant="for none")] = option(
        "0 or more: keep all changes above this magnitude instead; -1: none", -1.0
    )
    per_layer_projection: bool = option("each layer keeps the same share", False)
    sampled_diff: bool = option("project one sample of the diff instead of the deterministic one", False)


@dataclass
class FixMaskArguments:
    """Stage 3."""

    mask_checkpoint: str | None = option("the pack of stage 2")
    finetune: Annotated[int, "switch"] = option(
        "1: start at the values in the pack; 0: at the base", 1, choices=[0, 1]
    )
    save_pack: str | None = option("the pack to write; default: OUTPUT_DIR/task.diff.safetensors")
    value_dtype: str = option(
        "dtype of the values in the pack: float16, bfloat16 or float32", "float16", choices=VALUE_DTYPES
    )


@dataclass
class DiffOptions:
    """What the three groups say; one command line serves all stages."""

    method: DiffArguments
    projection: ProjectionArguments
    fixmask: FixMaskArguments


DiffArguments._argument_group_name = "Diff pruning, stage 1"  # type: ignore[attr-defined]
ProjectionArguments._argument_group_name = "Diff pruning, stage 2"  # type: ignore[attr-defined]
FixMaskArguments._argument_group_name = "Diff pruning, stage 3"  # type: ignore[attr-defined]
