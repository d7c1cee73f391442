"""The options in a fairseq checkpoint, held to what their models and tasks declare before anything is built
from them.

fairseq runs some options as programs (`eval`), resolves `${...}` in all of them, opens the files that some
name, and builds whatever model, task or criterion the file asks for. So of a checkpoint's options those are
read that the classes below declare, each in its declared type; other plugins' are left out, and anything else
is refused by name.
"""

import argparse
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, Optional, Union

import torch

from .option_types import as_declared, check_plain, is_literal

logger = logging.getLogger(__name__)

ALLOW_MODELS = "DSP_ALLOW_MODELS"

Section = Union[argparse.Namespace, dict[str, Any]]

_TASKS = {"translation"}
_CRITERIONS = {
    "cross_entropy",
    "label_smoothed_cross_entropy",
    "label_smoothed_cross_entropy_with_alignment",
    "adaptive_loss",
}
# what fairseq evaluates of models that DSP_ALLOW_MODELS may name (grep: eval, utils.eval_*, in
# fairseq/models)
_EVALUATED = {
    "encoder_layers",
    "decoder_layers",
    "encoder_attention",
    "decoder_attention",
    "self_attention",
    "project_input",
    "gated_attention",
    "downsample",
    "pretrained",
    "character_filters",
    "conv_feature_layers",
    "conv_aggregator_layers",
    "adaptive_softmax_cutoff",
    "adaptive_input_cutoff",
    "encoder_glu",
    "decoder_glu",
    "weight_softmax",
    "encoder_xformers_att_config",
    "decoder_xformers_att_config",
    "xformers_att_config",
    "vggblock_enc_config",
    "encoder_kernel_size_list",
    "decoder_kernel_size_list",
    "input_layers",
    "conv_layers",
}
_PROGRAMS = ("encoder_xformers_att_config", "decoder_xformers_att_config")
# names of files and addresses that are read when a model, tokenizer or generator is built; the weights are in
# the checkpoint
_FILES = {
    "encoder_embed_path",
    "decoder_embed_path",
    "lm_path",
    "replace_unk",
    "bpe_codes",
    "bpe_merges",
    "bpe_vocab",
    "bpe_merges_path",
    "bpe_vocab_path",
    "sentencepiece_model",
    "sentencepiece_model_path",
    "gpt2_encoder_json",
    "gpt2_vocab_bpe",
    "quantization_config_path",
    "diff_pack",
}
_NAMES_OF_SECTIONS = (
    "task",
    "model",
    "criterion",
    "optimizer",
    "lr_scheduler",
    "scoring",
    "bpe",
    "tokenizer",
)
# flat options of before fairseq 0.10.1 that `_upgrade_state_dict` knows by these names
_OLD_NAMES = {
    "max_positions": Optional[int],
    "raw_text": bool,
    "lazy_load": bool,
    "remove_bpe": Optional[str],
    "min_lr": float,
}
_told: set[str] = set()


def check_options(state: dict[str, Any], path: str) -> None:
    """Replace the options in a checkpoint (`cfg`, `args`) by those that are declared, and check what else
    fairseq obeys.

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
    strange = sorted(name for name in left_out if name not in _declared_anywhere())
    if strange and path not in _told:
        _told.add(path)
        shown = ", ".join(repr(name[:60]) for name in strange[:10]) + (" ..." if len(strange) > 10 else "")
        logger.warning(f"{path}: left out what no model, task or criterion here declares: {shown}")


def allowed_models() -> set[str]:
    """Architectures that are built from a file: stock `transformer`'s, the plugin's, and those of
    DSP_ALLOW_MODELS.
    """
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY

    known = {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}
    ours = {name for name, model in known.items() if _is_ours(model)}
    stock = {name for name, model in ARCH_MODEL_NAME_REGISTRY.items() if model == "transformer"} | {
        "transformer"
    }
    return ours | stock | _named_by_user()


def _named_by_user() -> set[str]:
    return {name.strip() for name in os.environ.get(ALLOW_MODELS, "").split(",") if name.strip()}


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _sections(cfg: Any, left_out: set[str]) -> dict[str, Any]:
    """`cfg` of a checkpoint of fairseq 0.10.1 or later: {section: options}."""
    from fairseq.dataclass.configs import FairseqConfig

    if not isinstance(cfg, dict):
        raise ValueError(f"'cfg' is a {type(cfg).__name__}, not a table of options")
    known = {
        name: field.type for name, field in FairseqConfig.__dataclass_fields__.items() if name != "_name"
    }
    found: dict[str, Any] = {}
    for section, options in cfg.items():
        if section == "_name":
            found[section] = None
        elif section not in known:
            left_out.add(str(section))
        elif options is None or section not in _NAMES_OF_SECTIONS:
            found[section] = (
                options if options is None else _read(section, options, _types(known[section]), left_out)
            )
        elif isinstance(options, str) and section != "model":  # `scoring: bleu`
            found[section] = as_declared(section, str, options)
        else:
            found[section] = (
                _model(options, left_out) if section == "model" else _named(section, options, left_out)
            )
    return found


def _model(options: Any, left_out: set[str]) -> Section:
    name = _check_model(_plain_section("model", options))
    checked = _read("model", options, _model_types(name), left_out)
    _put(checked, "_name", name)
    return checked


def _check_model(options: Mapping[str, Any]) -> str:
    """Name of the model, which must be one of those that are built from files."""
    names = [options[key] for key in ("_name", "arch") if options.get(key) is not None]
    if not names:
        raise ValueError("its options do not name the model (neither '_name' nor 'arch')")
    allowed = allowed_models()
    for name in names:
        if not isinstance(name, str) or name not in allowed:
            raise ValueError(
                f"its model is {str(name)[:60]!r}; models are built from a file if they are fairseq's "
                "'transformer' or this "
                f"plugin's. If you trust the file, allow others by name: {ALLOW_MODELS}={str(name)[:60]}"
            )
    return names[0]


def _named(section: str, options: Any, left_out: set[str]) -> Section:
    """A section that names its class; nameless where the class is not among those built from files."""
    given = _plain_section(section, options)
    name = given.get("_name")
    config = _class_of(section, name)
    if config is None:
        left_out.add(f"{section} {name}")
        return {"_name": None}
    checked = _read(section, options, _types(config), left_out)
    _put(checked, "_name", name)
    return checked


def _class_of(section: str, name: Any) -> Optional[type]:
    """The dataclass of a task, criterion, optimizer ... of this name, if one may be built from a file."""
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    if not isinstance(name, str):
        return None
    registry = REGISTRIES.get(section, {})
    classes = TASK_REGISTRY if section == "task" else registry.get("registry", {})
    configs = TASK_DATACLASS_REGISTRY if section == "task" else registry.get("dataclass_registry", {})
    allowed = {"task": _TASKS, "criterion": _CRITERIONS}.get(section)
    if name not in classes or (allowed is not None and name not in allowed and not _is_ours(classes[name])):
        return None
    return configs.get(name)


def _flat(args: Any, left_out: set[str]) -> argparse.Namespace:
    """`args` of a checkpoint of before fairseq 0.10.1: all options in one Namespace, which Hydra is then
    to read.
    """
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.registry import REGISTRIES

    given = _plain_section("args", args)
    name = _check_model({"arch": given.get("arch")})
    types: dict[str, Any] = {**_OLD_NAMES, "arch": str}
    for section, field in FairseqConfig.__dataclass_fields__.items():
        if section not in _NAMES_OF_SECTIONS and section != "_name":
            types.update(_types(field.type))
    dropped = set()
    for section in ("task", *REGISTRIES):
        named = given.get(section)
        config = _class_of(section, named)
        if config is not None:
            types.update({**_types(config), section: str})
        elif named is not None and section != "task":
            dropped.add(section)
        elif named is not None:
            raise ValueError(
                f"its task is {str(named)[:60]!r}; of old checkpoints those of 'translation' are read"
            )
    types.update(_model_types(name))
    checked = _read("args", argparse.Namespace(**given), types, left_out)
    left_out.update(f"{section} {given[section]}" for section in dropped)
    for key, value in vars(checked).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (
                any(c in text for c in "\\\n\r") or (isinstance(value, list) and "," in text)
            ):
                raise ValueError(f"option {key}: Hydra would not read {text[:60]!r} as it stands there")
    return checked


def _model_types(name: str) -> dict[str, Any]:
    """Options of an architecture by name, with their types; argparse's models declare theirs in a parser."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY

    from .flat_config import FlatTransformerConfig

    model = ARCH_MODEL_NAME_REGISTRY.get(name, name)
    if model == "transformer":
        return {**_types(FlatTransformerConfig), "arch": str}
    if model in MODEL_DATACLASS_REGISTRY:
        return {**_types(MODEL_DATACLASS_REGISTRY[model]), "arch": str}
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    if name not in ARCH_MODEL_REGISTRY:
        raise ValueError(f"its model is {name!r}, which is not registered: name its plugin with --user-dir")
    ARCH_MODEL_REGISTRY[name].add_args(parser)
    return {**{action.dest: Any for action in parser._actions}, "arch": str}


def _types(config: type) -> dict[str, Any]:
    return {name: field.type for name, field in config.__dataclass_fields__.items() if name != "_name"}


def _read(section: str, options: Any, types: Mapping[str, Any], left_out: set[str]) -> Section:
    """The declared ones of a section's options, in the same kind of container."""
    found: dict[str, Any] = {}
    for name, value in _plain_section(section, options).items():
        if name == "_name":
            found[name] = None  # where a section names its class, the caller puts it in
        elif name not in types:
            check_plain(f"{section}.{name}", value)
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


def _plain_section(section: str, options: Any) -> dict[str, Any]:
    values = vars(options) if isinstance(options, argparse.Namespace) else options
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"'{section}' is no table of options")
    return values


def _put(options: Section, name: str, value: Any) -> None:
    if isinstance(options, dict):
        options[name] = value
    else:
        setattr(options, name, value)


def _declared_anywhere() -> set[str]:
    """Names that are no surprise in a checkpoint: old models keep the whole command line among their
    options.
    """
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    def names(configs: Iterable[Optional[type]]) -> list[str]:
        return [
            name
            for config in configs
            if hasattr(config, "__dataclass_fields__")
            for name in config.__dataclass_fields__
        ]

    registries = [registry["dataclass_registry"].values() for registry in REGISTRIES.values()]
    sections = [field.type for field in FairseqConfig.__dataclass_fields__.values()]
    every = (MODEL_DATACLASS_REGISTRY.values(), TASK_DATACLASS_REGISTRY.values(), sections, *registries)
    return (
        {name for configs in every for name in names(configs)}
        | set(_NAMES_OF_SECTIONS)
        | {"no_seed_provided"}
    )


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
    """What fairseq's Trainer takes from a checkpoint beside options and tensors: counters, and meters by
    class name.
    """
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
