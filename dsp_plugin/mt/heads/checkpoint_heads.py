"""Which heads a fairseq checkpoint has and keeps, read from its tensors and options alone."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from torch import Tensor, nn

from ... import register
from ...gating import AttentionBlock, BudgetOptions, HeadMap
from ...gating.head_map import in_order
from ...options.errors import OptionError
from ...surgery.record import compose, mask_of_record
from ..checkpoints.checkpoint import model_options
from .feed_forward import NEURONS
from .gated_model import GatedTransformerModel
from .gated_transformer import SCORES, block_kind, whole_record

CHOSEN = "gating.gates.chosen"
_OUTPUT_BIAS = re.compile(r"^(.*\.(?:self_attn|encoder_attn))\.out_proj\.bias$")
_SECOND_BIAS = re.compile(r"^((?:encoder|decoder)\.layers\.\d+\.fc2)\.bias$")


@dataclass
class CheckpointHeads:
    """Heads of one checkpoint.

    Attributes:
        head_map: its heads, in the order of the scores.
        keep: bool [N], the deployed mask; all True where the checkpoint has no scores.
        budget: heads kept; None where the checkpoint has no scores.
        method: name of the method it was pruned by; None where it has no scores.
    """

    head_map: HeadMap
    keep: Tensor
    budget: Optional[int]
    method: Optional[str] = None


def head_map_of_state(model_state: dict[str, Tensor], options: dict[str, Any]) -> HeadMap:
    """Build the HeadMap of a checkpoint's tensors; names and order as `head_map_of` the model built from it.

    Head counts come from the tensors' own shapes, so that models with heads removed are right too. Groups of
    neurons are in it where the options say their size.

    Raises:
        ValueError: there is no attention in it; a layer has no whole number of groups.
    """
    names = [match.group(1) for match in map(_OUTPUT_BIAS.match, model_state) if match]
    blocks = []
    for name in sorted(names, key=_layer_order):
        side = name.split(".", 1)[0]
        head_dim = int(options[f"{side}_embed_dim"]) // int(options[f"{side}_attention_heads"])
        width = model_state[f"{name}.q_proj.weight"].shape[0] if f"{name}.q_proj.weight" in model_state else 0
        blocks.append(AttentionBlock(name=name, num_heads=width // head_dim, kind=block_kind(name)))
    if not blocks:
        raise ValueError("the checkpoint has no attention blocks: it is not an encoder-decoder transformer")
    size = options.get(NEURONS) or 0
    layers = [match.group(1) for match in map(_SECOND_BIAS.match, model_state) if match] if size else []
    for name in sorted(layers, key=_layer_order):
        width = model_state[f"{name}.weight"].shape[1] if f"{name}.weight" in model_state else 0
        if width % size:
            raise ValueError(f"{name} has {width} neurons, which is no whole number of groups of {size}")
        blocks.append(AttentionBlock(name, width // size, block_kind(name), size))
    return HeadMap(in_order(blocks, lambda block: block.kind))


def heads_of_checkpoint(
    state: dict[str, Any], num_of_heads: Optional[int] = None, heads_per_kind: Optional[str] = None
) -> CheckpointHeads:
    """Return the heads a checkpoint keeps, by its own budget, or the `num_of_heads` its scores rank first.

    Args:
        heads_per_kind: instead of it a number for each kind, see `parse_heads_per_kind`.

    Raises:
        ValueError: K is outside 0..N, or is given for a checkpoint without head scores, or with scores of
            heads and of groups of neurons; a method that is not known.
    """
    options = model_options(state)
    head_map = head_map_of_state(state["model"], options)
    scores = state["model"].get(SCORES)
    if scores is None:
        given = {"num_of_heads": num_of_heads, "heads_per_kind": heads_per_kind}
        for name in [name for name, value in given.items() if value is not None]:
            reason = "was given, but the checkpoint has no head scores to rank its heads by: train it with "
            raise OptionError(name, reason + "{}, or leave the option out", name)
        return CheckpointHeads(head_map, torch.ones(head_map.num_heads, dtype=torch.bool), None)
    budget = BudgetOptions(num_of_heads, heads_per_kind)
    if budget.given:
        keep = budget.budget(head_map).select(scores.float())
    else:
        keep = gates_of_checkpoint(state, head_map).keep()
    return CheckpointHeads(head_map, keep, int(keep.sum()), model_of_checkpoint(state)[0].method)


def random_scores(state: dict[str, Any]) -> Optional[str]:
    """Say why a checkpoint's scores are nobody's choice; None where they are trained, ranked or unknown."""
    chosen = state["model"].get(CHOSEN)
    if chosen is not None:
        return None if bool(chosen) else "nothing has ranked the heads"
    updates = (state.get("optimizer_history") or [{}])[-1].get("num_updates")
    if updates is None:
        return None
    warmup = _options_of(state).get("pruning_warmup_updates") or 0
    if updates <= warmup:
        return (
            f"{updates} updates were made, {warmup} of them with all heads open"
            if warmup
            else "no update was made"
        )
    return None


def _options_of(state: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a checkpoint's model, with their values where it is one of ours."""
    register()
    options = model_options(state)
    model_class = ARCH_MODEL_REGISTRY.get(options.get("_name") or options.get("arch"))
    ours = model_class is not None and issubclass(model_class, GatedTransformerModel)
    return model_class.with_defaults(options) if ours else options


def model_of_checkpoint(state: dict[str, Any]) -> tuple[type[GatedTransformerModel], dict[str, Any]]:
    """Return the model class of a checkpoint with head scores, and all its options.

    Raises:
        ValueError: its model is none of this plugin's.
    """
    register()
    options = model_options(state)
    name = options.get("_name") or options.get("arch")
    model_class = ARCH_MODEL_REGISTRY.get(name)
    if model_class is None or not issubclass(model_class, GatedTransformerModel):
        raise ValueError(
            f"the checkpoint has head scores, but its model is {name!r}, which is none of this plugin's"
        )
    return model_class, model_class.with_defaults(options)


def gates_of_checkpoint(state: dict[str, Any], head_map: HeadMap) -> nn.Module:
    """Return the `HeadGates` that a checkpoint was trained with, its state loaded.

    Raises:
        ValueError: its model is none of this plugin's, or options and state do not fit.
    """
    model_class, options = model_of_checkpoint(state)
    if not model_class.wants_gates(options):
        raise ValueError(
            "the checkpoint does not say how many heads to keep: give --num-of-heads, "
            f"0..{head_map.num_heads}"
        )
    gates = model_class.build_gates(head_map, options)
    prefix = "gating.gates."
    saved = {k.removeprefix(prefix): v for k, v in state["model"].items() if k.startswith(prefix)}
    try:
        gates.load_state_dict(saved)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint's head scores do not fit its options ({error})") from error
    return gates


def original_head_map(now: HeadMap, options: dict[str, Any]) -> HeadMap:
    """Return the heads a model had before any removal, by its options; `now` are those it has left."""
    blocks = []
    for block in now.blocks:
        size = "ffn_embed_dim" if block.neurons else "attention_heads"
        count = int(options[f"{block.name.split('.', 1)[0]}_{size}"])
        blocks.append(replace(block, num_heads=count // (block.neurons or 1)))
    return HeadMap(blocks)


def in_original_numbers(state: dict[str, Any], heads: CheckpointHeads) -> CheckpointHeads:
    """Return the same heads among those of the model before any removal, for records and pictures.

    Raises:
        ValueError: the checkpoint's record of removed heads is damaged.
    """
    options = model_options(state)
    if not options.get("kept_heads"):
        return heads
    original = original_head_map(heads.head_map, options)
    try:
        earlier = whole_record(json.loads(options["kept_heads"]), original)
        record = compose(heads.head_map, heads.keep, earlier)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"the checkpoint's record of kept heads is damaged ({error})") from error
    return CheckpointHeads(original, mask_of_record(record, original), heads.budget, heads.method)


def widths_of(block: AttentionBlock, options: dict[str, Any]) -> tuple[int, int]:
    """Return the width of a block's queries and output, and that of its keys' and values' source.

    Cross-attention reads the encoder's output, all others what they attend from.
    """
    width = int(options[f"{block.name.split('.', 1)[0]}_embed_dim"])
    return width, int(options["encoder_embed_dim"]) if block.kind == "decoder-cross" else width


def parameters_of_head(block: AttentionBlock, options: dict[str, Any]) -> int:
    """Count the parameters that go with a head: its rows of q, k, v and biases, its columns of the output.

    With a group of neurons go their rows of the first linear, with biases, and their columns of the second.
    """
    width, source = widths_of(block, options)
    if block.neurons:
        return block.neurons * (2 * width + 1)
    head_dim = width // int(options[f"{block.name.split('.', 1)[0]}_attention_heads"])
    return head_dim * (2 * width + 2 * source + 3)


def _layer_order(name: str) -> list[Any]:
    """Order layers by number: 'layers.10' after 'layers.9'."""
    return [int(part) if part.isdigit() else part for part in name.split(".")]
