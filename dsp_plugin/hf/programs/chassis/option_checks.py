"""Numbers on a command line or in a file of options are checked by their meaning before anything is loaded.

Our own options are annotated with what they mean, the Trainer's stand in a table here. Transformers itself
takes any number and finds out later, or never: a learning rate of NaN trains.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ....options.errors import OptionError
from ....options.numbers import MEANINGS, Meaning, check_number

Meant = str | Meaning | tuple[str | Meaning, ...]

_STEPS_OR_SHARE = (
    "count",
    Meaning("a share of all updates, above 0 and below 1", 0, 1, open_least=True, open_most=True),
)
_WARMUP = ("amount", Meaning("a share of all updates, from 0 to below 1", 0, 1, open_most=True))

# meaning -> options of the Trainer; those that may be left out are None then, which is not looked at
_TABLE: Sequence[tuple[Meant, str]] = (
    ("non-negative", "learning_rate weight_decay max_grad_norm eval_delay"),
    ("positive", "num_train_epochs adam_epsilon neftune_noise_alpha"),
    ("decay", "adam_beta1 adam_beta2 label_smoothing_factor"),
    (
        "count",
        """per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps
        save_total_limit eval_accumulation_steps torch_empty_cache_steps dataloader_prefetch_factor
        ddp_bucket_cap_mb ddp_timeout""",
    ),
    ("amount", "dataloader_num_workers"),
    (MEANINGS["count"].or_else(-1, meant="to go by --num_train_epochs"), "max_steps"),
    (_WARMUP, "warmup_steps"),
    (_STEPS_OR_SHARE, "save_steps eval_steps logging_steps"),
    ("seed", "seed data_seed"),
    (MEANINGS["amount"].or_else(-1, meant="for one process"), "local_rank"),
)
NUMBERS: Mapping[str, Meant] = {name: meaning for meaning, names in _TABLE for name in names.split()}


def number_options(group: type) -> dict[str, type]:
    """Find the options of a dataclass that are numbers, or lists of them: name -> int or float."""
    hints = get_type_hints(group)
    kinds = {field.name: _kind(hints[field.name]) for field in dataclasses.fields(group) if field.init}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def meaning_of(group: type, name: str) -> Meant:
    """Return what an option's number is for, by its annotation or else by the table of the Trainer's.

    Raises:
        TypeError: neither says it.
    """
    annotated = get_type_hints(group, include_extras=True)[name]
    if get_origin(annotated) is Annotated:
        return annotated.__metadata__[0]
    if name not in NUMBERS:
        raise TypeError(f"{group.__name__}.{name}: Annotated[...] must say what the number is for")
    return NUMBERS[name]


def check_numbers(groups: Iterable[type], values: Mapping[str, Any]) -> None:
    """Look at every number among the values of the groups' options.

    Raises:
        ValueError: one that its option cannot mean; says which do.
    """
    for group in groups:
        for name in number_options(group):
            value = values.get(name)
            if value is None:
                continue
            if isinstance(value, list) and not value:
                raise OptionError(name, "needs a number, which is missing")
            reason = check_number(value, meaning_of(group, name))
            if reason is not None:
                raise OptionError(name, f"{_written(value)}: {reason}")
    for name, value in values.items():
        if name.endswith("_kwargs") and value is not None:
            _check_inner(name, value)


def check_file(groups: Iterable[type], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a .json or .yaml file in the types of the options, where these are simple.

    Numbers may be texts: YAML reads 1e-5 as one.

    Raises:
        ValueError: a value of another type, or a number that cannot be; names the option.
    """
    found = dict(values)
    for group in groups:
        hints = get_type_hints(group)
        for field in dataclasses.fields(group):
            name, kind = field.name, _kind(hints[field.name])
            if name not in found or found[name] is None:
                continue
            if kind is not None:
                found[name] = _as_number(found[name], kind)
                if isinstance(found[name], list) != _is_list(hints[name]):
                    raise ValueError(
                        f"{name}: {reprlib.repr(found[name])}: "
                        f"{'a list of numbers' if _is_list(hints[name]) else 'one number'} belongs there"
                    )
            choices = field.metadata.get("choices")
            if choices and found[name] not in choices:
                raise ValueError(
                    f"{name}: {reprlib.repr(found[name])}: one of "
                    f"{', '.join(map(str, choices))} belongs there"
                )
            for kind, words in ((bool, "true or false"), (str, "a text")):
                if _only(hints[name]) is kind and not isinstance(found[name], kind):
                    raise ValueError(f"{name}: {reprlib.repr(found[name])}: {words} belongs there")
    check_numbers(groups, found)
    return found


def _only(hint: Any) -> Any:
    """Return the type itself where it is one type, or one type and None."""
    kinds = [kind for kind in get_args(hint) or [hint] if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and get_origin(hint) is not list else None


def _kind(hint: Any) -> Any:
    """Return int or float of `int`, `Optional[float]`, `List[int]` and their like; None of others."""
    kinds = [kind for kind in get_args(hint) or [hint] if kind is not type(None)]
    if len(kinds) != 1:
        return None
    if get_origin(kinds[0]) is list:
        return _kind(kinds[0])
    return kinds[0] if kinds[0] in (int, float) else None


def _is_list(hint: Any) -> bool:
    return any(get_origin(kind) is list for kind in [hint, *get_args(hint)])


def _as_number(value: Any, kind: type) -> Any:
    if isinstance(value, list):
        return [_as_number(one, kind) for one in value]
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            return value
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


def _check_inner(name: str, value: Any) -> None:
    """Check that numbers inside a JSON object, such as a schedule's, are finite; more is its own affair."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise OptionError(name, f"{value}: a JSON object belongs there") from None
    if not isinstance(value, dict):
        raise OptionError(name, f"{_written(value)}: a JSON object belongs there")
    for inner, number in value.items():
        if isinstance(number, float) and check_number(number, "finite"):
            raise OptionError(name, f"{inner} {number}: {check_number(number, 'finite')}")


def _written(value: Any) -> str:
    values: list[Any] = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(one if isinstance(one, str) else reprlib.repr(one) for one in values[:9])
