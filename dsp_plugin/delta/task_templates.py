"""The template and the label words of each task in Delta-Tuning's experiments (Ding et al., 2023).

HARD is the template in words, else only the mask follows the text. `*prompt*` is the soft prompt's place.
"""

from __future__ import annotations

_PAIR = "*cls*prompt*sent_0**mask*,*+sentl_1**sep+*"
_QUESTION = "*cls*prompt*sent-_0*?*mask*,*+sentl_1**sep+*"
HARD = {
    "CoLA": "*cls*prompt*sent_0*_This_is*mask*.*sep+*",
    "SST-2": "*cls*prompt*sent_0*_It_was*mask*.*sep+*",
    "MRPC": _PAIR,
    "QQP": _PAIR,
    "STS-B": _PAIR,
    "MNLI": _QUESTION,
    "QNLI": _QUESTION,
    "RTE": _QUESTION,
}
MAPPINGS = {
    "CoLA": {"0": "incorrect", "1": "correct"},
    "SST-2": {"0": "terrible", "1": "great"},
    "MRPC": {"0": "No", "1": "Yes"},
    "QQP": {"0": "No", "1": "Yes"},
    "STS-B": {"0": "No", "1": "Yes"},
    "MNLI": {"contradiction": "No", "entailment": "Yes", "neutral": "Maybe"},
    "QNLI": {"not_entailment": "No", "entailment": "Yes"},
    "RTE": {"not_entailment": "No", "entailment": "Yes"},
}


def template_of(task: str, hard: bool = True) -> str | None:
    """Return the template of a task by its folder's name; None for a task without one."""
    if task not in HARD or hard:
        return HARD.get(task)
    second = "" if task in ("CoLA", "SST-2") else "*sent_1**sep+*"
    return f"*cls*prompt*sent_0**sep+*{second}*mask**sep+*"
