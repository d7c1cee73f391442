"""Settings of a pipeline as users give them: `key=value`, by `snakemake --config` or variables of `make`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from dsp_plugin.options.numbers import number

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "pipelines"


@dataclass(frozen=True)
class Option:
    """One setting.

    Attributes:
        parse: makes a value of a word; raises ValueError or argparse's error where it cannot.
        default: where it is not given.
        many: whether it is a list; what is named twice counts once.
    """

    parse: Callable[[str], Any] = str
    default: Any = None
    many: bool = False


def flag(text: str) -> bool:
    if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
        raise ValueError("1 or 0 belongs there")
    return text.lower() in ("1", "true", "yes")


def place(text: str) -> Path:
    """Read a folder or file of the user's, who may have started elsewhere than in the repository."""
    started = os.environ.get("DSP_STARTED_IN", str(ROOT))
    return Path(text) if os.path.samefile(started, ROOT) else Path(started, text)


def choice(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"choose of {', '.join(known)}")
        return text

    return parse


COMMON: Mapping[str, Option] = {
    "seeds": Option(number("seed"), [1], many=True),
    "only": Option(str, [""], many=True),  # runs whose name starts with one of these
    "settings": Option(place),  # another YAML file
    "runs": Option(place),  # folder of checkpoints and models
    "results": Option(place),  # folder of records and tables
    "python": Option(),  # the interpreter with dsp_plugin, where it is not Snakemake's own
}


def read_options(config: Mapping[str, Any], known: Mapping[str, Option]) -> SimpleNamespace:
    """Return all of `known`, by the user's words or by default.

    Args:
        config: name in any case -> a word, a number, or a list of them; a text is cut at its blanks where
            a list belongs.

    Raises:
        ValueError: naming the setting.
    """
    given = {name.lower(): value for name, value in config.items()}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{unknown[0]}: no such setting; there are {', '.join(known)}")
    return SimpleNamespace(**{name: _value(name, given.get(name), option) for name, option in known.items()})


def _value(name: str, given: Any, option: Option) -> Any:
    if given is None or given == "":
        return list(option.default or []) if option.many else option.default
    words = (
        [str(word) for word in given]
        if isinstance(given, (list, tuple))
        else str(given).split()
        if option.many
        else [str(given)]
    )
    values = []
    for word in words:
        try:
            values.append(option.parse(word))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{name} {word}: {str(error).removeprefix(f'{word!r}: ')}") from None
    if not option.many and len(values) != 1:
        raise ValueError(f"{name} {' '.join(words)}: one value belongs there")
    return list(dict.fromkeys(values)) if option.many else values[0]


def read_settings(name: str, path: Path | None = None) -> SimpleNamespace:
    """Read the YAML file `name` of this folder, or the user's at `path`, as a namespace of its outer keys.

    A file with `extends: NAME` has the settings of another of this folder, with its own in their places; of
    `methods` each by itself, and those that it says null of are left out.
    """
    path = path or FOLDER / name
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
        if "extends" in found:
            base = vars(read_settings(found.pop("extends")))
            methods = {**base.get("methods", {}), **found.get("methods", {})}
            found = {**base, **found, "methods": {name: how for name, how in methods.items() if how}}
        return SimpleNamespace(**found)
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"settings {path}: {error}") from None


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Make a program's options of a mapping of a YAML file: true is an option alone, false none."""
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [] if value is False else [f"--{name}", str(value)]
    return words
