"""fairseq's transformer options under the flat names of its command line."""

from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig, QuantNoiseConfig
from omegaconf import II

_SECTIONS = {"encoder": EncDecBaseConfig, "decoder": DecoderConfig, "quant_noise": QuantNoiseConfig}


def _flat_fields() -> list[tuple]:
    """Return the fields of fairseq's nested TransformerConfig under the flat names of its command line.

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
                flat.append(
                    (name, int, field(default=II("model.decoder_embed_dim"), metadata=dict(inner.metadata)))
                )
                continue
            default = inner.default if inner.default is not MISSING else inner.default_factory()
            flat.append((name, inner.type, field(default=default, metadata=dict(inner.metadata))))
    return flat


FlatTransformerConfig = make_dataclass("FlatTransformerConfig", _flat_fields(), bases=(FairseqDataclass,))
FlatTransformerConfig.__module__ = __name__


@dataclass
class GatedTransformerConfig(FlatTransformerConfig):
    """What every method's model takes beside fairseq's own options."""

    num_of_heads: Optional[int] = field(
        default=None,
        metadata={"help": "K: attention heads to keep, of all heads of the model (default: no pruning)"},
    )
    heads_per_kind: Optional[str] = field(
        default=None,
        metadata={
            "help": "heads to keep of each kind of attention instead of K in all: "
            "encoder-self=4,decoder-cross=4,decoder-self=1; with --neurons of each kind of layer, too: "
            "...,encoder-ffn=12,decoder-ffn=12 groups"
        },
    )
    neurons: Optional[int] = field(
        default=None,
        metadata={
            "help": "G: prune groups of G neurons of the feed-forward layers beside the heads; it divides "
            "their widths (default: heads alone)"
        },
    )
    min_heads_per_block: Optional[int] = field(
        default=None,
        metadata={
            "help": "heads that every attention block keeps at least, within the budget (default: worked out "
            "where the schedule is, else 0)"
        },
    )
    joint_pruning: bool = field(
        default=False,
        metadata={
            "help": "train the model and the head scores together; without it the model's weights stay as "
            "--restore-file or --finetune-from-model gives them and only the scores learn (pipelined)"
        },
    )
    pruning_lr: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of the head scores, apart from --lr and its schedule (default: worked out "
            "where the schedule is, else 0.2)"
        },
    )
    pruning_lr_decay_steps: Optional[int] = field(
        default=None,
        metadata={
            "help": "updates of the choice of heads over which --pruning-lr falls linearly to 0; at 0 it is "
            "constant, as published (default: worked out where the schedule is, else 0)"
        },
    )
    pruning_warmup_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "train the model with all heads open for so many updates before the choice of heads "
            "starts; a cool-down counts from there (default: worked out where the schedule is, else 0)"
        },
    )
    kept_heads: Optional[str] = field(
        default=None,
        metadata={
            "help": "record of head removal (JSON, block name to heads), written by 'dsp prune'; read "
            "from the "
            "checkpoint to restore, so there is no need to give it"
        },
    )


@dataclass
class ScheduledTransformerConfig(GatedTransformerConfig):
    """What the models of methods that learn their scores take, too. None is an option that was not given."""

    pruning_schedule: Optional[str] = field(
        default=None,
        metadata={
            "help": "auto: what of the schedule is not given is worked out from the length of the run, "
            "printed and recorded; published: the paper's numbers (default: auto where no option of the "
            "schedule is given)"
        },
    )
    init_scores: Optional[str] = field(
        default=None,
        metadata={
            "help": "what the scores are when learning starts: importance, the ranking that a sweep down to "
            "the budget makes on some training sentences, or random (default: worked out where the schedule "
            "is, else random)"
        },
    )
    derived_schedule: Optional[str] = field(
        default=None,
        metadata={
            "help": "the schedule that was worked out (JSON), written by the program; read from the "
            "checkpoint that a run goes on from, so there is no need to give it"
        },
    )
