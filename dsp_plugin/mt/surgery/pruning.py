"""Head removal for fairseq checkpoints: the heads that are not kept go out of the projections for good."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.transformer import base_architecture
from torch import Tensor

from ... import register
from ...gating import AttentionBlock, HeadMap
from ...options.errors import OptionError
from ...surgery import KeptHeads, Projections, check_record, compose, mask_of_record, slice_block
from ..checkpoints.built_in_types import checkpoint_to_start_from, options_by_section
from ..checkpoints.flat_config import FlatTransformerConfig
from ..heads.checkpoint_heads import (
    SCORES,
    head_map_of_state,
    heads_of_checkpoint,
    original_head_map,
    random_scores,
)
from ..heads.feed_forward import NEURONS, check_groups
from ..heads.gated_model import GatedTransformerModel
from ..heads.gated_transformer import encode_kept_heads, whole_record
from ..heads.methods.dsp import DSPTransformerConfig, DSPTransformerModel

Mask = Union[Sequence[bool], Tensor]

# how tensors end that stand beside a model's weights -> what they are
_BESIDE = {".adapter.down.weight": "adapters", ".update.down": "an update of DSEE's or LoRA's"}


@dataclass
class CheckpointModel:
    """The model of a checkpoint, ready to have heads taken out.

    Attributes:
        state: the checkpoint as it was loaded.
        cfg: its options by section, in built-in types.
        options: those of the model, as `dsp_transformer` takes them.
        tensors: its weights by the names of today.
        head_map: the heads it has now.
        original: the heads it had before any removal.
        earlier: the record of earlier removals, None if there were none.
    """

    state: dict[str, Any]
    cfg: dict[str, Any]
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    head_map: HeadMap
    original: HeadMap
    earlier: Optional[KeptHeads]


@dataclass
class Pruned:
    """A checkpoint after surgery.

    Attributes:
        state: the new checkpoint, of built-in types only.
        head_map: heads of the original model, N.
        keep: bool [N], the heads that are left.
        record: the same as {block: original head numbers}.
        heads_before: heads it had before this removal: N, unless it had been pruned already.
        parameters_before, parameters_after: weights without head scores, shared ones counted once.
    """

    state: dict[str, Any]
    head_map: HeadMap
    keep: Tensor
    record: KeptHeads
    heads_before: int
    parameters_before: int
    parameters_after: int


def prune_state(
    state: dict[str, Any], num_of_heads: Optional[int] = None, mask: Optional[Mask] = None
) -> Pruned:
    """Remove the heads that the checkpoint's scores, or `mask`, do not keep.

    The result is what `dsp_transformer` with the option `kept_heads` loads. It has no scores and no optimizer
    state.

    Args:
        state: see `checkpoints.load_checkpoint`; left as it is.
        num_of_heads: K instead of the checkpoint's own.
        mask: instead of scores: bool [heads the model has now], True = kept, in HeadMap order.

    Raises:
        ValueError: K outside 0..N, neither scores nor mask, a mask of another length, another kind of model,
            or tensors that do not fit the options.
    """
    source = prepare(state)
    return remove_heads(source, choose_heads(source, num_of_heads, mask))


def prepare(state: dict[str, Any], neurons: Optional[int] = None) -> CheckpointModel:
    """Read and check what surgery needs to know of a checkpoint, without its data folder.

    Args:
        neurons: how many make a group, a unit beside the heads; None: as the checkpoint says, which is heads
            alone where it was not trained with `--neurons`.

    Raises:
        ValueError: it is of another kind of model, or its tensors, options and record contradict each other;
            groups of that size cannot be.
    """
    register()
    cfg = options_by_section(state)
    options = dsp_model_options(cfg)
    tensors = _split_projections(state["model"])
    for ending, what in _BESIDE.items():
        if any(name.endswith(ending) for name in tensors):
            program = "delta" if what == "adapters" or "delta" in (state.get("task_state") or {}) else "dsee"
            raise ValueError(
                f"the checkpoint holds {what} beside its weights: make a file of it (scripts/mt/pack_"
                f"{program}.py) and a plain model of that (dsp {program} merge)"
            )
    if neurons is not None and neurons != (options.get(NEURONS) or neurons):
        reason = f"{neurons}: the checkpoint's groups are of {options[NEURONS]} neurons"
        raise OptionError(NEURONS, reason)
    if size := options.get(NEURONS) or neurons:
        check_groups(size, options)
        options[NEURONS] = size
    now = head_map_of_state(tensors, options)
    original = original_head_map(now, options)
    earlier = None
    if options.get("kept_heads"):
        try:
            earlier = json.loads(options["kept_heads"])
        except ValueError as error:
            raise ValueError(f"the checkpoint's record of kept heads is damaged ({error})") from error
        if isinstance(earlier, dict):
            earlier = whole_record(earlier, original)
        check_record(earlier, original)
    elif now != original:
        raise ValueError(
            "the checkpoint has other head counts than its options say, and no record of a removal"
        )
    return CheckpointModel(state, cfg, options, tensors, now, original, earlier)


def choose_heads(
    source: CheckpointModel,
    num_of_heads: Optional[int] = None,
    mask: Optional[Mask] = None,
    heads_per_kind: Optional[str] = None,
) -> Tensor:
    """Choose the heads to keep, bool [heads the model has now].

    Arguments and errors as `prune_state`; `heads_per_kind` as `heads_of_checkpoint`.
    """
    count = source.head_map.num_heads
    if mask is not None:
        if num_of_heads is not None:
            reason = "and {} exclude each other: a mask says itself which heads stay"
            raise OptionError("num_of_heads", reason, "mask")
        keep = torch.as_tensor(mask).bool()
        if keep.shape != (count,):
            raise ValueError(f"the mask has {keep.numel()} entries, the model {count} heads")
        return keep
    scores = source.tensors.get(SCORES)
    if scores is None:
        pruned = " (heads were removed from it before)" if source.earlier else ""
        raise ValueError(
            f"the checkpoint has no head scores{pruned}, so nothing says which heads to keep: train it with "
            "--num-of-heads K (jointly, or pipelined from this checkpoint), or name the heads with --mask "
            "FILE.json"
        )
    if scores.shape != (count,):
        raise ValueError(f"the checkpoint has scores for {scores.numel()} heads and weights for {count}")
    why = random_scores(source.state)
    if why is not None:
        raise ValueError(
            f"the checkpoint's head scores are those of the random start: {why}. Train it with the method's "
            "own task, criterion and optimizer, or name the heads to keep with --mask FILE.json"
        )
    state = {**source.state, "model": source.tensors}
    return heads_of_checkpoint(state, num_of_heads, heads_per_kind).keep


def remove_heads(source: CheckpointModel, keep: Tensor) -> Pruned:
    """Take the heads out. `keep` is bool [heads the model has now].

    Raises:
        ValueError: tensors that do not fit each other.
    """
    options = dict(source.options)
    record = compose(source.head_map, keep, source.earlier)
    here = source.head_map.kept_by_block(keep)
    model = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("gating.")}
    for block in source.head_map.blocks:
        own = take_block(model, block)
        try:
            size, names = head_dim_of(block, options), projections_of(block)
            own = slice_block(own, here[block.name], size, names)
        except ValueError as error:
            raise ValueError(f"{block.name}: {error}") from error
        put_block(model, block, own)
    # no gates any more: every method's options as they are by default
    options.update(
        {
            name: field.default
            for name, field in DSPTransformerConfig.__dataclass_fields__.items()
            if name not in FlatTransformerConfig.__dataclass_fields__
        }
    )
    options.update({"kept_heads": encode_kept_heads(record), NEURONS: source.options.get(NEURONS)})
    return Pruned(
        state=checkpoint_to_start_from(source.state, {**source.cfg, "model": options}, model),
        head_map=source.original,
        keep=mask_of_record(record, source.original),
        record=record,
        heads_before=source.head_map.num_heads,
        parameters_before=count_parameters(source.tensors, options),
        parameters_after=count_parameters(model, options),
    )


def dsp_model_options(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `dsp_transformer` for a checkpoint of ours or of stock fairseq's transformer.

    Raises:
        ValueError: the checkpoint is of another kind of model.
    """
    given = dict(cfg.get("model") or {})
    name = given.get("_name") or given.get("arch")
    model_class = ARCH_MODEL_REGISTRY.get(name)
    ours = model_class is not None and issubclass(model_class, GatedTransformerModel)
    if not ours and ARCH_MODEL_NAME_REGISTRY.get(name) != "transformer":
        raise ValueError(
            f"the checkpoint's model is {name!r}; heads can be removed from fairseq's 'transformer' and this "
            "plugin's models"
        )
    filled = Namespace(**given)
    base_architecture(filled)  # what old checkpoints leave out
    known = DSPTransformerConfig.__dataclass_fields__
    options = {key: value for key, value in vars(filled).items() if key in known}
    return {**options, "_name": name if model_class is DSPTransformerModel else "dsp_transformer"}


def head_dim_of(block: AttentionBlock, options: dict[str, Any]) -> int:
    """Return how many rows and columns of a block's projections go with a head, or with a group."""
    if block.neurons:
        return block.neurons
    return int(options[f"{_side(block)}_embed_dim"]) // int(options[f"{_side(block)}_attention_heads"])


def take_block(model: dict[str, Tensor], block: AttentionBlock) -> dict[str, Tensor]:
    """Move a block's tensors out of `model`, under their names inside the block.

    Those of a feed-forward block are `fc1` and `fc2`, inside the layer.
    """
    prefix, starts = _prefix(block), block.name + "."
    if block.neurons:
        starts = tuple(f"{prefix}{part}." for part in ("fc1", "fc2"))
    return {name[len(prefix) :]: model.pop(name) for name in list(model) if name.startswith(starts)}


def put_block(model: dict[str, Tensor], block: AttentionBlock, tensors: dict[str, Tensor]) -> None:
    """Undo `take_block`."""
    model.update({f"{_prefix(block)}{name}": tensor for name, tensor in tensors.items()})


def projections_of(block: AttentionBlock) -> Projections:
    """Return the names of a block's projections, as `take_block` has them."""
    return Projections(("fc1",), "fc2") if block.neurons else Projections()


def _prefix(block: AttentionBlock) -> str:
    return block.name.removesuffix("fc2") if block.neurons else block.name + "."


def count_parameters(tensors: dict[str, Tensor], options: dict[str, Any]) -> int:
    """Count a checkpoint's weights: without head scores and buffers, shared embeddings once."""
    shared = {"decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    if options.get("share_all_embeddings") or options.get("merge_src_tgt_embed"):
        shared.add("encoder.embed_tokens.weight")
    elif not options.get("share_decoder_input_output_embed"):
        shared = set()
    sizes = {}
    for name, tensor in tensors.items():
        if not name.startswith("gating.") and name.rsplit(".", 1)[-1] not in (
            "version",
            "_float_tensor",
            "weights",
        ):
            # by the options, because a checkpoint from a GPU holds shared tensors as copies; else by storage
            sizes["shared" if name in shared else tensor.data_ptr()] = tensor.numel()
    return sum(sizes.values())


def _side(block: AttentionBlock) -> str:
    return block.name.split(".", 1)[0]


def _split_projections(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split old fairseq's projections, joined in `in_proj_weight` [3 C, C] and `in_proj_bias` [3 C]."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.items():
        block, _, last = name.rpartition(".")
        if last in ("in_proj_weight", "in_proj_bias"):
            # [3 C, C] -> three of [C, C]; [3 C] -> three of [C]
            for projection, part in zip("qkv", tensor.chunk(3)):
                tensors[f"{block}.{projection}_proj.{last[len('in_proj_') :]}"] = part.clone()
        else:
            tensors[name] = tensor
    return tensors
