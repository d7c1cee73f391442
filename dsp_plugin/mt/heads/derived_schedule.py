"""The schedule of a new training, worked out from its length before the model is built."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Optional

from fairseq.dataclass.utils import merge_with_parent
from fairseq.distributed.utils import is_master
from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODEL_NAME
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.utils import split_paths
from omegaconf import OmegaConf, open_dict

from ...gating import BudgetOptions, Setting, derive, parse_heads_per_kind
from ...gating.methods.closing_options import closing_of, reopening_of
from ...gating.methods.recipe import BY_HAND
from ...gating.methods.schedule_words import schedule_in_words
from ...gating.methods.subset_options import without_say
from ...options.errors import OptionError, Spelling, dashed
from ..checkpoints.checkpoint import model_options
from ..training.run_length import Limits, Stand
from .checkpoint_heads import SCORES
from .feed_forward import NEURONS, check_groups
from .gated_transformer import head_map_of_options
from .new_training import take_removal
from .schedule import UPDATES, decode, encode, is_given, kind_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        path, state: of the checkpoint; None and nothing for random weights.
        goes_on: it is the training's own, whose updates count on.
    """

    path: Optional[str] = None
    state: Mapping[str, Any] = field(default_factory=dict)
    goes_on: bool = False


def all_options(cfg) -> dict[str, Any]:
    """Return all of a model's options as they were given: a command line or a YAML file has some of them."""
    config = MODEL_DATACLASS_REGISTRY[MODEL_NAME[cfg._name]]()
    return OmegaConf.to_container(merge_with_parent(config, cfg), resolve=True)


def settle_schedule(task: Any, cfg, model_class: Any, start: Start) -> None:
    """Find the schedule of a new training, say it, and write it into the model's configuration `cfg`.

    A training that goes on keeps the one of its checkpoint, however long it is to be by now.

    Raises:
        OptionError: it is to be worked out, and no option bounds the training; as `gating.derive`; a training
            that goes on is given a schedule of another kind than it has, or more updates than its scores
            learn in.
    """
    options = all_options(cfg)
    if not model_class.asks_for_gates(options):
        return
    how, updates = kind_of(options), None
    there = _there(model_class, start, options)
    found = {**model_class.constants(options), **model_class.published(options)}
    if how == "auto":
        if there is not None:
            _check_rest(task, cfg, options, start, there)
        found = there or _work_out(task, cfg, model_class, options, start)
        with open_dict(cfg):
            cfg.derived_schedule = encode(found)  # where fairseq saves it with every checkpoint
        updates = found.pop(UPDATES, None)
        how = f"{'auto' if updates else 'by hand'}, as the checkpoint has it" if there else how
    elif how != "published":
        return
    model_class.check_options(model_class.with_defaults(all_options(cfg)))  # before it is told
    if is_master(cfg._get_root().distributed_training):
        values = model_class.with_defaults(all_options(cfg))
        shown = {name: values[name] for name in found if name not in without_say(values)}
        logger.info(schedule_in_words(how, shown, updates, _spelling(model_class)))


def _spelling(model_class: Any) -> Spelling:
    """Spell options as they are typed; what no option gives is said in words."""
    known = model_class.config_fields()
    return lambda name: dashed(name) if name in known else name.replace("_", " ")


def _there(model_class: Any, start: Start, options: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """Return the schedule of the checkpoint that a training goes on from, where it was not given by hand.

    Args:
        options: the model's, as they are given now.

    Raises:
        OptionError: one was worked out and now another is given, or the other way round.
    """
    if not start.goes_on or SCORES not in start.state.get("model", {}):
        return None
    given = model_class.as_given(model_options(start.state))
    if not model_class.asks_for_gates(given):
        return None
    before, now = kind_of(given), kind_of(options)
    names = [name for name in ("pruning_schedule", *BY_HAND) if is_given(options.get(name))]
    if before == "derived" and now not in ("auto", "derived"):
        reason = "would give this training another schedule than the one that was worked out when it began "
        reason += f"({start.path}): leave {{}} out, or train anew, in another {{}}"
        raise OptionError(names[0], reason, names[0], "save_dir")
    if before == "derived":
        return decode(given["derived_schedule"], model_class)
    if now != "auto":
        return None
    if before != "auto":
        of_hand = [name for name in ("pruning_schedule", *BY_HAND) if is_given(given.get(name))]
        reason = "auto is for a training as a whole, and this one began with a schedule of its own "
        reason += (
            f"({start.path}): give {', '.join(['{}'] * len(of_hand))} again, or train anew, in another {{}}"
        )
        raise OptionError("pruning_schedule", reason, *of_hand, "save_dir")
    # none of its options was given, and there was no other schedule at its time
    return dict(model_class.by_hand)


def _check_rest(task: Any, cfg, options: Mapping[str, Any], start: Start, there: dict[str, Any]) -> None:
    """Refuse more updates than a schedule has in which nothing would learn."""
    if not there.get("pruning_lr_decay_steps") or options["joint_pruning"]:
        return
    whole = cfg._get_root()
    limits = Limits.of(whole.optimization)
    batches = cache(lambda: task.training_batches(whole, options))
    last = _length(task, whole, start, batches) if limits.bounded else None
    if last is None or last > there[UPDATES]:
        name = "max_epoch" if limits.max_epoch > 0 and not limits.max_update else "max_update"
        reason = f"goes beyond the {there[UPDATES]:,} updates that the schedule of this training was worked "
        reason += "out for, at whose end the scores' rate is 0, and the weights stay: nothing more would be "
        reason += "learnt. Leave it as it was, or train anew, in another {}"
        raise OptionError(name, reason, "save_dir")


def _work_out(task: Any, cfg, model_class: Any, options: dict[str, Any], start: Start) -> dict[str, Any]:
    """Work it out. Errors as `settle_schedule`."""
    trained = model_options(start.state) if start.state else {}
    units = dict(options)
    take_removal(units, trained, str(start.path))
    if units.get(NEURONS) is not None:
        check_groups(units[NEURONS], units)
    head_map = head_map_of_options(units)
    budget = BudgetOptions.of({**options, "min_heads_per_block": options["min_heads_per_block"] or 0})
    budget.check()
    budget.budget(head_map)  # a number of heads that cannot be is told before all else
    batches = cache(lambda: task.training_batches(cfg._get_root(), options))
    updates = _length(task, cfg._get_root(), start, batches)
    setting = Setting(
        method=model_class.method,
        joint=bool(options["joint_pruning"]),
        updates=updates,
        head_map=head_map,
        num_of_heads=options["num_of_heads"],
        per_kind=parse_heads_per_kind(options["heads_per_kind"]),
        use_ste=bool(options.get("use_ste")),
        sampler=options.get("sampler") or "relaxed",
        closing=closing_of(options),
        reopens=closing_of(options) == "pass" or reopening_of(options) != "off",
        concentrate=bool(options.get("concentrate")),
        of_mean_loss=False,
    )
    found = model_class.as_options(derive(setting), head_map, batches)
    return {UPDATES: updates, **found}


def _length(task: Any, whole, start: Start, batches: Callable[[], Any]) -> int:
    """Return the number of the last update; `batches` are those of the training set."""
    limits, given = Limits.of(whole.optimization), whole.checkpoint
    keeps_epochs = start.path not in (None, given.finetune_from_model) and not given.reset_dataloader
    stand = Stand.of(start.state, keeps_updates=start.goes_on, keeps_epochs=keeps_epochs)
    if getattr(task, "is_finished", False):
        return stand.updates
    if not limits.bounded:
        reason = "auto works the schedule out from the length of the training, which nothing bounds: give {} "
        reason += "or {}, or the schedule by hand ({} and others)"
        raise OptionError("pruning_schedule", reason, "max_update", "max_epoch", "pruning_lr")
    if limits.max_epoch > 0 and len(split_paths(task.cfg.data)) > 1:
        reason = (
            "auto cannot tell how many updates {} are, each of which has data of its own: give {} alone, or "
        )
        reason += "the schedule by hand ({} and others)"
        raise OptionError("pruning_schedule", reason, "max_epoch", "max_update", "pruning_lr")
    return limits.last_update(len(batches()) if limits.max_epoch > 0 else None, stand)
