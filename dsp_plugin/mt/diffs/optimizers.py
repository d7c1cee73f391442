"""Diff pruning's optimizers under fairseq's trainer: the sparse diff, and finetuning its positions."""

import ast
import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from omegaconf import II, OmegaConf

from ...diffs import DiffAdamW, DiffVector, FixMaskAdamW, StretchedConcrete, frozen_names, penalties_by_layer
from ...diffs.training.groups import group_function, grouping_name
from ...diffs.training.vector import check_penalty_form
from ...options.errors import OptionError
from ..training.option_checks import spelling_options
from .base import start_of


@dataclass
class SparseAdamConfig(FairseqDataclass):
    adam_betas: Any = field(default=(0.9, 0.999), metadata={"help": "betas of AdamW"})
    adam_eps: float = field(default=1e-8, metadata={"help": "epsilon of AdamW"})
    lr: list[float] = II("optimization.lr")


@dataclass
class DiffAdamConfig(SparseAdamConfig):
    sparsity_pen: float = field(
        default=1.25e-7,
        metadata={"help": "lambda, the price of a weight that may differ from the base, on the mean loss"},
    )
    sparsity_penalty_per_layer: Optional[str] = field(
        default=None,
        metadata={
            "help": "one lambda a layer instead, joined by commas: embeddings, each layer, everything else"
        },
    )
    penalty_form: str = field(
        default="paper",
        metadata={"help": "paper: P(z) P(group), summed; additive: as in the authors' program"},
    )
    concrete_lower: float = field(
        default=-1.5, metadata={"help": "l, the lower end of the stretched interval"}
    )
    concrete_upper: float = field(default=1.5, metadata={"help": "r, its upper end"})
    alpha_init: float = field(default=5.0, metadata={"help": "where alpha starts"})
    alpha_learning_rate: float = field(
        default=0.1, metadata={"help": "constant learning rate of alpha, apart from --lr and its schedule"}
    )
    per_params_alpha: int = field(
        default=1, metadata={"help": "1: a gate a tensor, too (structured); 0: unstructured"}
    )
    per_neuron_alpha: int = field(
        default=0, metadata={"help": "1: the groups are neurons (rows of matrices) instead of tensors"}
    )
    per_layer_alpha: int = field(
        default=0, metadata={"help": "1: the groups are whole layers instead of tensors"}
    )
    fix_layer: int = field(
        default=-1,
        metadata={"help": "N: the embeddings and the N lowest layers stay at the base; -1: nothing does"},
    )
    seed: int = II("common.seed")


class SparseAdam(FairseqOptimizer):
    """The part that both optimizers share. `--clip-norm` bounds what they train, not the model's gradient."""

    clipped: tuple[str, ...] = ("max_norm",)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        lr, betas = self.cfg.lr, self.cfg.adam_betas
        betas = ast.literal_eval(betas) if isinstance(betas, str) else betas
        return {
            "lr": float(lr[0] if OmegaConf.is_list(lr) or isinstance(lr, (list, tuple)) else lr),
            "betas": tuple(float(beta) for beta in betas),
            "eps": float(self.cfg.adam_eps),
        }

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """Leave the clipping to the step; returns the norm of the model's gradient, as it is."""
        for name in self.clipped:
            self.param_groups[0][name] = float(max_norm)
        return utils.clip_grad_norm_(self.params, 0.0, aggregate_norm_fn)

    def load_state_dict(self, state_dict, optimizer_overrides=None) -> None:
        # today's command line wins over the checkpoint's options, as in fairseq; but the scheduled rate goes
        # on from the checkpoint's, because some schedules (reduce_lr_on_plateau) keep theirs nowhere else
        mine = {name: value for name, value in self.param_groups[0].items() if name not in ("params", "lr")}
        self.optimizer.load_state_dict(state_dict)
        self.param_groups[0].update({**mine, **(optimizer_overrides or {})})


class DiffAdam(SparseAdam):
    """`DiffAdamW` (diffs/training/optimizer.py): w goes by the schedule of --lr, alpha at a constant rate."""

    clipped = ("max_norm", "alpha_max_norm")

    @spelling_options()
    def __init__(self, cfg: DiffAdamConfig, params):
        super().__init__(cfg)
        start = start_of(params, "diff_adam")
        if start.vector is not None:  # fairseq builds its optimizer again after loading a checkpoint
            start.vector.detach()
        start.vector = vector_of(start.model, start.base, cfg)
        self._optimizer = DiffAdamW(
            start.vector,
            alpha_lr=cfg.alpha_learning_rate,
            max_norm=0.0,
            alpha_max_norm=0.0,
            **self.optimizer_config,
        )

    @staticmethod
    @spelling_options()
    def check(cfg: DiffAdamConfig) -> None:
        """Look at the values of the options.

        Raises:
            ValueError: values that cannot be; names the option.
        """
        for name in ("sparsity_pen", "alpha_learning_rate"):
            if not 0 <= getattr(cfg, name) < math.inf:
                raise OptionError(name, f"must be 0 or more and finite, got {getattr(cfg, name)}")
        if not math.isfinite(cfg.alpha_init):
            raise OptionError("alpha_init", f"must be finite, got {cfg.alpha_init}")
        check_penalty_form(cfg.penalty_form)
        grouping_of(cfg)
        StretchedConcrete(cfg.concrete_lower, cfg.concrete_upper)
        _penalties(cfg)


@dataclass
class FixMaskAdamConfig(SparseAdamConfig):
    finetune: int = field(
        default=1, metadata={"help": "1: start at the values of --mask-pack; 0: at the base"}
    )


def needs_mask() -> OptionError:
    """Make the error for the optimizer of stage 3 without a mask."""
    return OptionError("optimizer", "fixmask_adam needs {} FILE, what the projection wrote", "mask_pack")


class FixMaskAdam(SparseAdam):
    """`FixMaskAdamW` (diffs/training/fixmask.py): only the positions of --mask-pack learn."""

    @spelling_options()
    def __init__(self, cfg: FixMaskAdamConfig, params):
        super().__init__(cfg)
        start = start_of(params, "fixmask_adam")
        if start.mask is None:
            raise needs_mask()
        self._optimizer = FixMaskAdamW(
            start.model,
            start.mask,
            base=start.base,
            from_zero=not cfg.finetune,
            max_norm=0.0,
            **self.optimizer_config,
        )

    @staticmethod
    @spelling_options()
    def check(cfg: FixMaskAdamConfig) -> None:
        """Look at the values of the options.

        Raises:
            ValueError: values that cannot be; names the option.
        """
        if cfg.finetune not in (0, 1):
            raise OptionError("finetune", f"must be 0 or 1, got {cfg.finetune}")


def grouping_of(cfg) -> str:
    """Return tensor, neuron, layer or none, by a DiffAdamConfig or what a checkpoint has of one."""
    return grouping_name(cfg.per_params_alpha, cfg.per_neuron_alpha, cfg.per_layer_alpha)


@spelling_options()
def vector_of(model, base, cfg) -> DiffVector:
    """Return the diff that these options ask for, at its start.

    Args:
        model: that the diff is trained in. base: its base's weights by name.
        cfg: DiffAdamConfig, or what a checkpoint has of one.

    Raises:
        ValueError: see `DiffVector`, `frozen_names` and `penalties_by_layer`.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = frozen_names(names, cfg.fix_layer)
    penalty = _penalties(cfg)
    if isinstance(penalty, list):
        penalty = penalties_by_layer(names, penalty)
    return DiffVector(
        model,
        base=base,
        frozen=frozen,
        grouping=group_function(grouping_of(cfg), names),
        concrete=StretchedConcrete(cfg.concrete_lower, cfg.concrete_upper),
        alpha_init=cfg.alpha_init,
        penalty=penalty,
        penalty_form=cfg.penalty_form,
        seed=cfg.seed,
        optimizer_name="diff_adam",
    )


def _penalties(cfg) -> "float | list[float]":
    text = cfg.sparsity_penalty_per_layer
    if not text:
        return cfg.sparsity_pen
    try:
        return [float(part) for part in str(text).split(",")]
    except ValueError:
        reason = f"must be numbers joined by commas, got {text}"
        raise OptionError("sparsity_penalty_per_layer", reason) from None
