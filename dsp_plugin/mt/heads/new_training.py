"""What a model of ours asks of the training that it is built for, whatever the task: checked before any work.

fairseq builds the model of every training, and the model alone: task, criterion and optimizer may be stock or
of another plugin. So what a pruning method wants of them is looked for in the whole configuration, from
`build_model`.
"""

import contextvars
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Optional

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import DictConfig, OmegaConf, open_dict

from ...options.errors import OptionError
from ..checkpoints.checkpoint import check_same_sizes, load_checkpoint, model_options
from ..training.dictionaries import check_dictionaries
from ..training.option_checks import check_options
from .feed_forward import NEURONS, check_groups
from .gated_criterion import GatedCrossEntropyCriterion
from .gated_transformer import SCORES
from .schedule import kind_of
from .score_adam import DSPAdam
from .score_start import begins_ranked

logger = logging.getLogger(__name__)

_SECTIONS = (
    "checkpoint",
    "common",
    "criterion",
    "distributed_training",
    "model",
    "optimization",
    "optimizer",
    "task",
)
_loading: "contextvars.ContextVar[bool]" = contextvars.ContextVar("loading", default=False)


@contextmanager
def built_from(checkpoint: bool) -> Iterator[None]:
    """Tell `whole_training` what the models inside are built for: a training, or a checkpoint's weights."""
    token = _loading.set(_loading.get() or checkpoint)
    try:
        yield
    finally:
        _loading.reset(token)


def whole_training(cfg: Any) -> Optional[DictConfig]:
    """Return the whole configuration of the training that a model is built for; None where none is.

    Args:
        cfg: the model's own configuration, as `build_model` is given it.
    """
    if _loading.get() or not OmegaConf.is_config(cfg):
        return None
    whole = cfg._get_root()
    return whole if all(section in whole for section in _SECTIONS) else None


def name_of(section: Any) -> Optional[str]:
    """Return the registered name of a part of the configuration."""
    return None if section is None else getattr(section, "_name", None)


def check_training(model_class: type, whole: DictConfig, options: dict[str, Any], task: Any) -> None:
    """Refuse a training that would be half of the method, or would fail only after its data are loaded.

    Args:
        model_class: a `GatedTransformerModel`.
        options: all of its options. Heads that the starting checkpoint has lost are noted in them, and in
            `whole`.

    Raises:
        ValueError: pruning with no trained model to prune; a checkpoint to start from that is missing,
            damaged, hostile or of another architecture; a task, criterion, optimizer or precision that the
            method does not stand.
    """
    if not getattr(task, "is_finished", False):  # such a one has said so in the options
        check_options(whole)
    for warning in model_class.warnings(options):
        logger.warning(warning)
    method = model_class.method
    if model_class.ranks_heads(options) and not getattr(task, "ranks_heads", False):
        reason = f"{name_of(whole.task)} does not rank the heads, so that those kept would be random ones: "
        raise OptionError("task", f"{reason}use {{}} {method}_translation", "task")
    if model_class.has_penalty(options) and name_of(whole.optimizer):  # without one, nobody trains
        _check_criterion(name_of(whole.criterion), method)
    if model_class.learns_scores(options):
        _check_optimizer(name_of(whole.optimizer))
    _check_precision(whole, model_class.learns_scores(options))
    start = starting_checkpoint(whole.checkpoint)
    if start is None and model_class.freezes_weights(options):
        raise ValueError(
            "pipelined pruning (no --joint-pruning) needs a trained model: name it with --restore-file or "
            f"--finetune-from-model (no file {wanted_checkpoint(whole.checkpoint)})"
        )
    if start is None and model_class.ranks_heads(options):
        raise ValueError(
            "heads are ranked by what they do in a trained model: name it with --finetune-from-model or "
            f"--restore-file (no file {wanted_checkpoint(whole.checkpoint)})"
        )
    if model_class.wants_gates(options) and begins_ranked(options):
        _check_ranked(start, whole, options, task, method)
    if start is not None:
        _check_start(start, whole, options, task)


def check_worked_out(model_class: Any, given: dict[str, Any]) -> None:
    """Refuse a schedule that is to be worked out under a task that cannot do it.

    Args:
        given: the model's options as they were given; a task of ours has added what it has worked out.

    Raises:
        OptionError: names the task that can.
    """
    if not model_class.asks_for_gates(given) or kind_of(given) != "auto":
        return
    reason = "auto is worked out from the length of the run by the task: use {} "
    reason += f"{model_class.method}_translation, or give the schedule by hand ({{}} and others)"
    raise OptionError("pruning_schedule", reason, "task", "pruning_lr")


def host_advice(method: str) -> dict[str, str]:
    """Say in fairseq's words what to do about each half that is missing (see `gating.handshake.advice`)."""
    return {
        "optimizer": "use --optimizer dsp_adam, and a task that hands all parameters that learn to it",
        "rate": "use --optimizer dsp_adam, which has a group of its own for them",
        "penalty": f"use --criterion {method}_label_smoothed_cross_entropy, or add model.gating.penalty() to "
        "the loss of yours",
        "updates": f"use --task {method}_translation or another that calls model.set_num_updates() before "
        "every update",
        "forward": "use a task and a criterion that call the whole model, in training mode",
        "ranking": f"use --task {method}_translation",
    }


def _check_ranked(start: Optional[str], whole: DictConfig, options: dict[str, Any], task: Any, method: str):
    """Refuse scores that are to begin with importance where nobody, or no trained model, can tell it."""
    if not getattr(task, "ranks_starts", False):
        reason = f"importance is worked out by the task, and {name_of(whole.task)} does not: use {{}} "
        raise OptionError(
            "init_scores", f"{reason}{method}_translation, or {{}} random", "task", "init_scores"
        )
    if start is None and not options["pruning_warmup_updates"]:
        reason = "importance is what heads do in a trained model, and there is none: name it with {} or {}, "
        reason += "or train one first with {}"
        others = "finetune_from_model", "restore_file", "pruning_warmup_updates"
        raise OptionError("init_scores", reason, *others)


def _check_criterion(name: Optional[str], method: str) -> None:
    """Refuse a criterion of fairseq's that leaves the penalty out; ours add it, other plugins' may."""
    criterion = CRITERION_REGISTRY.get(name)
    if criterion is None or issubclass(criterion, GatedCrossEntropyCriterion) or not _is_stock(criterion):
        return
    reason = f"{name} leaves the penalty of open heads out of the loss, so that no head would close: use "
    reason += f"{{}} {method}_label_smoothed_cross_entropy ({{}} 0 makes it the plain cross-entropy)"
    raise OptionError("criterion", reason, "criterion", "label_smoothing")


def _check_optimizer(name: Optional[str]) -> None:
    """Refuse an optimizer that would change the scores' rate; fairseq builds it long after the model."""
    optimizer = OPTIMIZER_REGISTRY.get(name)
    if (
        optimizer is None
        or issubclass(optimizer, DSPAdam)
        or not (_is_stock(optimizer) or _is_ours(optimizer))
    ):
        return
    reason = f"{name} would give the head scores the model's learning rate instead of {{}}: use {{}} "
    reason += "dsp_adam, which takes the same options as {} adam"
    raise OptionError("optimizer", reason, "pruning_lr", "optimizer", "optimizer")


def _is_stock(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "fairseq"


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _check_precision(whole: DictConfig, has_scores: bool) -> None:
    """Say at once what would fail, or mix scores and weights, only after the data has been loaded."""
    common = whole.common
    if common.tpu and find_spec("torch_xla") is None:
        reason = "means a TPU to fairseq-train, and torch_xla is not installed: use {}, or {} with {} "
        reason += "(fairseq-hydra-train with common.bf16=true needs no TPU)"
        raise OptionError("bf16", reason, "amp", "fp16", "fp16_no_flatten_grads")
    if not has_scores:
        return
    if common.fp16 and not (common.fp16_no_flatten_grads or common.memory_efficient_fp16):
        reason = "joins all parameters into one, which cannot give the head scores a learning rate of their "
        raise OptionError("fp16", reason + "own: add {}", "fp16_no_flatten_grads")
    if whole.distributed_training.ddp_backend == "fully_sharded":
        reason = "fully_sharded joins parameters, head scores among them: use the default {}"
        raise OptionError("ddp_backend", reason, "ddp_backend")


def _check_start(start: str, whole: DictConfig, options: dict[str, Any], task: Any) -> None:
    state = load_checkpoint(start)
    trained = model_options(state)
    check_same_sizes(start, trained, options)
    check_dictionaries(state.get("task_state"), task, start)
    # of several processes fairseq lets one read it and send it to the others, as a pickle that weights-only
    # loading refuses
    with open_dict(whole):
        whole.checkpoint.load_checkpoint_on_all_dp_ranks = True
    found = dict(options)
    take_removal(found, trained, start)
    if found.get("kept_heads") != options.get("kept_heads"):
        logger.info(f"{start} has had heads removed: building the same smaller model")
    if trained.get(NEURONS) != found.get(NEURONS) and found[NEURONS] and SCORES in state["model"]:
        reason = f"{found[NEURONS]}: {start} has scores of other units"
        reason += f" (groups of {trained[NEURONS]})" if trained.get(NEURONS) else " (heads alone)"
        raise OptionError(NEURONS, f"{reason}, from which this choice cannot go on: start from another")
    # into the configuration itself, so that fairseq saves it with every checkpoint
    with open_dict(whole):
        for name in ("kept_heads", NEURONS):
            if found.get(name) != options.get(name):
                options[name] = whole.model[name] = found[name]


def take_removal(options: dict[str, Any], trained: Mapping[str, Any], start: str) -> None:
    """Note in a model's options the heads and groups that the checkpoint `start` has lost.

    Args:
        options: all of the model's, changed in place. trained: those of the checkpoint.

    Raises:
        OptionError: `--neurons` is not the size of the groups that were removed; as `check_groups`.
    """
    if not trained.get("kept_heads") or options.get("kept_heads"):
        return
    size, given = trained.get(NEURONS), options.get(NEURONS)
    if size and given and size != given:
        reason = f"{given}: {start} has lost groups of {size} neurons, and loses others of that size"
        raise OptionError(NEURONS, reason)
    options.update({"kept_heads": trained["kept_heads"], NEURONS: size or given})
    if size:
        check_groups(size, options)


def wanted_checkpoint(checkpoint: DictConfig) -> str:
    """Return the file that fairseq would restore, by the configuration's section `checkpoint`."""
    if checkpoint.restore_file != "checkpoint_last.pt":
        return checkpoint.restore_file
    last = os.path.join(checkpoint.save_dir, "checkpoint_last.pt")
    if checkpoint.finetune_from_model and not os.path.exists(last):
        return checkpoint.finetune_from_model
    return last


def starting_checkpoint(checkpoint: DictConfig) -> Optional[str]:
    """Return the checkpoint fairseq will restore, by its own rules; None if there is none.

    Raises:
        ValueError: a --restore-file that does not exist; fairseq would silently train from scratch.
    """
    path = wanted_checkpoint(checkpoint)
    if os.path.exists(path):
        return path
    if path == checkpoint.restore_file:
        reason = f"{path}: no such file (a relative path starts at {os.getcwd()})"
        raise OptionError("restore_file", reason)
    return None
