"""The transformer that every pruning method puts its gates on: a method subclasses and registers it."""

import logging
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any, Optional

from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    MODEL_REGISTRY,
    BaseFairseqModel,
    register_model_architecture,
)
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.models.transformer import transformer_legacy as stock
from omegaconf import OmegaConf
from torch import nn

from ...gating import BudgetOptions, HeadBudget, HeadMap, ScoreRate, Switchboard
from ...gating.importance.start import check_start
from ...gating.methods.subset_options import check_sampler, check_straight_through
from ...options.errors import OptionError
from ..checkpoints.flat_config import FlatTransformerConfig
from ..training.option_checks import check_options, spelling_options
from .feed_forward import NEURONS, check_groups
from .gated_transformer import GatedDecoder, GatedEncoder, apply_kept_heads, connect, head_map_of
from .new_training import check_training, check_worked_out, host_advice, whole_training
from .schedule import is_given, with_schedule
from .score_adam import mark_scores

logger = logging.getLogger(__name__)


class GatedTransformerModel(TransformerModelBase):
    """Encoder-decoder transformer with a gate on every attention head, and with `neurons` on their groups.

    Every training forward samples gates, `eval()` uses the heads that are kept and nothing else. Where the
    options ask for no pruning, or after head removal, there are no gates and the model is the stock
    transformer with a fused attention path.

    A method gives `build_gates`, and may extend `check_options`, `wants_gates`, `freezes_weights`,
    `learns_scores`, `has_penalty`, `ranks_heads`, `check_training`, `warnings` and `remarks`.
    """

    method = ""
    """Name in records and messages."""

    gates_options = ("num_of_heads", "heads_per_kind")
    """The options of which one has to be given to prune at all."""

    by_hand: Mapping[str, Any] = {
        "pruning_lr": 0.2,
        "pruning_lr_decay_steps": 0,
        "pruning_warmup_updates": 0,
        "min_heads_per_block": 0,
        "init_scores": "random",
    }
    """Values of options that are not given, in a schedule by hand."""

    def __init__(self, cfg, encoder, decoder):
        super().__init__(cfg, encoder, decoder)
        self.gating: Optional[Switchboard] = None
        self.score_rate: Optional[ScoreRate] = None
        # the record of removed heads, where there are any
        self.kept_heads: Optional[dict[str, list[int]]] = None

    add_args = classmethod(BaseFairseqModel.add_args.__func__)

    @classmethod
    def build_gates(cls, head_map: HeadMap, options: dict[str, Any]) -> nn.Module:
        """Return the method's `HeadGates` for these heads, from the model's flat options."""
        raise NotImplementedError

    @classmethod
    def wants_gates(cls, options) -> bool:
        """Whether the options ask for pruning."""
        return BudgetOptions.of(options).given

    @classmethod
    def asks_for_gates(cls, options) -> bool:
        """Whether options as they were given ask for pruning, once the schedule is worked out."""
        return cls.wants_gates(options)

    @classmethod
    def constants(cls, options) -> Mapping[str, Any]:
        """Return the values in a schedule by hand of options that are not given, for those that are."""
        return cls.by_hand

    @classmethod
    def published(cls, options) -> Mapping[str, Any]:
        """Return the values of the paper that are not those of `by_hand`, for options as they were given."""
        return {}

    @classmethod
    def as_options(
        cls, found: dict[str, Any], head_map: HeadMap, batches: Callable[[], Any]
    ) -> dict[str, Any]:
        """Return what was worked out (`gating.derive`) as the model's options.

        Args:
            batches: returns fairseq's iterator over the training set.
        """
        return found

    @classmethod
    def freezes_weights(cls, options) -> bool:
        """Whether only the scores learn (pipelined), so that a trained model is needed to start from."""
        return cls.wants_gates(options) and not options["joint_pruning"]

    @classmethod
    def learns_scores(cls, options) -> bool:
        """Whether training changes the scores, so that optimizer and precision must suit them."""
        return cls.wants_gates(options)

    @classmethod
    def label(cls, options) -> str:
        """Return the name in records of a training with these options."""
        if not cls.wants_gates(options):
            return "no-pruning"
        return f"{cls.method}-{'pipelined' if cls.freezes_weights(options) else 'joint'}"

    @classmethod
    def has_penalty(cls, options) -> bool:
        """Whether the gates add something to the loss, which the criterion must then take in."""
        return False

    @classmethod
    def ranks_heads(cls, options) -> bool:
        """Whether the task is to rank the heads of a trained model before the first update."""
        return False

    @classmethod
    def check_training(cls, whole, options: dict[str, Any], task) -> None:
        """Refuse a training (its `whole` configuration) that would be half a method; see `new_training`."""
        check_training(cls, whole, options, task)

    @classmethod
    def check_options(cls, options) -> None:
        """Refuse options (all of the method's config) that mean nothing, or that exclude each other.

        Raises:
            OptionError: naming the options.
        """
        check_options(options)
        check_layers_kept(options)
        if not cls.wants_gates(options):
            names = ("joint_pruning", "min_heads_per_block", "pruning_warmup_updates", "pruning_schedule")
            for name in names:
                if options.get(name):
                    raise cls.needs_gates(name)
        if options.get(NEURONS) is not None:
            if not cls.wants_gates(options) and not options.get("kept_heads"):
                raise cls.needs_gates(NEURONS)
            check_groups(options[NEURONS], options)
        check_start(options.get("init_scores"), BudgetOptions.of(options).given)
        BudgetOptions.of(options).check()
        if options["pruning_lr_decay_steps"] and options["pruning_lr"] is None:
            raise OptionError("pruning_lr_decay_steps", "needs {}, the rate that falls", "pruning_lr")

    @classmethod
    def needs_gates(cls, name: str) -> OptionError:
        """Make the error for an option that says nothing where nothing is pruned."""
        *others, last = cls.gates_options
        return OptionError(
            name, f"needs {', '.join(['{}'] * len(others))} or {{}}: nothing is pruned", *others, last
        )

    @classmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        """Refuse options that have no say, among those that were given.

        Args:
            given: all of the model's options; None, and a switch False, where they were not given.

        Raises:
            OptionError: naming the option.
        """
        if not cls.asks_for_gates(given):
            for name in ("init_scores", "mask_samples"):
                if is_given(given.get(name)):
                    raise cls.needs_gates(name)
        check_straight_through(given)
        check_sampler(given)

    @classmethod
    def warnings(cls, options) -> list[str]:
        """Return what a user should know before a long training with these options."""
        return []

    @classmethod
    def length_warnings(cls, options, updates: Optional[int]) -> list[str]:
        """Return the same once the length of the training is known; None: it has no end."""
        return []

    @classmethod
    def sparsifies(cls, options) -> bool:
        """Return whether heads close as training goes on, so that the best checkpoint may precede that."""
        return False

    @classmethod
    def remarks(cls, options, gates: nn.Module) -> list[str]:
        """Return what a user should know after a training with these options that ended with these gates."""
        return []

    @classmethod
    def config_fields(cls) -> dict[str, Field]:
        """Return the fields of the model's configuration."""
        name = next(name for name, model in MODEL_REGISTRY.items() if model is cls)
        return MODEL_DATACLASS_REGISTRY[name].__dataclass_fields__

    @classmethod
    def as_given(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's options, those that were not given, or that are of a later version, at None."""
        own = {
            name: field.default
            for name, field in cls.config_fields().items()
            if name not in FlatTransformerConfig.__dataclass_fields__
        }
        return {**own, **options}

    @classmethod
    def with_defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Give every option its value, those that were not given too; see `schedule.with_schedule`."""
        return with_schedule(cls, cls.as_given(options))

    @classmethod
    @spelling_options()
    def build_model(cls, cfg, task):
        """Build from the flat config; for a new training, after checking the whole of its configuration.

        Raises:
            ValueError: a budget outside the model's heads, options that exclude each other, a damaged
                `kept_heads`; see `new_training.check_training`.
        """
        given, whole = cls.as_given(OmegaConf.to_container(cfg, resolve=True)), whole_training(cfg)
        flat = cls.with_defaults(given)
        if whole is not None:
            check_worked_out(cls, given)
            cls.check_given(given)
        cls.check_options(flat)
        if whole is not None:
            cls.check_training(whole, flat, task)
        stock_options = {k: v for k, v in flat.items() if k in FlatTransformerConfig.__dataclass_fields__}
        config = TransformerConfig.from_namespace(Namespace(**stock_options))
        config.neurons = flat.get(NEURONS) or 0  # where the layers' build hooks find it
        model = super().build_model(config, task)
        if flat["kept_heads"]:
            model.kept_heads = apply_kept_heads(model, flat["kept_heads"])
        if cls.wants_gates(flat):
            gates = cls.build_gates(head_map_of(model), flat)
            joint, warmup = not cls.freezes_weights(flat), flat["pruning_warmup_updates"]
            peak, steps = flat["pruning_lr"], flat["pruning_lr_decay_steps"]
            rate = None if peak is None else ScoreRate(peak, steps, start=warmup)
            model.add_gates(gates, rate, joint, warmup)
        return model

    @classmethod
    def build_encoder(cls, cfg, src_dict, embed_tokens):
        return GatedEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        return GatedDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    def add_gates(
        self, gates: nn.Module, rate: Optional[ScoreRate], joint: bool, warmup_updates: int = 0
    ) -> None:
        """Put `gates` (a `HeadGates` module) on the heads; pipelined (`joint` false) freezes all else.

        Args:
            rate: of the scores; None: the model's.
        """
        if not joint:
            self.requires_grad_(False)
        self.gating = Switchboard(head_map_of(self), gates, warmup_updates)
        for parameter in gates.parameters():
            mark_scores(parameter, rate)
        self.gating.handshake.watch_model(self)
        self.score_rate = rate
        self.gating.handshake.expect(lr=rate, weight_decay=0.0, advice=host_advice(self.method))
        connect(self, self.gating)

    def set_num_updates(self, num_updates: int) -> None:
        """Tell what goes by the number of updates how many have been made."""
        super().set_num_updates(num_updates)
        if self.score_rate is not None:
            self.score_rate.num_updates = num_updates

    def forward(self, *args, **kwargs):
        if self.gating is None:
            return super().forward(*args, **kwargs)
        with self.gating.forward_pass(self):
            return super().forward(*args, **kwargs)

    def upgrade_state_dict_named(self, state_dict, name):
        """Let a checkpoint without scores (stock fairseq's, or a pruned one) load: scores start fresh.

        A checkpoint with scores loads into a model without gates, its scores left out.
        """
        super().upgrade_state_dict_named(state_dict, name)
        own = {key: value for key, value in self.state_dict().items() if key.startswith("gating.")}
        for key in [k for k in state_dict if k.startswith("gating.") and k not in own]:
            del state_dict[key]
        missing = [key for key in own if key not in state_dict]
        if missing:
            logger.info("the checkpoint has no head scores: they start fresh")
        for key in missing:
            state_dict[key] = own[key]


def check_layers_kept(options: Mapping[str, Any]) -> None:
    """Refuse the options by which fairseq drops layers of a checkpoint.

    Raises:
        OptionError: naming the option.
    """
    for side in ("encoder", "decoder"):
        if options.get(f"{side}_layers_to_keep"):
            reason = "cannot be used with the plugin's models: fairseq declares a list of numbers there, "
            raise OptionError(f"{side}_layers_to_keep", reason + "and then looks for a text")


def budget_of(head_map: HeadMap, options: dict[str, Any]) -> Optional[HeadBudget]:
    """Return the budget that the options all methods share ask for; None if they ask for none.

    Raises:
        ValueError: see `HeadBudget`.
    """
    return BudgetOptions.of(options).budget(head_map)


def register_architectures(model: str) -> None:
    """Register `<model>_iwslt_de_en`, `_wmt_en_de`, `_multi30k` and `_multi30k_small` of a model."""
    for name, sizes in ARCHITECTURES.items():
        register_model_architecture(model, f"{model}_{name}")(sizes)


def register_all_sizes(model: str, prefix: str) -> None:
    """Register `<prefix>_<name>` of a model for every transformer architecture there is, stock or ours."""
    stock_names = [name for name, of in ARCH_MODEL_NAME_REGISTRY.items() if of == "transformer"]
    sizes = {name: ARCH_CONFIG_REGISTRY[name] for name in stock_names}
    sizes.update({f"transformer_{name}": made for name, made in ARCHITECTURES.items()})
    for name, made in sizes.items():
        if name != "transformer":  # the registered model itself
            register_model_architecture(model, f"{prefix}_{name}")(made)


def _narrow(args, layers: int, dim: int):
    for side in ("encoder", "decoder"):
        setattr(args, f"{side}_layers", getattr(args, f"{side}_layers", layers))
        setattr(args, f"{side}_embed_dim", getattr(args, f"{side}_embed_dim", dim))
        setattr(args, f"{side}_ffn_embed_dim", getattr(args, f"{side}_ffn_embed_dim", 2 * dim))
        setattr(args, f"{side}_attention_heads", getattr(args, f"{side}_attention_heads", 4))
    stock.base_architecture(args)


def multi30k(args):
    """Choose 3+3 layers, d 256, 4 heads: what two cores train on Multi30k in half an hour."""
    _narrow(args, layers=3, dim=256)


def multi30k_small(args):
    """Choose 2+2 layers, d 128, 4 heads (24 in all)."""
    _narrow(args, layers=2, dim=128)


# the sizes of stock architectures, and two that two cores can train
ARCHITECTURES = {
    "iwslt_de_en": stock.transformer_iwslt_de_en,
    "wmt_en_de": stock.transformer_wmt_en_de,
    "multi30k": multi30k,
    "multi30k_small": multi30k_small,
}
