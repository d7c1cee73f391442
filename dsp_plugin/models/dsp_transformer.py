"""`dsp_transformer`: fairseq's transformer that learns which K of its attention heads to keep."""

import logging
import math
from argparse import Namespace
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import List, Optional, Tuple

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.models.transformer import transformer_legacy as stock
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig, QuantNoiseConfig
from omegaconf import II, OmegaConf
from torch import nn

from ..gating import ExponentialCooling, RelaxedSubset, StraightThroughSubset, Switchboard, constant_temperature
from ..mt.gated_transformer import (
    GatedDecoder,
    GatedEncoder,
    apply_kept_heads,
    connect,
    head_map_of,
)
from ..optim.dsp_adam import mark_scores

logger = logging.getLogger(__name__)

__all__ = ["DSPTransformerConfig", "DSPTransformerModel"]

_SECTIONS = {"encoder": EncDecBaseConfig, "decoder": DecoderConfig, "quant_noise": QuantNoiseConfig}


def _flat_fields() -> List[Tuple]:
    """The fields of fairseq's nested TransformerConfig under the flat names of its command line.

    Taken from the host, so that our options are always the host's; flat, because both --arch functions
    and YAML files speak flat names (fairseq itself has no config group for its transformer).
    """
    flat = []
    for outer in fields(TransformerConfig):
        if outer.name == "_name":
            continue
        section = _SECTIONS.get(outer.name)
        for inner in fields(section) if section else [outer]:
            if section and inner.name == "_name":
                continue
            name = f"{outer.name}_{inner.name}" if section else inner.name
            if name in ("decoder_input_dim", "decoder_output_dim"):
                flat.append((name, int, field(default=II("model.decoder_embed_dim"), metadata=dict(inner.metadata))))
                continue
            default = inner.default if inner.default is not MISSING else inner.default_factory()
            flat.append((name, inner.type, field(default=default, metadata=dict(inner.metadata))))
    return flat


FlatTransformerConfig = make_dataclass("FlatTransformerConfig", _flat_fields(), bases=(FairseqDataclass,))
FlatTransformerConfig.__module__ = __name__


@dataclass
class DSPTransformerConfig(FlatTransformerConfig):
    num_of_heads: Optional[int] = field(
        default=None,
        metadata={"help": "K: attention heads to keep, of all heads of the model (default: no pruning)"},
    )
    joint_pruning: bool = field(
        default=False,
        metadata={
            "help": "train the model and the head scores together; without it the model's weights stay as "
            "--restore-file or --finetune-from-model gives them and only the scores learn (pipelined)"
        },
    )
    pruning_lr: float = field(
        default=0.2, metadata={"help": "constant learning rate of the head scores, apart from --lr and its schedule"}
    )
    use_ste: bool = field(
        default=False, metadata={"help": "straight-through: hard top-K forward, identity backward; no annealing"}
    )
    annealing: bool = field(
        default=False,
        metadata={"help": "cool the sampler from --initial-temperature to --final-temperature over --cooldown-steps"},
    )
    initial_temperature: float = field(default=0.1, metadata={"help": "temperature of the sampler at update 0"})
    final_temperature: float = field(
        default=1e-8, metadata={"help": "temperature at the end of the cool-down, and throughout without --annealing"}
    )
    cooldown_steps: int = field(default=15000, metadata={"help": "updates of the cool-down"})
    kept_heads: Optional[str] = field(
        default=None,
        metadata={"help": "record of head removal (JSON, block name to heads), written by 'dsp prune'; read from the "
                  "checkpoint to restore, so there is no need to give it"},
    )


@register_model("dsp_transformer", dataclass=DSPTransformerConfig)
class DSPTransformerModel(TransformerModelBase):
    """Encoder-decoder transformer with a gate on every attention head.

    With `num_of_heads` = K it carries head scores: every training forward samples relaxed gates, `eval()`
    uses the K best heads and nothing else. Without it, or after head removal, there are no gates and the
    model is the stock transformer with a fused attention path.
    """

    def __init__(self, cfg, encoder, decoder):
        super().__init__(cfg, encoder, decoder)
        self.gating: Optional[Switchboard] = None

    add_args = classmethod(BaseFairseqModel.add_args.__func__)

    @classmethod
    def build_model(cls, cfg, task):
        """Build from the flat config.

        Raises:
            ValueError: K outside 0..N, options that exclude each other, a damaged `kept_heads`.
        """
        check_options(cfg)
        flat = OmegaConf.to_container(cfg, resolve=True)
        stock_names = {name for name, *_ in _flat_fields()}
        model = super().build_model(
            TransformerConfig.from_namespace(Namespace(**{k: v for k, v in flat.items() if k in stock_names})), task
        )
        if flat["kept_heads"]:
            apply_kept_heads(model, flat["kept_heads"])
        if flat["num_of_heads"] is not None:
            model.add_gates(build_gates(head_map_of(model), flat), flat["pruning_lr"], joint=flat["joint_pruning"])
        return model

    @classmethod
    def build_encoder(cls, cfg, src_dict, embed_tokens):
        return GatedEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        return GatedDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    def add_gates(self, gates: nn.Module, pruning_lr: float, joint: bool) -> None:
        """Put `gates` (a `HeadGates` module) on the heads; pipelined (`joint` false) freezes everything else."""
        if not joint:
            self.requires_grad_(False)
        self.gating = Switchboard(head_map_of(self), gates)
        for parameter in gates.parameters():
            mark_scores(parameter, pruning_lr)
        connect(self, self.gating)

    def forward(self, *args, **kwargs):
        if self.gating is not None:
            self.gating.draw()
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


def check_options(options) -> None:
    """Refuse options (a full `DSPTransformerConfig`) that exclude each other.

    Raises:
        ValueError: naming the options.
    """
    if options.use_ste and options.annealing:
        raise ValueError("--use-ste has no temperature: give either --use-ste or --annealing")
    if options.num_of_heads is None:
        for name in ("joint_pruning", "use_ste", "annealing"):
            if options[name]:
                raise ValueError(f"--{name.replace('_', '-')} needs --num-of-heads K, the number of heads to keep")
    if not 0 < options.pruning_lr < math.inf:
        raise ValueError(f"--pruning-lr must be above 0 and finite, got {options.pruning_lr}")


def build_gates(head_map, options: dict) -> nn.Module:
    """DSP's gates for `head_map` from the model's options (see `DSPTransformerConfig`)."""
    if options["use_ste"]:
        return StraightThroughSubset(head_map, options["num_of_heads"])
    schedule = (
        ExponentialCooling(options["initial_temperature"], options["final_temperature"], options["cooldown_steps"])
        if options["annealing"]
        else constant_temperature(options["final_temperature"])
    )
    return RelaxedSubset(head_map, options["num_of_heads"], schedule)


# stock architectures' sizes under our model
register_model_architecture("dsp_transformer", "dsp_transformer_iwslt_de_en")(stock.transformer_iwslt_de_en)
register_model_architecture("dsp_transformer", "dsp_transformer_wmt_en_de")(stock.transformer_wmt_en_de)


def _narrow(args, layers: int, dim: int):
    for side in ("encoder", "decoder"):
        setattr(args, f"{side}_layers", getattr(args, f"{side}_layers", layers))
        setattr(args, f"{side}_embed_dim", getattr(args, f"{side}_embed_dim", dim))
        setattr(args, f"{side}_ffn_embed_dim", getattr(args, f"{side}_ffn_embed_dim", 2 * dim))
        setattr(args, f"{side}_attention_heads", getattr(args, f"{side}_attention_heads", 4))
    stock.base_architecture(args)


@register_model_architecture("dsp_transformer", "dsp_transformer_multi30k")
def dsp_transformer_multi30k(args):
    """3+3 layers, d 256, 4 heads: what two cores train on Multi30k in half an hour."""
    _narrow(args, layers=3, dim=256)


@register_model_architecture("dsp_transformer", "dsp_transformer_multi30k_small")
def dsp_transformer_multi30k_small(args):
    """2+2 layers, d 128, 4 heads (24 in all)."""
    _narrow(args, layers=2, dim=128)
