"""Stage I begins: LoRA by PEFT with S2 beside it on the matrices of some roles, and all else frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from ...artefacts.base import Base, task_head_names
from ...dsee.supports import check_support, find_support
from ...dsee.update import SPREAD, check_rank
from ...options.errors import OptionError
from ...options.numbers import check_number
from ..heads.surgery.journal import all_or_nothing
from ..heads.surgery.kept_heads import record_of
from .layer import ADAPTER, DseeLinear
from .lora_folder import LoraFolder
from .state import Dsee, base_name, has_dsee, set_state, set_trainable
from .targets import Target, as_matrix, find_targets, shape_of

_TASKS = ("Classification", "QuestionAnswering", "MultipleChoice", "NextSentencePrediction")


def add_dsee(
    model: nn.Module,
    rank: int = 16,
    alpha: float = 32,
    num_sparse: int = 64,
    sparse_method: str = "grebsmo",
    targets: str | Sequence[str] = ("query", "value"),
    seed: int = 0,
    task_head: Iterable[str] | None = None,
    lora: str | os.PathLike | None = None,
) -> Dsee:
    """Give a model, in place, an update W + s·B A + s·S2 on some of its matrices, and freeze the rest.

    A is drawn from N(0, 0.02²), B and S2 begin at 0: the model computes what it did. The layers are PEFT's
    LoRA layers, with S2 in them; the model keeps its class, and any training loop trains it. All is done, or
    nothing.

    Args:
        model: a Transformers model of plain weights, which may have been pruned before. As it is now it is
            the base.
        rank: r of A and B. alpha: s is alpha / r, for S2 as well.
        num_sparse: entries of S2 in each matrix (of GPT-2's joint matrix in each of its roles); 0 for none.
        sparse_method: where they are: `grebsmo`, `omp` or `rp`.
        targets: roles: some of `query`, `key`, `value`, `output`.
        seed: of A and of the supports; torch's own generator is left alone.
        task_head: names of parameters or modules that are trained dense. None for all beside the base model
            in a model for classification or question answering, and nothing in any other.
        lora: the folder of a LoRA that PEFT has written: its matrices, rank, alpha and values take the place
            of `rank`, `alpha` and `targets`.

    Returns:
        the model's state, as `dsee_of(model)` has it

    Raises:
        OptionError: a number or name that cannot be (lora_r, lora_alpha, num_sparse, sparse_method, targets,
            seed).
        ValueError: the model has an update already, lacks a role, or cannot be updated; names what is in the
            way.
    """
    if has_dsee(model):
        raise ValueError(f"{type(model).__name__} has an update of DSEE's already")
    reason = check_number(seed, "seed")
    if reason is not None:
        raise OptionError("seed", f"{seed!r}: {reason}")
    folder = None if lora is None else LoraFolder.read(lora)
    if folder is None:
        found = find_targets(model, targets)
    else:
        rank, alpha = folder.config.r, folder.config.lora_alpha
        found = folder.targets(model)
    for target in found:
        shape = shape_of(model.get_submodule(target.path))
        check_rank(shape, rank, alpha)
        for part in target.parts:
            check_support((part.stop - part.start, shape[1]), num_sparse, sparse_method)
    trained = find_task_head(model, task_head)
    before = record_of(model)
    base = Base.of(model, trained)
    settings = {
        "method": "dsee",
        "base_model": base_name(model),
        "num_sparse": num_sparse,
        "sparse_method": sparse_method,
        "seed": seed,
    }
    # before the layers are there, so that a matrix of which nothing can be found changes nothing
    seeds = [(seed << 20) + number for number in range(len(found))]
    supports = [supports_of(model, one, num_sparse, sparse_method, n) for one, n in zip(found, seeds)]
    config = folder.config if folder else LoraConfig(r=rank, lora_alpha=alpha)
    with all_or_nothing(model):
        layers = attach(model, found, config)
        generator = torch.Generator().manual_seed(seed)
        for target, positions in zip(found, supports):
            layer = layers[target.path]
            if folder is None:
                down = torch.randn(layer.down.shape, generator=generator) * SPREAD
                layer.set_low_rank(down, torch.zeros_like(layer.lora_B[ADAPTER].weight))
            else:
                layer.set_low_rank(*folder.low_rank(target.path))
            layer.set_sparse(positions, torch.zeros(len(positions)))
        if folder is not None:
            folder.place_task_head(model, trained)
        set_trainable(model, trained)
        state = Dsee(base, found, trained, before, {}, settings)
        set_state(model, state)
    return state


def attach(model: nn.Module, targets: Sequence[Target], config: LoraConfig) -> dict[str, DseeLinear]:
    """Put PEFT's layers in the places of the targets' matrices, and make them ours; [path] -> layer."""
    joint = [target for target in targets if type(model.get_submodule(target.path)).__name__ == "Conv1D"]
    if joint and len(joint) < len(targets):
        raise ValueError(f"{joint[0].path} is a Conv1D, and not all targets are: give targets of one kind")
    own = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=[target.path for target in targets],
        fan_in_fan_out=bool(joint),
        task_type=config.task_type,
        bias="none",
    )
    inject_adapter_in_model(own, model, ADAPTER)
    layers = {}
    for target in targets:
        layer = model.get_submodule(target.path)
        layers[target.path] = DseeLinear.take_over(layer, live_rows(target, layer.out_features))
    return layers


def live_rows(target: Target, rows: int) -> torch.Tensor | None:
    """Return [m], 1 for the output features that a target may change; None for all."""
    if sum(part.stop - part.start for part in target.parts) == rows:
        return None
    live = torch.zeros(rows)
    for part in target.parts:
        live[part.start : part.stop] = 1
    return live


def supports_of(model: nn.Module, target: Target, num_sparse: int, method: str, seed: int) -> torch.Tensor:
    """Find the positions of S2 in a target, into its flattened [m, n]: so many in each of its parts."""
    module = model.get_submodule(target.path)
    weight = as_matrix(module, module.weight.detach())
    found = []
    for number, part in enumerate(target.parts):
        rows = weight[part.start : part.stop]
        # other random numbers for every part of every matrix
        place = find_support(rows, num_sparse, method, 4 * seed + number)
        found.append(place.cpu() + part.start * weight.shape[1])
    return torch.cat(found)


def find_task_head(model: nn.Module, named: Iterable[str] | None) -> list[str]:
    """Find the names of the parameters that are trained dense; see `add_dsee`.

    Raises:
        ValueError: a name is not in the model.
    """
    parameters = dict(model.named_parameters())
    if named is not None:
        return task_head_names(parameters, named)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"which weights of {type(model).__name__} are its task head cannot be told: name them in "
            "task_head (an empty list for none)"
        )
    if not any(task in type(model).__name__ for task in _TASKS):
        return []
    inside = model.base_model
    if inside is model:
        raise ValueError(
            f"{type(model).__name__} has its task head in one with its base model, so that it cannot be "
            "told: name it in task_head"
        )
    body = {id(parameter) for parameter in inside.parameters()}
    return sorted(name for name, parameter in parameters.items() if id(parameter) not in body)
