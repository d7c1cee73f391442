"""Location of a Transformers model's attention heads, by the structure of its modules and their source.

Every module that computes attention must have one of the layouts of `families`; else the model is refused,
because a module that was overlooked would keep heads that are counted as removed. A size alone never decides
what a tensor is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from ....gating import AttentionBlock
from ....gating.head_map import in_order
from .families import CROSS, FURTHER, HEAD_DIM, JOINT, OWN_FORWARD, SEPARATE, TESTED, OwnForward, family_of
from .fixed_sizes import NotKnown, sizes_of
from .foreign_weights import check_foreign_weights
from .other_attention import overlooked_attention
from .projections import Attention, Projection, Units
from .size_probe import Probe, probe
from .sources import dispatches, pairs_heads
from .wrappers import projection_reason


class NotSupported(ValueError):
    """Raised for a model whose blocks have no layout that is known; names it and the reason."""


def attentions_of(root: nn.Module) -> list[Attention]:
    """Return the attention blocks: encoder-self, then decoder-cross, then decoder-self.

    Args:
        root: a Transformers model, or any module with Transformers models in it. Only blocks in those count.

    Raises:
        NotSupported: the model is not supported.
        ValueError: there is no Transformers model.
    """
    models = transformers_models(root)
    if not models:
        raise ValueError(f"{type(root).__name__} is not a Transformers model, and holds none")
    inside = {id(part) for model in models for part in model.modules()}
    found = []
    for path, part in root.named_modules():
        own = OWN_FORWARD.get(family_of(type(part)))
        if id(part) not in inside or not (own is not None or dispatches(type(part))):
            continue
        try:
            found.append(_attention(root, path, part, own))
        except NotKnown as error:
            raise refusal(root, f"its attention module {path} ({type(part).__name__}) {error}") from None
        except Exception as error:  # a class that was never tried here may raise anything
            reason = f"cannot be looked at ({type(error).__name__}: {error})"
            raise refusal(root, f"its attention module {path} ({type(part).__name__}) {reason}") from error
    overlooked = overlooked_attention(models, [attention.module for attention in found])
    if overlooked is not None:
        raise refusal(root, f"its module {overlooked} works out attention by itself, in a way not known here")
    if not found:
        raise refusal(root, "none of its modules calls the attention interface")
    check_alone(root, found)
    return in_order(found, lambda attention: attention.block.kind)


def transformers_models(root: nn.Module) -> list[PreTrainedModel]:
    """Return the outermost Transformers models in `root`: itself, or those in a user's own module."""
    if isinstance(root, PreTrainedModel):
        return [root]
    found = [model for child in root.children() for model in transformers_models(child)]
    return list({id(model): model for model in found}.values())


def model_parts(root: nn.Module) -> Iterator[nn.Module]:
    """Yield every module with a configuration that chooses its attention implementation."""
    without_interface = {
        id(part.config)
        for part in root.modules()
        if isinstance(part, PreTrainedModel) and not part._can_set_attn_implementation()
    }
    for part in root.modules():
        config = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation") and id(config) not in without_interface:
            yield part


def _attention(root: nn.Module, path: str, module: nn.Module, own: OwnForward | None) -> Attention:
    named = (getattr(module, name, None) for name in HEAD_DIM)
    head_dim = next((size for size in named if isinstance(size, int)), None)
    group = _group(module)
    name, projections = path, None if head_dim is None else _joint(module, head_dim, group)
    if projections is None and head_dim is not None:
        name, projections = _separate(root, path, module, head_dim, group)
    if projections is None:
        raise NotKnown("has projections of a layout that is not known here")
    for projection in projections:
        # quantised by torch.ao: a method is called so
        if not isinstance(getattr(projection.module, "weight", None), Tensor):
            raise NotKnown(f"has a projection that {projection_reason(projection.module)}")
    if (
        any(p.features % (p.unit * p.parts) for p in projections)
        or len({p.num_heads for p in projections}) != 1
    ):
        raise NotKnown(f"has projections that do not have the shapes of heads of size {head_dim}")
    reason = None if own is None else own.unless(module)
    if reason is not None:
        raise NotKnown(reason)
    if any(getattr(module, flag, False) is True for flag in ("is_kv_shared_layer", "store_full_length_kv")):
        raise NotKnown("shares its keys and values with other blocks, whose heads are counted for themselves")
    look = partial(_probe_of, root, path, projections)
    if pairs_heads(type(module)):
        raise NotKnown("splits or repeats its heads by their places, so that none can go without the others")
    sizes = sizes_of(module, projections, group, head_dim, frozenset() if own is None else own.no_sizes, look)
    check_foreign_weights(module, projections, look)
    block = AttentionBlock(
        name=block_name(root, name), num_heads=projections[0].num_heads, kind=_kind(path, module, own)
    )
    biases = () if own is None else own.biases
    return Attention(block, module, projections, sizes, group, biases, dispatches=own is None)


def _probe_of(root: nn.Module, path: str, projections: tuple[Projection, ...]) -> Probe | None:
    """Probe an attention module in the innermost Transformers model around it that can be built again."""
    inside = {id(part): name for name, part in root.get_submodule(path).named_modules()}
    names = [inside.get(id(projection.module)) for projection in projections]
    steps = path.split(".")
    for count in reversed(range(len(steps))):
        part = root.get_submodule(".".join(steps[:count]))
        if isinstance(part, PreTrainedModel):
            found = probe(part, ".".join(steps[count:]), partial(_has_twice, projections, names))
            if found is not None:
                return found
    return None


def _has_twice(
    projections: tuple[Projection, ...], names: list[str | None], once: nn.Module, twice: nn.Module
) -> bool:
    """Return whether all projections inside the attention module have twice the heads, of the same size."""
    for projection, name in zip(projections, names):
        if name is None:  # in the module around
            continue
        old, new = (replace(projection, module=module.get_submodule(name)) for module in (once, twice))
        if new.features != 2 * old.features or old.features % (projection.unit * projection.parts):
            return False
    return True


def _group(module: nn.Module) -> int:
    if family_of(type(module)).startswith("falcon."):
        return module.num_heads // module.num_kv_heads
    return int(getattr(module, "num_key_value_groups", 1))


def _joint(module: nn.Module, head_dim: int, group: int) -> tuple[Projection, ...] | None:
    """Find the projections of a module with query, key and value in one matrix; None in any other."""
    family = family_of(type(module))
    for joint in JOINT:
        if family in joint.classes:
            unit, parts = ((group + 2) * head_dim, 1) if joint.interleaved else (head_dim, 3)
            matrix, output = getattr(module, joint.input), getattr(module, joint.output)
            return Projection(matrix, True, unit, parts), Projection(output, False, group * head_dim)
    # GPT-2: `c_attn`; in cross-attention key and value only, and a `q_attn`
    matrix, query, output = (getattr(module, name, None) for name in ("c_attn", "q_attn", "c_proj"))
    if matrix is None or output is None:
        return None
    inputs = [Projection(matrix, True, head_dim, parts=3 if query is None else 2)]
    inputs += [] if query is None else [Projection(query, True, head_dim)]
    return (*inputs, Projection(output, False, head_dim))


def _separate(
    root: nn.Module, path: str, module: nn.Module, head_dim: int, group: int
) -> tuple[str, tuple[Projection, ...] | None]:
    """Find separate projections, and the path that names the block: the parent's if that has the output."""
    parent = path.rpartition(".")[0]
    for inputs, outputs in SEPARATE:
        if not all(isinstance(getattr(module, name, None), nn.Module) for name in inputs):
            continue
        for output in outputs:
            name, relative = (parent, output[3:]) if output.startswith("../") else (path, output)
            found = _submodule(root, f"{name}.{relative}")
            if found is not None:
                query, key, value = (getattr(module, name) for name in inputs)
                wide = head_dim * group
                shared = [key, value, *(getattr(module, more) for more in FURTHER if hasattr(module, more))]
                inputs = [
                    Projection(query, True, wide),
                    *(Projection(part, True, head_dim) for part in shared),
                ]
                return name, (*inputs, Projection(found, False, wide))
    return path, None


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    try:
        found = root.get_submodule(path)
    except AttributeError:
        return None
    return found if getattr(found, "weight", None) is not None else None


def check_alone(root: nn.Module, found: Sequence[Units]) -> None:
    """Check that every block has a name and an output projection of its own.

    Raises:
        NotSupported: two have the same.
    """
    outputs = Counter(id(attention.output.module) for attention in found)
    names = Counter(attention.block.name for attention in found)
    for attention in found:
        name = attention.block.name
        if names[name] > 1:
            raise refusal(root, f"several of its blocks are called {name}, in its base model or outside")
        if outputs[id(attention.output.module)] > 1:
            reason = "is another block's, too, and cannot tell whose units it is given"
            raise refusal(root, f"the output projection of {name} {reason}")


def block_name(root: nn.Module, path: str) -> str:
    """Return the name of a block in the HeadMap: its path, without the name of the base model in front."""
    prefix = getattr(root, "base_model_prefix", "") + "."
    inside = isinstance(root, PreTrainedModel) and root.base_model is not root and path.startswith(prefix)
    return path[len(prefix) :] if inside else path


def _kind(path: str, module: nn.Module, own: OwnForward | None) -> str:
    if getattr(module, "is_cross_attention", False) or CROSS & set(path.split(".")):
        return "decoder-cross"
    if own is not None and (own.causal or getattr(module, "is_decoder", False)):
        return "decoder-self"
    return "decoder-self" if getattr(module, "is_causal", False) else "encoder-self"


def refusal(root: nn.Module, reason: str) -> NotSupported:
    """Return the error for a model that is not supported."""
    return NotSupported(f"{type(root).__name__} is not supported: {reason}. Tried are {TESTED}.")
