"""The options in a fairseq checkpoint, held to what models and tasks declare before anything is built.

fairseq runs some options as programs (`eval`), resolves `${...}` in all of them, opens the files that some
name, and builds whatever model, task or criterion the file asks for. So of a checkpoint's options those are
read that the classes below declare, each in its declared type; other plugins' are left out, and anything else
is refused by name.
"""

import argparse
import logging
from collections.abc import Mapping
from typing import Any, Optional, Union

import torch

from .declared_options import (
    NAMES_OF_SECTIONS,
    check_model,
    class_of,
    declared_anywhere,
    model_types,
    types_of,
)
from .option_types import as_declared, check_inert, is_literal

logger = logging.getLogger(__name__)

Section = Union[argparse.Namespace, dict[str, Any]]

# what fairseq evaluates of models that DSP_ALLOW_MODELS may name (grep: eval, utils.eval_*, in
# fairseq/models)
_EVALUATED = set(
    """
    encoder_layers decoder_layers encoder_attention decoder_attention self_attention project_input
    gated_attention downsample pretrained character_filters conv_feature_layers conv_aggregator_layers
    adaptive_softmax_cutoff adaptive_input_cutoff encoder_glu decoder_glu weight_softmax
    encoder_xformers_att_config decoder_xformers_att_config xformers_att_config vggblock_enc_config
    encoder_kernel_size_list decoder_kernel_size_list input_layers conv_layers
    """.split()
)
_PROGRAMS = ("encoder_xformers_att_config", "decoder_xformers_att_config")
# names of files and addresses that are read when a model, tokenizer or generator is built; the weights are in
# the checkpoint
_FILES = set(
    """
    encoder_embed_path decoder_embed_path lm_path replace_unk bpe_codes bpe_merges bpe_vocab
    bpe_merges_path bpe_vocab_path sentencepiece_model sentencepiece_model_path gpt2_encoder_json
    gpt2_vocab_bpe quantization_config_path diff_pack dsee_checkpoint delta
    """.split()
)
# flat options of before fairseq 0.10.1 that `_upgrade_state_dict` knows by these names
_OLD_NAMES = {
    "max_positions": Optional[int],
    "raw_text": bool,
    "lazy_load": bool,
    "remove_bpe": Optional[str],
    "min_lr": float,
}
_warned: set[str] = set()


def check_options(state: dict[str, Any], path: str) -> None:
    """Replace a checkpoint's options (`cfg`, `args`) by those declared, and check what else fairseq obeys.

    Args:
        state: as it was loaded; changed in place.
        path: for messages.

    Raises:
        ValueError: a model that is not allowed, an option of another type than declared or out of range, or
            one that fairseq would run as a program; names the option.
    """
    from ... import register

    register()
    left_out: set[str] = set()
    try:
        if state.get("cfg") is not None:
            state["cfg"] = _sections(state["cfg"], left_out)
            _check_size((state["cfg"] or {}).get("model"), state.get("model"))
        if state.get("args") is not None:
            state["args"] = _flat(state["args"], left_out)
            _check_size(state["args"], state.get("model"))
        _check_history(state)
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    strange = sorted(name for name in left_out if name not in declared_anywhere())
    if strange and path not in _warned:
        _warned.add(path)
        shown = ", ".join(repr(name[:60]) for name in strange[:10]) + (" ..." if len(strange) > 10 else "")
        logger.warning(f"{path}: left out what no model, task or criterion here declares: {shown}")


def _sections(cfg: Any, left_out: set[str]) -> dict[str, Any]:
    """Read `cfg` of a checkpoint of fairseq 0.10.1 or later: {section: options}."""
    from fairseq.dataclass.configs import FairseqConfig

    if not isinstance(cfg, dict):
        raise ValueError(f"'cfg' is a {type(cfg).__name__}, not a table of options")
    sections = FairseqConfig.__dataclass_fields__.items()
    known = {name: field.type for name, field in sections if name != "_name"}
    found: dict[str, Any] = {}
    for section, options in cfg.items():
        if section == "_name":
            found[section] = None
        elif section not in known:
            left_out.add(str(section))
        elif options is None:
            found[section] = None
        elif section not in NAMES_OF_SECTIONS:
            found[section] = _read(section, options, types_of(known[section]), left_out)
        elif isinstance(options, str) and section != "model":  # `scoring: bleu`
            found[section] = as_declared(section, str, options)
        elif section == "model":
            found[section] = _model(options, left_out)
        else:
            found[section] = _named(section, options, left_out)
    return found


def _model(options: Any, left_out: set[str]) -> Section:
    name = check_model(_table_of("model", options))
    checked = _read("model", options, model_types(name), left_out)
    _put(checked, "_name", name)
    return checked


def _named(section: str, options: Any, left_out: set[str]) -> Section:
    """Read a section that names its class; nameless where the class is not among those built from files."""
    given = _table_of(section, options)
    name = given.get("_name")
    config = class_of(section, name)
    if config is None:
        left_out.add(f"{section} {name}")
        return {"_name": None}
    checked = _read(section, options, types_of(config), left_out)
    _put(checked, "_name", name)
    return checked


def _flat(args: Any, left_out: set[str]) -> argparse.Namespace:
    """Read `args` of before fairseq 0.10.1: all options in one Namespace, which Hydra is then to read."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.registry import REGISTRIES

    given = _table_of("args", args)
    name = check_model({"arch": given.get("arch")})
    types: dict[str, Any] = {**_OLD_NAMES, "arch": str}
    for section, field in FairseqConfig.__dataclass_fields__.items():
        if section not in NAMES_OF_SECTIONS and section != "_name":
            types.update(types_of(field.type))
    dropped = set()
    for section in ("task", *REGISTRIES):
        named = given.get(section)
        config = class_of(section, named)
        if config is not None:
            types.update({**types_of(config), section: str})
        elif named is not None and section != "task":
            dropped.add(section)
        elif named is not None:
            read = "of old checkpoints those of 'translation' are read"
            raise ValueError(f"its task is {str(named)[:60]!r}; {read}")
    types.update(model_types(name))
    checked = _read("args", argparse.Namespace(**given), types, left_out)
    left_out.update(f"{section} {given[section]}" for section in dropped)
    for key, value in vars(checked).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (
                any(c in text for c in "\\\n\r") or (isinstance(value, list) and "," in text)
            ):
                raise ValueError(f"option {key}: Hydra would not read {text[:60]!r} as it stands there")
    return checked


def _read(section: str, options: Any, types: Mapping[str, Any], left_out: set[str]) -> Section:
    """Return the declared ones of a section's options, in the same kind of container."""
    found: dict[str, Any] = {}
    for name, value in _table_of(section, options).items():
        if name == "_name":
            found[name] = None  # where a section names its class, the caller puts it in
        elif name not in types:
            check_inert(f"{section}.{name}", value)
            left_out.add(name)
        elif value is not None and name in _PROGRAMS:
            raise ValueError(f"option {name}: fairseq runs its value as a program: {str(value)[:60]!r}")
        elif name in _FILES:
            found[name] = None
        elif isinstance(value, str) and value == "???":
            pass  # omegaconf's "missing"
        else:
            if name in _EVALUATED and isinstance(value, str) and not is_literal(value):
                raise ValueError(f"option {name}: fairseq runs its value as a program: {value[:60]!r}")
            found[name] = as_declared(name, types[name], value)
    return argparse.Namespace(**found) if isinstance(options, argparse.Namespace) else found


def _table_of(section: str, options: Any) -> dict[str, Any]:
    values = vars(options) if isinstance(options, argparse.Namespace) else options
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"'{section}' is no table of options")
    return values


def _put(options: Section, name: str, value: Any) -> None:
    if isinstance(options, dict):
        options[name] = value
    else:
        setattr(options, name, value)


def _check_size(options: Optional[Section], tensors: Any) -> None:
    """Refuse sizes that would build a far larger model than the file's tensors are."""
    if options is None or not isinstance(tensors, dict):
        return
    given = options if isinstance(options, dict) else vars(options)

    def size(name: str, default: int) -> int:
        value = given.get(name)
        return value if isinstance(value, int) else default

    words = [
        t.shape[0]
        for n, t in tensors.items()
        if n.endswith("embed_tokens.weight") and isinstance(t, torch.Tensor) and t.dim()
    ]
    elements = sum(tensor.numel() for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    asked: dict[str, int] = {}
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        width, inner = size(f"{side}_embed_dim", 512), size(f"{side}_ffn_embed_dim", 2048)
        asked[f"{side}_layers, {side}_embed_dim, {side}_ffn_embed_dim"] = size(f"{side}_layers", 6) * (
            4 * width * width + 2 * width * inner + 10_000
        )
        asked[f"{side}_embed_dim"] = width * (max(words, default=0) + 100)
        asked[positions] = size(positions, 1024) * width
    asked["base_layers"] = size("base_layers", 0) * size("base_sublayers", 1) * 1_000_000
    for name, count in asked.items():
        if count > 4 * elements + (1 << 28):
            raise ValueError(f"{name}: such a model has {count:.1e} weights, and the file has {elements:.1e}")


def _check_history(state: dict[str, Any]) -> None:
    """Check what else fairseq's Trainer takes from a checkpoint: counters, and meters by class name."""
    from fairseq.logging import meters

    history = state.get("optimizer_history")
    if history is not None:
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise ValueError("'optimizer_history' is no list of tables")
        for entry in history:
            updates = entry.get("num_updates", 0)
            if type(updates) is not int or not 0 <= updates < 1 << 62:
                raise ValueError(f"num_updates is {str(updates)[:60]!r}")
    saved = (
        (state.get("extra_state") or {}).get("metrics")
        if isinstance(state.get("extra_state"), dict)
        else None
    )
    for group in (saved or {}).values() if isinstance(saved, (dict, type(None))) else [None]:
        for entry in group if isinstance(group, (list, tuple)) else [None]:
            named = entry[2] if isinstance(entry, (list, tuple)) and len(entry) == 4 else None
            kind = getattr(meters, named, None) if isinstance(named, str) else None
            if not (isinstance(kind, type) and issubclass(kind, meters.Meter)):
                raise ValueError(f"a meter of the class {str(named)[:60]!r}")
