"""Look-up of whole numbers in a Transformers configuration and in those inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedConfig


def special_ids(config: PreTrainedConfig) -> set[int]:
    """Return the ids of special tokens: padding, beginning and end, placeholders of images and sounds."""
    return {
        number
        for part in configs(config)
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index", "_token_ids"))
        for number in integers(value)
    }


def configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a configuration and those inside it."""
    yield config
    for name in getattr(config, "sub_configs", ()) or ():
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from configs(part)


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the part that reads text, or the whole where there are several."""
    try:
        return config.gettext_config()
    except (ValueError, AttributeError):  # there are several
        return config


def number(config: PreTrainedConfig, names: Iterable[str], text: bool = False) -> int | None:
    """Return the first positive whole number of one of these names, here or in a configuration inside."""
    for part in ([text_config(config)] if text else []) + list(configs(config)):
        for name in names:
            value = getattr(part, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def integers(value: Any) -> list[int]:
    """Return the whole numbers in a value, which may be one or a list of them."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
