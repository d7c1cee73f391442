"""A model that begins from nothing: a configuration with changes, random weights, and nobody's tokenizer."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ....options.errors import OptionError
from ....options.faults import one_line

# what the tokenizer says, and not the user
_NOT_OURS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def override(config: PreTrainedConfig, text: str) -> None:
    """Change a configuration as "n_layer=4,n_embd=256" says.

    Raises:
        OptionError: no such entry, or a value of another type.
    """
    known = {**config.to_dict(), **{name: None for name in config.attribute_map}}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise OptionError("config_overrides", f"{part}: name=value,name=value belongs there")
        if name in _NOT_OURS:
            raise OptionError("config_overrides", f"{part}: the tokenizer says that")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise OptionError(
                "config_overrides",
                f"{part}: a {config.model_type} has no {name}{', but ' * bool(near)}{', '.join(near)}",
            )
        try:
            setattr(config, name, _value(getattr(config, name, None), value))
        except Exception as error:  # of another type, or one that the configuration refuses
            raise OptionError("config_overrides", f"{part}: {one_line(error)}") from None


def begin_model(
    model_class: Any, config: PreTrainedConfig, tokenizer: Any, attention: str | None
) -> PreTrainedModel:
    """Make a model with random weights, of the seed that torch has, for a tokenizer.

    Raises:
        OptionError: the configuration makes no model.
    """
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    config.dtype = torch.float32
    more = {"attn_implementation": attention} if attention else {}
    try:
        return model_class.from_config(config, **more)
    except Exception as error:  # what a configuration cannot be is its library's affair
        raise OptionError("config_name", f"{config.model_type}: {one_line(error)}") from error


def _value(now: Any, text: str) -> Any:
    if isinstance(now, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false belongs there")
        return text.lower() == "true"
    if isinstance(now, (int, float)):
        return type(now)(text)
    for kind in (int, float) if now is None else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return text
