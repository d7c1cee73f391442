"""Where a Transformers model keeps its attention heads: found by the structure of its modules, not by a list of names.

Every attention module that calls Transformers' attention interface must have one of the layouts below; else the
model is refused, because a module that was overlooked would keep heads that are counted as gone.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Iterator, List, Optional, Tuple

from torch import nn
from transformers import PreTrainedModel

from ..gating import AttentionBlock, HeadMap
from .projections import Attention, Projection

KINDS = ("encoder-self", "decoder-cross", "decoder-self")
TESTED = "BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, GPT-2, Llama, BART, Marian, T5"

_HEAD_DIM = ("attention_head_size", "head_dim", "key_value_proj_dim")
_CROSS = {"encoder_attn", "crossattention", "cross_attn", "EncDecAttention"}
# (query, key, value), then the names the output projection may have; `..` is the module around the attention module
_SEPARATE = (
    (("q_proj", "k_proj", "v_proj"), ("out_proj", "o_proj")),  # BART, Marian, Llama and their kin
    (("query", "key", "value"), ("dense", "../output.dense")),  # ALBERT; BERT, RoBERTa, ELECTRA
    (("q_lin", "k_lin", "v_lin"), ("out_lin",)),  # DistilBERT
    (("q", "k", "v"), ("o",)),  # T5
)
# other weights an attention module may hold, because they belong to no head, or (T5's) are sliced while it runs
_SHARED_WEIGHTS = ("LayerNorm.", "relative_attention_bias.")


def head_map_of(model: nn.Module) -> HeadMap:
    """The heads of a model as they are now: encoder-self, then decoder-cross, then decoder-self blocks.

    Names are module paths inside the base model, so that a model with a task head and one without have the same;
    in a module of a user's own around Transformers models, paths inside that module. A layer that is used several
    times (ALBERT) is one block.

    Raises:
        ValueError: the model is not supported; names it and the reason.
    """
    return HeadMap([attention.block for attention in attentions_of(model)])


def attentions_of(root: nn.Module) -> List[Attention]:
    """The attention blocks in the order of `head_map_of`.

    Args:
        root: a Transformers model, or any module with Transformers models in it. Only what lies in those is counted.

    Raises:
        ValueError: see `head_map_of`.
    """
    models = transformers_models(root)
    if not models:
        raise ValueError(f"{type(root).__name__} is not a Transformers model, and holds none")
    for part in root.modules():
        if isinstance(part, PreTrainedModel) and not part._can_set_attn_implementation():
            raise _refusal(root, f"{type(part).__name__} works out its attention by itself, not through the attention interface")
    found = []
    for path, part in root.named_modules():
        if _dispatches(type(part)):
            found.append(_attention(root, path, part))
    if not found:
        raise _refusal(root, "none of its modules calls the attention interface")
    names = [attention.block.name for attention in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise _refusal(root, f"several of its attention blocks are called {doubled[0]}, in its base model and outside of it")
    return [attention for kind in KINDS for attention in found if attention.block.kind == kind]


def transformers_models(root: nn.Module) -> List[PreTrainedModel]:
    """The outermost Transformers models in `root`: itself, or the ones a module of a user's own holds."""
    if isinstance(root, PreTrainedModel):
        return [root]
    return [model for child in root.children() for model in transformers_models(child)]


@lru_cache(maxsize=None)
def _dispatches(module_class: type) -> bool:
    """Whether this class calls the attention interface. Transformers itself can only tell by the source, too."""
    try:
        return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(module_class.forward)
    except (OSError, TypeError):
        return False


def _attention(model: nn.Module, path: str, module: nn.Module) -> Attention:
    where = f"its attention module {path} ({type(module).__name__})"
    head_dim = next((getattr(module, name) for name in _HEAD_DIM if isinstance(getattr(module, name, None), int)), None)
    group = int(getattr(module, "num_key_value_groups", 1))
    name, projections = path, None if head_dim is None else _fused(module, head_dim)
    if projections is None and head_dim is not None:
        name, projections = _separate(model, path, module, head_dim, group)
    if projections is None:
        raise _refusal(model, f"{where} has projections of a layout that is not known here")
    if any(p.features % (p.unit * p.parts) for p in projections) or len({p.num_heads for p in projections}) != 1:
        raise _refusal(model, f"the projections of {where} do not have the shapes of heads of size {head_dim}")
    foreign = _foreign_weights(module, projections, head_dim)
    if foreign:
        raise _refusal(model, f"{where} has weights that may belong to heads in a way not known here: {', '.join(foreign)}")
    block = AttentionBlock(name=_name(model, name), num_heads=projections[0].num_heads, kind=_kind(path, module))
    return Attention(block, module, group, projections)


def _fused(module: nn.Module, head_dim: int) -> Optional[Tuple[Projection, ...]]:
    """GPT-2: query, key and value in one `c_attn`; in cross-attention key and value, and a `q_attn`."""
    joint, query, output = (getattr(module, name, None) for name in ("c_attn", "q_attn", "c_proj"))
    if joint is None or output is None:
        return None
    inputs = [Projection(joint, True, head_dim, parts=3 if query is None else 2)]
    inputs += [] if query is None else [Projection(query, True, head_dim)]
    return (*inputs, Projection(output, False, head_dim))


def _separate(
    root: nn.Module, path: str, module: nn.Module, head_dim: int, group: int
) -> Tuple[str, Optional[Tuple[Projection, ...]]]:
    parent = path.rpartition(".")[0]
    for inputs, outputs in _SEPARATE:
        if not all(isinstance(getattr(module, name, None), nn.Module) for name in inputs):
            continue
        for output in outputs:
            name, relative = (parent, output[3:]) if output.startswith("../") else (path, output)
            found = _submodule(root, f"{name}.{relative}")
            if found is not None:
                query, key, value = (getattr(module, name) for name in inputs)
                wide = head_dim * group
                shared = (Projection(key, True, head_dim), Projection(value, True, head_dim))
                return name, (Projection(query, True, wide), *shared, Projection(found, False, wide))
    return path, None


def _submodule(root: nn.Module, path: str) -> Optional[nn.Module]:
    try:
        found = root.get_submodule(path)
    except AttributeError:
        return None
    return found if getattr(found, "weight", None) is not None else None


def _foreign_weights(module: nn.Module, projections: Tuple[Projection, ...], head_dim: int) -> List[str]:
    known = {id(weight) for projection in projections for weight in projection.module.parameters()}
    return [
        name
        for name, weight in module.named_parameters()
        # one weight a feature of a head, the same for all heads (Qwen3's norms), is nobody's
        if id(weight) not in known and not name.startswith(_SHARED_WEIGHTS) and tuple(weight.shape) != (head_dim,)
    ]


def _name(root: nn.Module, path: str) -> str:
    """A path from `root` as the HeadMap has it: inside the base model of a Transformers model without its name."""
    prefix = getattr(root, "base_model_prefix", "") + "."
    inside = isinstance(root, PreTrainedModel) and root.base_model is not root and path.startswith(prefix)
    return path[len(prefix) :] if inside else path


def _kind(path: str, module: nn.Module) -> str:
    if getattr(module, "is_cross_attention", False) or _CROSS & set(path.split(".")):
        return "decoder-cross"
    return "decoder-self" if getattr(module, "is_causal", False) else "encoder-self"


def _refusal(model: nn.Module, reason: str) -> ValueError:
    return ValueError(f"{type(model).__name__} is not supported: {reason}. Tried are {TESTED}.")


def model_parts(model: nn.Module) -> Iterator[nn.Module]:
    """Every module of `model` that carries a configuration: the parts that choose an attention implementation."""
    return (part for part in model.modules() if hasattr(getattr(part, "config", None), "_attn_implementation"))
