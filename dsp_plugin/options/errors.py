"""The error that names an option, and how programs spell its name; the core itself knows no command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Spelling = Callable[[str], str]
"""The core's name of an option, `num_of_heads` -> how a user knows it, `--num-of-heads`."""


class OptionError(ValueError):
    """An option has a value that cannot be, or does not go with another option.

    Args:
        name: the option as the core spells it: `num_of_heads`.
        reason: what is wrong, to stand behind the name: "must be 1 or more, got 0".
        others: options that the reason speaks of as well; in it, "{}" stands in the place of each.
    """

    def __init__(self, name: str, reason: str, *others: str):
        super().__init__(name, reason, *others)
        self.name, self.reason, self.others = name, reason, others

    def spelled(self, spelling: Spelling) -> str:
        """Say it with the options as `spelling` has them."""
        reason = self.reason
        for other in self.others:
            reason = reason.replace("{}", spelling(other), 1)
        return f"{spelling(self.name)}{'' if reason.startswith(':') else ' '}{reason}"

    def __str__(self) -> str:
        return self.spelled(str)


def dashed(name: str) -> str:
    """Spell an option as fairseq's programs and `dsp` do: `--num-of-heads`."""
    return f"--{name.replace('_', '-')}"


def underscored(name: str) -> str:
    """Spell an option as the programs on Transformers do: `--num_of_heads`."""
    return f"--{name}"


def as_typed(words: Sequence[str], usual: Spelling) -> Spelling:
    """Spell options as they stand on a command line; one that is not there in the program's usual way."""
    typed = [word.partition("=")[0] for word in words if word.startswith("--")]
    written = {dashed(word[2:]): word for word in typed}
    return lambda name: written.get(dashed(name), usual(name))


def labelled(label: str, reason: str) -> ValueError:
    """Make the error of what `label` names: of an option by its name, of a file by any other words.

    Args:
        label: `output_dir`, for an `OptionError`; "the folder", `--out`, which stand as they are.
    """
    return OptionError(label, reason) if label.isidentifier() else ValueError(f"{label} {reason}")
