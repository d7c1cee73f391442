"""Which methods there are, in which stages they are trained, and who owns a parameter.

Ding et al., "Parameter-efficient fine-tuning of large-scale pre-trained language models", Nature Machine
Intelligence 2023, sections on combinations: `prompt,bias` is one joint stage, `prompt bias adapter` are three
in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..options.errors import OptionError

METHODS = ("prompt", "bias", "adapter", "lora", "diff", "dsee")
"""The methods, in the order in which they stand in messages and files."""


def parse_stages(words: str | Sequence[str], option: str = "training_params") -> tuple[tuple[str, ...], ...]:
    """Read `prompt,bias` as one stage and `prompt bias adapter` (or a list) as three.

    Returns:
        the methods of each stage, in the order of METHODS.

    Raises:
        OptionError: of `option`: no method, an unknown one, or one that is named twice.
    """
    given = words.split() if isinstance(words, str) else [word for text in words for word in text.split()]
    stages = [[name.strip() for name in word.split(",") if name.strip()] for word in given]
    stages = [stage for stage in stages if stage]
    if not stages:
        raise OptionError(option, f"names no method: give some of {', '.join(METHODS)}")
    seen: set[str] = set()
    for stage in stages:
        for name in stage:
            if name not in METHODS:
                raise OptionError(option, f"must be of {', '.join(METHODS)}, got {name}")
            if name in seen:
                raise OptionError(option, f"has {name} twice: a method is trained in one stage")
            seen.add(name)
    return tuple(in_order(stage) for stage in stages)


def check_methods(methods: str | Iterable[str], before: Iterable[str] = (), option: str = "methods") -> tuple:
    """Return the methods of one stage, in the order of METHODS.

    Args:
        methods: a list, or `prompt,bias`. before: those of earlier stages.

    Raises:
        OptionError: of `option`: as `parse_stages`, or several stages at once.
    """
    words = methods if isinstance(methods, str) else ",".join(methods)
    stages = parse_stages(words, option)
    if len(stages) > 1:
        raise OptionError(option, f"are of one stage: {','.join(name for one in stages for name in one)}")
    for name in stages[0]:
        if name in before:
            raise OptionError(option, f"has {name}, which an earlier stage has trained")
    return stages[0]


def in_order(methods: Iterable[str]) -> tuple[str, ...]:
    """Return methods in the order of METHODS."""
    return tuple(sorted(methods, key=METHODS.index))


class Owners:
    """Who trains which parameter of the base: each has one owner at most.

    A diff leaves to BitFit what BitFit has; any other overlap is refused. The matrix that an update of low
    rank stands beside is owned by that update.
    """

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def claim(self, method: str, names: Iterable[str]) -> list[str]:
        """Give parameters to a method; return those that are its own now.

        Raises:
            OptionError: another method has one of them already; names both and the parameter.
        """
        own = []
        for name in names:
            owner = self._owners.get(name)
            if method == "diff" and owner == "bias":
                continue
            if owner is not None and not shared(method, owner):
                raise OptionError(
                    "methods", f": {owner} and {method} would both change {name}: leave one out"
                )
            own.append(name)
        self._owners.update({name: method for name in own if name not in self._owners})
        return own

    @property
    def owners(self) -> Mapping[str, str]:
        """Parameter -> method."""
        return self._owners


def shared(one: str, other: str) -> bool:
    """Return whether two methods can stand on one parameter: a diff in the matrix, an update beside it."""
    return "diff" in (one, other) and bool({"lora", "dsee"} & {one, other})
