"""Small configurations of every model in Transformers, made by the names of their fields.

Sizes that mean different things are different numbers wherever the configuration allows it, so that none is
taken for another: width 48, query heads 6, key/value heads 2, head 16 (8 where width / heads is fixed),
feed-forward 40, vocabulary 56.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from small_overrides import OVERRIDES
from transformers import CONFIG_MAPPING, PreTrainedConfig

WIDTH, HEADS, KEY_HEADS, HEAD, WIDE, VOCABULARY = 48, 6, 2, 16, 40, 56

# (field, the value of a whole number in it); the first that fits counts. None as a value: as it is.
_NUMBERS: Sequence[tuple[str, int | None]] = tuple(
    (re.compile(pattern), value)
    for pattern, value in (
        (r".*(type_vocab_size|vocab_offset)", None),
        (r".*vocab_size.*", VOCABULARY),
        (r".*(key_value_heads|kv_heads|n_heads_kv|head_kv|num_kv|key_value_groups)", KEY_HEADS),
        (r"(linear|mamba|index|ssm|conv)_.*|.*_linear_.*", None),
        (r".*lora_rank", 20),
        (r"qk_nope_head_dim", 8),
        (r"qk_rope_head_dim", 4),
        (r".*(head_dim|d_kv|head_size|v_head_dim|kv_channels|dim_head)", HEAD),
        (r".*(n_heads?|num_heads|attention_heads|num_att_heads|_heads)", HEADS),
        (r".*(first_k_dense_replace|num_dense_layers)", 1),
        (r".*(_layers?|num_blocks|depth|n_layer|num_block|num_blocks_per_stage|num_layers)", 2),
        (
            r".*(intermediate_size|ffn_dim|d_ff|n_inner|mlp_dim|ffn_hidden_size|inner_dim|ff_dim|d_inner|intermediate_dim|ffn_size|hidden_mlp_dim)",
            WIDE,
        ),
        (
            r".*(num_experts_per_tok|top_k|num_experts_per_token|moe_topk|moe_k|experts_top_k|experts_per_tok)",
            2,
        ),
        (r".*(num_experts|n_routed_experts|num_local_experts|moe_num_experts|n_experts)", 4),
        (r".*(n_group|topk_group|n_groups|num_expert_groups|n_expert_groups)", 1),
        (
            r"(embedding_size|.*projection_dim|.*proj_dim|.*projection_size|proj_size|classifier_proj_size)",
            20,
        ),
        (
            r"(.*hidden_size|d_model|.*embed_dim|n_embd|dim|emb_dim|hidden_dim|.*hidden_dim|model_dim|d_embed|.*_hidden_dims|hidden_channels|model_dimension|embed_size)",
            WIDTH,
        ),
        (
            r"(max_position_embeddings|n_positions|max_seq_len|max_sequence_length|n_ctx|max_target_positions|.*max_position.*|max_text_positions|seq_length|model_max_length)",
            64,
        ),
        (r"(max_source_positions|max_speech_positions)", 16),
        (r"(sliding_window|attention_window|local_attention|window_length)", 4),
        (r"(image_size|img_size)", 32),
        (r"(patch_size)", 8),
        (r"num_mel_bins", 16),
        (r"num_conv_pos_embeddings", 8),
        (r"num_conv_pos_embedding_groups", 2),
        (r"num_queries", 5),
        (r".*(codebook_size|codebook_dim|num_embeddings)", 32),
    )
)
_UNSET = re.compile(r".*(key_value_heads|kv_heads|head_dim)")  # given a number where None is the default, too
_LISTS: dict[str, Any] = {
    "conv_dim": [16, 16, 16],
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 3],
    "num_feat_extract_layers": 3,
    "attention_window": [4, 4],
}
_TOKENS = re.compile(r".*(_token_id|_token_index|_token_ids)$")
_FIRST = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}


def small_config(name: str | type[PreTrainedConfig]) -> PreTrainedConfig:
    """Make a small configuration.

    Args:
        name: a model type ("bert") or its class.

    Raises:
        Exception: the class refuses these sizes.
    """
    config_class = CONFIG_MAPPING[name] if isinstance(name, str) else name
    return config_class(**small_fields(config_class))


def small_fields(
    config_class: type[PreTrainedConfig], given: PreTrainedConfig | None = None
) -> dict[str, Any]:
    """Return the arguments of a small configuration.

    Args:
        given: a configuration of the class, for its defaults inside another one.
    """
    overrides = OVERRIDES.get(config_class.model_type, {})
    fields: dict[str, Any] = {}
    tokens = iter(range(4, VOCABULARY))
    for name, default in _defaults(config_class).items():
        if name in overrides:
            fields[name] = overrides[name]
        elif name in config_class.sub_configs:
            part = _part(config_class, name, default, given)
            if part is not None:
                fields[name] = part
        elif _TOKENS.match(name):
            if isinstance(default, int) or name in ("pad_token_id", "eos_token_id"):
                fields[name] = _FIRST[name] if name in _FIRST else next(tokens)
            elif isinstance(default, (list, tuple)):
                fields[name] = [next(tokens) for _ in default]
        elif name in _LISTS and isinstance(default, (list, tuple)) or name == "num_feat_extract_layers":
            fields[name] = _LISTS[name]
        elif default is None or isinstance(default, int) and not isinstance(default, bool):
            value = _number(name, default)
            if value is not None:
                fields[name] = value
    # latent attention: a key and a value for every head, of sizes of their own
    if fields.get("kv_lora_rank"):
        shared = {"num_key_value_heads": HEADS, "head_dim": fields.get("qk_rope_head_dim")}
        fields.update(
            {name: value for name, value in shared.items() if name in fields and name not in overrides}
        )
    fields.update({name: value for name, value in overrides.items() if name not in fields})
    return {**fields, **_layer_types(config_class, fields), **_rotary(config_class, fields)}


def _rotary(config_class: type[PreTrainedConfig], fields: dict[str, Any]) -> dict[str, Any]:
    """Return sections of rotary positions (time, height, width) that fit the size of a head."""
    if "rope_parameters" not in _defaults(config_class) or "rope_parameters" in fields:
        return {}
    try:
        rope = getattr(config_class(), "rope_parameters", None)
    except Exception:
        return {}
    if not isinstance(rope, dict) or "mrope_section" not in rope:
        return {}
    half = int((fields.get("head_dim") or WIDTH // HEADS) * rope.get("partial_rotary_factor", 1.0)) // 2
    return {"rope_parameters": {**rope, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}}


def _number(name: str, default: int | None) -> int | None:
    for pattern, value in _NUMBERS:
        if pattern.fullmatch(name):
            if default is None:  # a size that is worked out from others, but for those of heads
                return value if _UNSET.fullmatch(name) else None
            return value if value is not None and default > 1 else None
    return None


def _part(config_class: type[PreTrainedConfig], name: str, default: Any, given: Any) -> dict[str, Any] | None:
    """Return the fields of a configuration inside another, of the class that it has by default."""
    part_class = config_class.sub_configs[name]
    inside = getattr(config_class(), name, None) if given is None else getattr(given, name, None)
    if isinstance(inside, PreTrainedConfig):
        fields = small_fields(type(inside), inside)
        return {"model_type": inside.model_type, **fields} if inside.model_type else fields
    if inside is None and (default is None or not issubclass(part_class, PreTrainedConfig)):
        return None
    if issubclass(part_class, PreTrainedConfig) and part_class.__name__ != "AutoConfig":
        return small_fields(part_class)
    return None


def _layer_types(config_class: type[PreTrainedConfig], fields: dict[str, Any]) -> dict[str, Any]:
    """Return a layer of each kind that the model has by default, and at least two of attention."""
    if "layer_types" in fields or "layer_types" not in _defaults(config_class):
        return {}
    try:
        found: list[str] = list(dict.fromkeys(getattr(config_class(), "layer_types", None) or ()))
    except Exception:
        return {}
    if len(found) < 2:
        return {}
    attention = [kind for kind in found if "attention" in kind and "linear" not in kind] or found
    kinds = found + attention[-1:] if len(attention) < 2 else found
    layers = next(
        (name for name in ("num_hidden_layers", "n_layer", "num_layers") if name in _defaults(config_class)),
        None,
    )
    return {"layer_types": kinds, **({layers: len(kinds)} if layers else {})}


def _defaults(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    found = {}
    for field in dataclasses.fields(config_class):
        if field.name in common or field.name.startswith("_") or not field.init:
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = default
    return found
