"""The value of every option of a choice of heads, whether it was given, published or worked out.

An option that was not given is None in a model's configuration (a switch: False). What was worked out for a
training stands there as one option of its own, `derived_schedule`, so that every checkpoint has it.
"""

import json
from collections.abc import Mapping
from typing import Any

from ...gating import schedule_of
from ...gating.methods.recipe import BY_HAND
from ...gating.methods.subset_options import without_say
from ..checkpoints.flat_config import FlatTransformerConfig
from ..checkpoints.option_types import as_declared, json_object
from ..training.option_checks import check_option

UPDATES = "updates"
"""Member of `derived_schedule`: the length of the run that it was worked out for."""

_OPTION = "derived_schedule"
# no schedule says which heads are to stay, or what is trained
_NEVER = {
    *FlatTransformerConfig.__dataclass_fields__,
    *(
        "num_of_heads",
        "heads_per_kind",
        "kept_heads",
        "neurons",
        "joint_pruning",
        "use_ste",
        "sampler",
        "pruning_schedule",
        _OPTION,
    ),
}


def is_given(value: Any) -> bool:
    """Whether an option of a model's configuration was given: it is not None, nor a switch that is off."""
    return value is not None and value is not False


def kind_of(options: Mapping[str, Any]) -> str:
    """Return "auto", "published" or "by hand"; "derived" where it is worked out already.

    Args:
        options: a model's, as they were given.

    Raises:
        OptionError: as `gating.schedule_of`.
    """
    if is_given(options.get(_OPTION)):
        return "derived"
    # a method without a schedule of its own, whose options have defaults
    return schedule_of(options) if _OPTION in options else "by hand"


def with_schedule(model_class: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what was not given.

    A schedule that is to be worked out and is not, because nobody trains, has the constants of one by hand:
    so it was before there was another.

    Args:
        model_class: a `GatedTransformerModel`. options: all of its options, as they were given.

    Raises:
        OptionError: as `kind_of`; a derived schedule that is damaged.
    """
    found: dict[str, Any] = {}
    if model_class.asks_for_gates(options):
        kind = kind_of(options)
        if kind == "derived":
            found.update(decode(options[_OPTION], model_class))
            found.pop(UPDATES, None)
        elif kind == "published":
            found.update(model_class.published(options))
    nothing = without_say({**options, **found})  # straight-through gates have no temperature
    found = {name: value for name, value in found.items() if name not in nothing}
    given = {name: value for name, value in options.items() if is_given(value)}
    return {**options, **model_class.constants(options), **found, **given}


def recorded(model_class: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of the schedule, for options as they were given; nothing without one."""
    values = model_class.with_defaults(options)
    if not model_class.learns_scores(values):
        return {}
    given = model_class.as_given(options)
    kind = kind_of(given)
    found = decode(given[_OPTION], model_class) if kind == "derived" else {}
    updates = found.pop(UPDATES, None)
    names = {*model_class.constants(given), *found, *(name for name in BY_HAND if name in values)}
    return {
        "found": "auto" if updates else "by hand" if kind == "derived" else kind,
        **({"for_updates": updates} if updates else {}),
        "options": {name: values[name] for name in sorted(names)},
    }


def encode(found: Mapping[str, Any]) -> str:
    """Write a schedule as the model's configuration has it."""
    return json.dumps(dict(found), separators=(",", ":"))


def decode(text: str, model_class: Any) -> dict[str, Any]:
    """Read `encode`'s text, which may come from anybody's checkpoint.

    Raises:
        ValueError: it is none, or has what no schedule can say; names the option.
    """
    fields = model_class.config_fields()
    found = {}
    for name, value in json_object(_OPTION, text, 1).items():
        if name in _NEVER:
            raise ValueError(f"option {_OPTION} has {name[:60]!r}, which no schedule says")
        declared = int if name == UPDATES else fields[name].type if name in fields else type(value)
        found[name] = as_declared(name, declared, value)
        check_option(name, found[name])
    return found
