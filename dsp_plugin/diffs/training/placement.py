"""Which parameters of a model a diff is trained on, and the base they start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...artefacts.base import base_hash, find_names, task_head_names


class Placement(NamedTuple):
    """Parameters by their part: `body` gets a sparse diff, `task_head` is trained dense, `frozen` stays."""

    body: dict[str, nn.Parameter]
    task_head: dict[str, nn.Parameter]
    frozen: dict[str, nn.Parameter]


def place(
    model: nn.Module, task_head: Iterable[str] = (), frozen: Iterable[str] = (), asking_only: bool = True
) -> Placement:
    """Sort a model's parameters, tied weights once, no buffers; frozen ones stop asking for gradients.

    Args:
        task_head, frozen: names of parameters (any of a tied one's), or of modules for all in them.
        asking_only: parameters that ask for no gradient count as frozen; else as body.

    Raises:
        ValueError: a name that is not in the model; nothing left for the diff; parameters that are spread
            over devices, sharded (FSDP, ZeRO), not floating, or share memory without being one parameter.
    """
    aliases: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(parameter, []).append(name)
    every = [name for names in aliases.values() for name in names]
    dense, still = set(task_head_names(every, task_head)), set(task_head_names(every, frozen))
    if dense & still:
        raise ValueError(f"'{sorted(dense & still)[0]}' cannot be both in the task head and frozen")
    placed = Placement({}, {}, {})
    for parameter, names in aliases.items():
        if dense & set(names):
            placed.task_head[names[0]] = parameter
        elif still & set(names) or (asking_only and not parameter.requires_grad):
            placed.frozen[names[0]] = parameter
        else:
            placed.body[names[0]] = parameter
    if not placed.body:
        raise ValueError("no parameter is left for the diff: all are frozen or belong to the task head")
    _check(placed.body)
    for parameter in placed.frozen.values():
        parameter.requires_grad_(False)
    return placed


def base_tensors(body: Mapping[str, nn.Parameter], base: Mapping[str, Tensor] | None) -> list[Tensor]:
    """Return the base's tensor of each parameter, in its dtype and on its device, in memory of its own.

    Args:
        base: weights of the base by name (a leading `bert.` is seen through); None: the model's own now.

    Raises:
        ValueError: the base lacks a parameter or has it in another shape.
    """
    if base is None:
        return [p.detach().clone(memory_format=torch.contiguous_format) for p in body.values()]
    found = find_names(body, base)
    live = {parameter.untyped_storage().data_ptr() for parameter in body.values()}
    tensors = []
    for name, parameter in body.items():
        tensor = base[found[name]].detach()
        if tensor.shape != parameter.shape:
            there, here = list(tensor.shape), list(parameter.shape)
            raise ValueError(f"wrong base: {found[name]} has the shape {there}, the model {here}")
        tensor = tensor.to(device=parameter.device, dtype=parameter.dtype).contiguous()
        tensors.append(tensor.clone() if tensor.untyped_storage().data_ptr() in live else tensor)
    return tensors


def frozen_hash(placed: Placement, base: Mapping[str, Tensor] | None) -> str | None:
    """Return the SHA-256 over what stays frozen, to tell another base by; None where nothing does.

    Args:
        base: as for `base_tensors`, which has found the body in it. What it lacks is taken from the model.
    """
    if not placed.frozen:
        return None
    tensors: dict[str, Tensor] = {**placed.frozen}
    if base is not None:
        found = find_names(placed.body, base)
        for name, parameter in placed.frozen.items():
            if found.translate(name) in base:
                tensors[name] = base[found.translate(name)].to(parameter.dtype)
    return base_hash(tensors)


def _check(body: Mapping[str, nn.Parameter]) -> None:
    devices = {parameter.device for parameter in body.values()}
    if len(devices) > 1:
        found = sorted(map(str, devices))
        raise ValueError(f"a diff is trained on one device, the parameters are on {found}")
    spans = []
    for name, parameter in body.items():
        kinds = {kind.__name__ for kind in type(parameter).__mro__} | {type(parameter.data).__name__}
        if kinds & {"DTensor", "FlatParameter"} or hasattr(parameter, "ds_id") or parameter.numel() == 0:
            advice = "diffs need whole parameters (no FSDP, no ZeRO stage 3)"
            raise ValueError(f"'{name}' is sharded or empty: {advice}")
        if not parameter.is_floating_point():
            raise ValueError(f"'{name}' is {parameter.dtype}: a diff needs floating parameters")
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
        if parameter.device.type != "meta":
            spans.append((parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes, name))
    spans.sort()
    for (_, end, one), (start, _, other) in zip(spans, spans[1:]):
        if start < end:
            raise ValueError(f"'{one}' and '{other}' share memory but are two parameters: tie them as one")
