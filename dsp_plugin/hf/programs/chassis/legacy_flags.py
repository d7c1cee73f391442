"""Flags of older Transformers programs, as the papers' command lines have them, in today's words.

What has a successor is renamed; what lost its meaning is ignored, and said so. A flag that the program itself
takes is never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

RENAMED = {
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
}
_IN_CONFIG = "the model's own configuration says it"
_NO_CACHE = "no features are cached"
_GONE = "Transformers no longer has it"
# flag -> why it is ignored. All of them take one value, except those of _SWITCHES.
IGNORED = {
    "model_type": _IN_CONFIG,
    "overwrite_cache": _NO_CACHE,
    "logging_dir": "set TENSORBOARD_LOGGING_DIR instead",
    "save_safetensors": "weights are always saved as safetensors",
    "server_ip": "a debugger is attached from outside today",
    "server_port": "a debugger is attached from outside today",
    "eval_all_checkpoints": "--eval_strategy scores during training; name one checkpoint by "
    "--model_name_or_path",
    "use_legacy_prediction_loop": _GONE,
    "fp16_opt_level": "mixed precision is torch's own: --fp16 or --bf16",
    "fp16_backend": "mixed precision is torch's own: --fp16 or --bf16",
    "half_precision_backend": "mixed precision is torch's own: --fp16 or --bf16",
    "n_gpu": "start with torchrun to use several",
    "tpu_num_cores": _GONE,
    "tpu_metrics_debug": _GONE,
    "past_index": _GONE,
    "ray_scope": _GONE,
    "jit_mode_eval": _GONE,
    "use_ipex": _GONE,
    "use_mps_device": "the device is found by itself; --use_cpu keeps to the CPU",
    "include_inputs_for_metrics": "--include_for_metrics inputs",
    "threads": "--dataloader_num_workers",
    "null_score_diff_threshold": "it belongs to SQuAD 2.0",
    "verbose_logging": "--log_level",
}
_SWITCHES = {
    "overwrite_cache",
    "save_safetensors",
    "eval_all_checkpoints",
    "use_legacy_prediction_loop",
    "tpu_metrics_debug",
    "jit_mode_eval",
    "use_ipex",
    "use_mps_device",
    "include_inputs_for_metrics",
    "verbose_logging",
    "no_cuda",
    "evaluate_during_training",
    "adafactor",
    "group_by_length",
}
# switch -> what it stands for
EXPANDED = {
    "evaluate_during_training": ("--eval_strategy", "steps"),
    "adafactor": ("--optim", "adafactor"),
    "group_by_length": ("--train_sampling_strategy", "group_by_length"),
}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass
class _Flag:
    """A flag of a command line: its name without dashes, as it was written, and its value if one follows."""

    name: str
    written: str
    value: str | None


def modern_arguments(argv: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """Translate a command line into today's words.

    Args:
        argv: as the user gave it; dashes and underscores in a flag's name are one.
        known: the flags that the program takes, without their two dashes, underscored.

    Returns:
        the new command line; and sentences about what was ignored.

    Raises:
        ValueError: an old flag without its value, or with one that cannot be.
    """
    arguments: list[str] = []
    notes: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name = word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""
        if (
            not name
            or name in known
            or not (name in RENAMED or name in IGNORED or name in EXPANDED or name == "warmup_ratio")
        ):
            arguments.append(word)
            continue
        flag = _take(word, name, rest)
        if name == "warmup_ratio":
            arguments += _warmup(flag, argv)
        elif name in EXPANDED:
            arguments += EXPANDED[name] if _is_on(flag) else ()
        elif RENAMED.get(name):
            arguments += [f"--{RENAMED[name]}", *([] if flag.value is None else [flag.value])]
        elif name not in _SWITCHES or _is_on(flag):
            notes.append(f"{flag.written} is ignored: {IGNORED[name]}")
    return arguments, notes


def _take(word: str, name: str, rest: list[str]) -> _Flag:
    """Return the flag `word` with its value, which is removed from `rest`.

    Raises:
        ValueError: it needs one and has none.
    """
    written, equals, value = word.partition("=")
    if equals:
        return _Flag(name, written, value)
    follows = rest[0] if rest and not rest[0].startswith("--") else None
    if name in _SWITCHES:
        return _Flag(name, written, rest.pop(0) if follows and follows.lower() in (*_TRUE, *_FALSE) else None)
    if follows is None:
        raise ValueError(f"{written} needs a value")
    return _Flag(name, written, rest.pop(0))


def _is_on(flag: _Flag) -> bool:
    if flag.value is not None and flag.value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(f"{flag.written} {flag.value}: true or false belongs there")
    return flag.value is None or flag.value.lower() in _TRUE


def _warmup(flag: _Flag, argv: Sequence[str]) -> list[str]:
    """Join warm-up flags: --warmup_steps below 1 is a share of steps today; a number beside it still wins."""
    try:
        share = float(flag.value or "")
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(
            f"{flag.written} {flag.value}: a share of all steps, from 0 to below 1, belongs there"
        )
    given = {word.partition("=")[0].replace("-", "_") for word in argv}
    return [] if share == 0 or "__warmup_steps" in given else ["--warmup_steps", flag.value or "0"]
