"""A stage begins: methods are put into a model, and all else of it is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from ...artefacts.base import Base
from ...delta.stages import Owners, check_methods
from ...diffs.in_training import require_free
from ...diffs.sparse import SparseDiff
from ...options.errors import OptionError
from ...options.numbers import check_number
from ..dsee.adding import find_task_head
from ..dsee.state import has_dsee
from ..heads.surgery.journal import all_or_nothing
from .adapters import AdapterPart
from .bias import BiasPart, biases_of
from .diff import DiffPart
from .families import encoder_of, places_of
from .prompt import PromptPart
from .state import Delta, MethodPart, delta_of, has_delta, put_on, set_delta, set_trainable, take_off
from .updates import UpdatePart

TASK_HEAD = ("train", "freeze")


def add_delta(
    model: nn.Module,
    methods: str | Iterable[str],
    *,
    prompt_num: int = 10,
    adapter: str = "houlsby",
    reduction: int = 16,
    lora_rank: int = 16,
    lora_alpha: float = 32,
    lora_targets: str | Sequence[str] = ("query", "value"),
    num_sparse: int = 64,
    sparse_method: str = "grebsmo",
    dsee_targets: str | Sequence[str] = ("query", "value"),
    density: float = 0.005,
    mask: SparseDiff | None = None,
    seed: int = 0,
    task_head: str | Sequence[str] = "train",
) -> Delta:
    """Give a model, in place, the methods of one stage, to be trained together, and freeze the rest.

    The model keeps its class, and any training loop trains it. Called again it begins the next stage: the
    methods of earlier ones stay active, and are frozen. All is done, or nothing.

    Args:
        model: an encoder of a known family (see `register_family`), as a masked language model, with a task
            head, or bare. As it is at the first call it is the base.
        methods: some of prompt, bias, adapter, lora, diff, dsee; `prompt,bias` or a list.
        prompt_num: vectors of the prompt; batches then have `prompt_ids` [rows, tokens], j (from 1) where
            vector j stands in the place of a word, 0 elsewhere.
        adapter: `houlsby`, two a layer, or `pfeiffer`, one. reduction: the width over the bottleneck's.
        lora_rank, lora_alpha: r and alpha of LoRA and of DSEE's update. lora_targets, dsee_targets: roles of
            the matrices (query, key, value, output), which the two cannot share.
        num_sparse, sparse_method: entries of DSEE's S2 in each matrix, and where (grebsmo, omp, rp).
        density: share of each parameter of the layers that a diff changes, at random positions; mask: the
            positions of a diff that was found by diff pruning, instead.
        seed: of all that is random; torch's own generator is left alone.
        task_head: train what a model for classification or question answering has beside its base model, or
            freeze it; or the names of the parameters that are trained dense, where others are new as well (a
            pooler). A masked-LM head is always frozen: its words are the embeddings.

    Returns:
        the model's state, as `delta_of(model)` has it

    Raises:
        OptionError: a number or name that cannot be, a method that is there already, or two methods that
            would change one parameter.
        ValueError: the model is of no known family, or something is in the way; names it.
    """
    state = delta_of(model) if has_delta(model) else None
    named = check_methods(methods, state.parts if state is not None else ())
    reason = check_number(seed, "seed")
    if reason is not None:
        raise OptionError("seed", f"{seed!r}: {reason}")
    if isinstance(task_head, str) and task_head not in TASK_HEAD:
        raise OptionError("task_head", f"must be {' or '.join(TASK_HEAD)}, got {task_head!r}")
    if state is None:
        check_free(model)
        # a frozen task head is the base's
        named_head = None if isinstance(task_head, str) else list(task_head)
        trained = [] if task_head == "freeze" else find_task_head(model, named_head)
        state = Delta(Base.of(model, trained), task_head=trained)
    elif state.off:
        raise ValueError(f"enable {', '.join(sorted(state.off))} before another stage is begun")
    elif not isinstance(task_head, str) and {*task_head} != {*state.task_head}:
        raise OptionError("task_head", "names others than in the first stage: the rest is the base's")
    elif task_head == "train" and not state.task_head and find_task_head(model, None):
        raise OptionError("task_head", "was frozen in the first stage, and is the base's: it stays so")
    with all_or_nothing(model):
        if has_delta(model):
            take_off(model, state)
        try:
            places = places_of(model)
            owners = _owners(model, state)
            found: dict[str, MethodPart] = {}
            update = dict(rank=lora_rank, alpha=lora_alpha, seed=seed)
            if "bias" in named:
                owners.claim("bias", biases_of(model, state.task_head))
                found["bias"] = BiasPart.begin(model, state.task_head)
            if "lora" in named:
                part = UpdatePart.begin(
                    "lora", model, lora_targets, num_sparse=0, sparse_method="rp", **update
                )
                found["lora"] = part
                owners.claim("lora", part.weights)
            if "dsee" in named:
                sparse = dict(num_sparse=num_sparse, sparse_method=sparse_method)
                part = UpdatePart.begin("dsee", model, dsee_targets, **sparse, **update)
                found["dsee"] = part
                owners.claim("dsee", part.weights)
            if "diff" in named:
                found["diff"] = DiffPart.begin(model, owners, density, seed, mask)
            if "adapter" in named:
                found["adapter"] = AdapterPart.begin(model, places, adapter, reduction, seed)
            if "prompt" in named:
                found["prompt"] = PromptPart.begin(model, places, prompt_num, seed)
        except BaseException:
            if has_delta(model):
                put_on(model, state)
            raise
        stage = state.stage + 1
        state.parts |= {method: found[method] for method in named}
        state.stages |= dict.fromkeys(named, stage)
        state.trains_task_head = task_head != "freeze"
        set_delta(model, state)
        put_on(model, state)
        set_trainable(model)
    return state


def enable(model: nn.Module, name: str) -> None:
    """Put a method on again.

    Raises:
        ValueError: the model has no such method.
    """
    _switch(model, name, on=True)


def disable(model: nn.Module, name: str) -> None:
    """Take a method off: the model computes as if it had never been added. Its values are kept.

    Its parameters are out of the model meanwhile, so that nothing trains them.

    Raises:
        ValueError: the model has no such method.
    """
    _switch(model, name, on=False)


def check_free(model: nn.Module) -> None:
    """Raise a ValueError where something else changes a model's weights, or its family is not known."""
    encoder_of(model)
    if has_dsee(model):
        raise ValueError(f"{type(model).__name__} has an update of DSEE's: begin with the base, method dsee")
    require_free(model, None)


def _switch(model: nn.Module, name: str, on: bool) -> None:
    state = delta_of(model)
    if name not in state.parts:
        raise ValueError(f"the model has no method {name!r}; it has {', '.join(state.parts)}")
    if (name in state.off) is not on:
        return
    take_off(model, state)
    state.off ^= {name}
    put_on(model, state)
    set_trainable(model)


def _owners(model: nn.Module, state: Delta) -> Owners:
    owners = Owners()
    for method, part in state.parts.items():
        if method == "bias":
            owners.claim("bias", biases_of(model, state.task_head))
        elif method == "diff":
            owners.claim("diff", part.changes)
        elif method in ("lora", "dsee"):
            owners.claim(method, part.weights)
    return owners
