"""A run of a feed-forward block by itself, which shows that each neuron goes its own way.

What the projections up put out is replaced by random numbers, and the input of the projection down is looked
at: other numbers for some of the neurons must change what arrives of these, and nothing of the others. A norm
or a mixture between the two does not pass, nor does a pair of gate and up that lies otherwise in its matrix.

Notation: B examples, L positions, C width of the model, F neurons.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...probes.model_runs import trial_run
from .families import FeedForwardNames
from .fixed_sizes import NotKnown
from .projections import Projection

OF_GATES = "dsp_of_gates"  # the attribute of a forward pre-hook that applies gates
_B, _L = 2, 3
_REMEMBERED = 64  # blocks
_seen: OrderedDict[tuple, bool | str] = OrderedDict()


class _Reached(Exception):
    """The projection was called: nothing after it matters."""


def goes_flat(
    home: nn.Module, names: FeedForwardNames, inputs: Sequence[nn.Module], output: nn.Module
) -> bool:
    """Return whether the projection down is given all positions in one dimension, [B * L, F], by example.

    Blocks of the same class with the same parts are run once. A model without values is taken as it is, for
    its weights are still to come; so is a block without neurons.

    Args:
        home: the module that holds the projections, by `names`.

    Raises:
        NotKnown: it does not run by itself, or a neuron does not go its own way.
    """
    if not Projection(output, False, 1).features or any(p.is_meta for p in home.parameters()):
        return False
    # an activation may be a plain function, of which `repr` shows nothing
    functions = [(n, str(v)) for m in home.modules() for n, v in vars(m).items() if inspect.isroutine(v)]
    key = type(home), repr(home), tuple(functions)
    if key not in _seen:
        try:
            _seen[key] = _look(home, names, inputs, output)
        except NotKnown as error:
            _seen[key] = str(error)
        while len(_seen) > _REMEMBERED:
            _seen.popitem(last=False)
    found = _seen[key]
    if isinstance(found, str):
        raise NotKnown(found)
    return found


def _look(home: nn.Module, names: FeedForwardNames, inputs: Sequence[nn.Module], output: nn.Module) -> bool:
    neurons = Projection(output, False, 1).features
    some = torch.randperm(neurons, generator=_generator(0))[: (neurons + 1) // 2]
    others = torch.ones(neurons, dtype=torch.bool)
    others[some] = False
    with trial_run(home), _without_gates(home):
        first = _arrives(home, names, inputs, output, None, some)
        if first.shape[-1] != neurons:
            raise NotKnown(f"gives its down projection {first.shape[-1]} features of {neurons} neurons")
        for changed in range(len(inputs)):
            second = _arrives(home, names, inputs, output, changed, some)
            same = (first == second).flatten(0, -2).all(0)  # [..., F] -> [F]
            if second.shape != first.shape or not bool(same[others].all()):
                raise NotKnown("lets neurons depend on each other between the projections up and down")
            if bool(same[some].sum() * 2 > len(some)):
                raise NotKnown(f"does not hand on what {names.inputs[changed]} puts out, neuron by neuron")
        return first.dim() == 2 and _by_example(home, names, inputs[0])


def _arrives(
    home: nn.Module,
    names: FeedForwardNames,
    inputs: Sequence[nn.Module],
    output: nn.Module,
    changed: int | None,
    some: Tensor,
) -> Tensor:
    """Return the input of the projection down, [B, L, F] or [B * L, F], for random outputs of those up.

    Args:
        changed: which projection up puts out other numbers for the neurons `some`; None for none.
    """

    def replaced(number: int) -> Any:
        def replace(module: nn.Module, args: tuple[Any, ...], given: Tensor) -> Tensor:
            values = torch.randn(given.shape, generator=_generator(1 + number))
            if number == changed:
                parts = values.unflatten(-1, (names.parts, -1))  # [..., F] -> [..., parts, F]
                new = torch.randn(parts[..., some].shape, generator=_generator(9))
                parts[..., some] = new
                values = parts.flatten(-2)
            return values.to(given)

        return replace

    handles = [part.register_forward_hook(replaced(number)) for number, part in enumerate(inputs)]
    try:
        return _input_of(output, home, names, _states(home, inputs[0]))
    finally:
        for handle in handles:
            handle.remove()


def _by_example(home: nn.Module, names: FeedForwardNames, up: nn.Module) -> bool:
    """Return whether the rows of a flat input [B * L, C] are those of one example after the other."""
    states = _states(home, up)
    one = _input_of(up, home, names, states)
    states[1:] = states[1:].flip(1)
    two = _input_of(up, home, names, states)
    count = states.shape[1]
    return torch.equal(one[:count], two[:count]) and not torch.equal(one[count:], two[count:])


def _states(home: nn.Module, up: nn.Module) -> Tensor:
    """Return random states [B, L, C] of the model."""
    # some run in chunks, of which there must be a whole number
    length = getattr(home, "chunk_size_feed_forward", 0) or _L
    width = Projection(up, False, 1).features
    return torch.randn(_B, length, width, generator=_generator(7)).to(up.weight)


def _input_of(watched: nn.Module, home: nn.Module, names: FeedForwardNames, states: Tensor) -> Tensor:
    """Run a block until it calls a projection, and return the input of that."""
    arrived: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        arrived.append(args[0].detach().float().cpu().clone())
        raise _Reached

    handle = watched.register_forward_pre_hook(stop, prepend=True)
    try:
        _run(home, names, states)
    except _Reached:
        return arrived[0]
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise NotKnown(f"does not run by itself ({type(error).__name__}: {reason})") from error
    finally:
        handle.remove()
    raise NotKnown("does not call its projections")


def _run(home: nn.Module, names: FeedForwardNames, hidden: Tensor) -> None:
    """Run the block on states [B, L, C], which are its residual, too, and None for all else that it needs."""
    up, down = (name.rpartition(".")[0] for name in (names.inputs[0], names.output))
    if up:  # two modules of a layer, one after the other
        home.get_submodule(down)(home.get_submodule(up)(hidden), hidden)
        return
    parameters = inspect.signature(home.forward).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    values = [hidden if n == 0 or "residual" in p.name else None for n, p in enumerate(needed)]
    home.forward(*values)


@contextmanager
def _without_gates(home: nn.Module) -> Iterator[None]:
    """Let no gate be asked, which may be drawn or counted, by what runs inside the block."""
    hooks = [(part._forward_pre_hooks, list(part._forward_pre_hooks.items())) for part in home.modules()]
    for found, items in hooks:
        for key, hook in items:
            if getattr(hook, OF_GATES, False):
                del found[key]
    try:
        yield
    finally:
        for found, items in hooks:
            found.clear()
            found.update(items)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
