"""What the programs on GLUE and SQuAD understand of a command line."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

from transformers import TrainingArguments

from dsp_plugin.hf.programs.chassis.arguments import (
    GlueArguments,
    ModelArguments,
    ResultArguments,
    SquadArguments,
)
from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.chassis.tuning import TuningArguments
from dsp_plugin.hf.programs.heads.methods import DSPArguments, GateArguments, PrunedArguments, VoitaArguments
from dsp_plugin.hf.programs.heads.michel import MichelArguments

METHODS = {
    "run_glue": [TuningArguments],
    "run_squad": [TuningArguments],
    "run_dsp": [DSPArguments, PrunedArguments, TuningArguments],
    "run_voita": [VoitaArguments, PrunedArguments, TuningArguments],
    "run_michel": [MichelArguments],
}


def groups(words: list) -> list:
    """All groups of options of a command line, after the checks that need no model."""
    data = SquadArguments if "/squad/" in words[0] else GlueArguments
    name, rest = words[0].split("/")[-1].removesuffix(".py"), words[1:]
    further = [] if name == "run_michel" else [ResultArguments, TrainingArguments]
    found = parse("", [ModelArguments, data, *METHODS[name], *further], rest)
    for group in found:
        if hasattr(group, "check"):
            group.check()
    return list(found)


def understood(words: list) -> dict:
    """All options of a command line, after the checks that need no model."""
    return {key: value for group in groups(words) for key, value in vars(group).items()}


def group_of(words: list) -> GateArguments:
    """The method's own options of a command line of a method with gates."""
    return next(group for group in groups(words) if isinstance(group, GateArguments))
