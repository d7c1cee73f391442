"""Tell by its settings whether work in a folder is of the command that finds it, and say what differs.

`scripts/diff/stages.sh` has a comparison of its own: it holds whole command lines against each other, in the
shell, so that stages that are done are skipped without starting Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..options.errors import OptionError


def other_settings(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    names: Iterable[str] | None = None,
    spelled: Callable[[str], str] = str,
    missing: Any = None,
) -> list[str]:
    """Name every setting that differs, with both of its values.

    Args:
        there: name -> value, as they were noted where the work lies.
        here: name -> value, those of the command.
        names: what is compared; by default all that either of them has.
        spelled: how a user knows the setting of a name, such as its option.
        missing: what stands for a value that one of them lacks.

    Returns:
        "name: value there, value here" of each that differs, in the order of the names; empty where none
        does.
    """
    names = dict.fromkeys([*here, *there]) if names is None else names
    values = ((name, there.get(name, missing), here.get(name, missing)) for name in names)
    return [f"{spelled(name)}: {old} there, {new} here" for name, old, new in values if old != new]


def in_both(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the names that both have: what an earlier or a later version does not know is not compared."""
    return [name for name in there if name in here]


def refusal(
    work: str, differing: Sequence[str], remedy: str, option: str = "", others: Sequence[str] = ()
) -> ValueError:
    """Make the error for work of other settings.

    Args:
        work: what was found and where, such as "out/1st holds a training".
        differing: see `other_settings`; none where the settings themselves were not noted.
        remedy: what the user can do.
        option: names the folder, where the error is to be an `OptionError`; `others`, see there.
    """
    # a value that is an empty dictionary is none of the places of `others`
    found = f" ({'; '.join(differing).replace('{}', '{ }')})" if differing else ""
    text = f"{work} with other settings{found}: {remedy}"
    return OptionError(option, text, *others) if option else ValueError(text)
