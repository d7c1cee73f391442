"""Gates on the heads of any supported Transformers model, or of a user's own module around such models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from ...gating import HeadGates, HeadMap, Switchboard
from ...records.files.sealed_folder import check_sealed
from .frames import Frame, close_frames, open_frames
from .heads_link import GATING, LINK, Heads, add_hook, drop_hook, gate_context
from .interface import use_stock
from .layouts.locate import model_parts
from .layouts.projections import Units
from .layouts.wrappers import check_root
from .units import units_of

# a part of a method that is missing -> what to do, as users of Transformers say it (see `Handshake`)
_ADVICE = {
    "optimizer": "give the Trainer optimizers=pruning_optimizers(...), or gate the heads before it makes its "
    "own",
    "rate": "give the Trainer optimizers=pruning_optimizers(...)",
    "penalty": "give the Trainer callbacks=[HeadGatesCallback(model)], or add model.gating.penalty() to the "
    "loss of your loop",
    "updates": "give the Trainer callbacks=[HeadGatesCallback(model)], or call "
    "model.gating.set_num_updates(n) in your loop",
    "forward": "call the gated model, or the parts of it that hold its attention",
}


def link_heads(units: Units) -> Heads:
    """Return the link of a block's units, which lies in its attention module and its output projection."""
    link = units.module.__dict__.get(LINK)
    if link is None or link.kept is None and link.neurons != units.block.neurons:
        group, flat = getattr(units, "group", 1), getattr(units, "flat", False)
        link = Heads(group, units.block.num_heads, units.block.neurons, flat)
        setattr(units.module, LINK, link)
    setattr(units.output.module, LINK, link)
    return link


def gate_heads(
    model: nn.Module,
    gates: HeadGates,
    warmup_updates: int = 0,
    neurons: int | None = None,
    heads: bool = True,
) -> Switchboard:
    """Put gates on a model's heads, and where asked for on groups of its neurons, in place.

    Each head's context is multiplied by its gate, just before the output projection; each neuron by that of
    its group, just before the down projection. In training the gates
    are drawn once a forward pass of the model, or of the part of it that is called; in evaluation the mask
    `gates.keep()` holds. The switchboard becomes the submodule `gating` of the model: it moves and is saved
    with it, under names that begin with `gating.`, which stock `from_pretrained` reports as unexpected.

    Args:
        model: any model `head_map_of` takes, with task head or without, or a module around such models.
        gates: for the N units of `head_map_of(model, neurons, heads)`.
        warmup_updates: see `Switchboard`.
        neurons: size of the groups of neurons that get gates, too; None for heads alone.
        heads: False for gates on groups of neurons alone.

    Raises:
        ValueError: the model is not supported, is gated already (or a part of it is) or has a `gating` of its
            own; the gates are for another number of heads; the model is wrapped in something (`check_root`).
    """
    check_root(model)
    if boards_of(model):
        raise ValueError(
            "the model's heads, or those of a part of it, are gated already: ungate_heads(model) first"
        )
    if hasattr(model, GATING):
        raise ValueError(
            f"{type(model).__name__} has an attribute `{GATING}` of its own: gate the Transformers model "
            "inside it"
        )
    units = units_of(model, neurons, heads)
    switchboard = Switchboard(HeadMap([one.block for one in units]), gates, warmup_updates)
    switchboard.to(next(model.parameters()).device).train(model.training)
    for position, one in enumerate(units):
        link = link_heads(one)
        link.switchboard, link.position = switchboard, position
        add_hook(one.output.module, gate_context)
    configs = {id(part.config): part.config for part in model_parts(model)}
    open_frames(model, Frame(switchboard, _places(model, units), list(configs.values())))
    setattr(model, GATING, switchboard)
    switchboard.handshake.watch_model(model)
    switchboard.handshake.expect(advice=_ADVICE)
    return switchboard


def ungate_heads(model: nn.Module) -> None:
    """Undo `gate_heads`, in place: all heads that have not been removed are open again.

    A model without gates is left as it is.

    Raises:
        ValueError: the gates are those of a larger model, of which this one is a part.
    """
    for board, path in boards_of(model).items():
        check_whole(model, board)
        for module in model.modules():
            link = module.__dict__.get(LINK)
            if link is not None and link.switchboard is board:
                link.switchboard = None
        for module in model.modules():
            gated = gate_context in module._forward_pre_hooks.values()
            if gated and module.__dict__[LINK].switchboard is None:
                drop_hook(module, gate_context)
        close_frames(model, board)
        if path is not None:
            parent, _, name = path.rpartition(".")
            delattr(model.get_submodule(parent), name)
    links = [module.__dict__[LINK] for module in model.modules() if LINK in module.__dict__]
    if not boards_of(model) and all(link.kept is None for link in links):
        use_stock(model)


def boards_of(model: nn.Module) -> dict[Switchboard, str | None]:
    """Return the switchboards whose gates this model's heads have, each with its path in the model.

    The path is None for a switchboard outside the model: the gates were put on a larger model, or this one is
    a copy of a part of one.
    """
    found: dict[Switchboard, str | None] = {}
    for path, module in model.named_modules():
        if isinstance(module, Switchboard):
            found[module] = path
        link = module.__dict__.get(LINK)
        if link is not None and link.switchboard is not None:
            found.setdefault(link.switchboard, None)
    return found


def switchboard_of(model: nn.Module) -> Switchboard | None:
    """Return the switchboard of a gated model, wherever in it its gates were put; None without gates.

    Raises:
        ValueError: parts of the model have been gated one by one, and there are several.
    """
    found = getattr(model, GATING, None)
    if isinstance(found, Switchboard):
        return found
    boards = list(boards_of(model))
    if len(boards) > 1:
        raise ValueError(
            f"parts of {type(model).__name__} have gates of their own ({len(boards)} switchboards): gate the "
            "whole with one"
        )
    return boards[0] if boards else None


def check_whole(model: nn.Module, board: Switchboard) -> None:
    """Refuse a part of a gated model where the whole is needed.

    Raises:
        ValueError: the switchboard belongs to a larger module, of which the model is a part.
    """
    gated = board.handshake.model
    if gated is not None and not any(module is gated or module is board for module in model.modules()):
        raise ValueError(
            f"the gates of {type(model).__name__} were put on a larger model, of which it is a part "
            f"({type(gated).__name__}): give that one"
        )


def load_gating(model: nn.Module, folder: str) -> None:
    """Read the gates' state (scores) that `save_pretrained` wrote with a gated model.

    Args:
        model: gated like the model that was saved; its gates get the state in place.
        folder: holds `.safetensors` files, which are compared with its list of checksums, where there is one
            (`seal_folder`).

    Raises:
        ValueError: the model has no gates, the folder has no scores or is damaged, or the scores are of other
            gates.
    """
    switchboard = switchboard_of(model)
    if switchboard is None:
        raise ValueError("the model has no gates to read scores into: gate_heads(model, gates) first")
    check_sealed(folder, warn=True)
    found: dict[str, dict[str, Tensor]] = {}  # path of the module that was gated -> state of its gates
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                module, separator, own = f".{name}".rpartition(f".{GATING}.gates.")
                if separator:
                    found.setdefault(module, {})[f"gates.{own}"] = file.get_tensor(name)
    if not found:
        raise ValueError(f"{folder} holds no scores of heads: it was not saved from a gated model")
    if len(found) > 1:
        parts = ", ".join(sorted(module.lstrip(".") or "the whole" for module in found))
        raise ValueError(
            f"{folder} holds scores of several gated parts ({parts}): load the whole model's state instead"
        )
    (state,) = found.values()
    try:
        switchboard.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the scores in {folder} are of other gates than the model's ({error})") from error


def gated_units(model: nn.Module) -> tuple[int | None, bool]:
    """Return what has gates: (the size of the groups of neurons or None, whether there are heads).

    They are the arguments of `head_map_of` for the units with gates; (None, True) for a model without.

    Raises:
        ValueError: parts of the model have gates on groups of several sizes.
    """
    found = {block.neurons for board in boards_of(model) for block in board.head_map.blocks}
    sizes = found - {0}
    if len(sizes) > 1:
        raise ValueError(
            f"parts of {type(model).__name__} have gates on groups of {sorted(sizes)} neurons: give "
            "`keep` and `neurons`"
        )
    return (sizes.pop(), 0 in found) if sizes else (None, True)


def _places(model: nn.Module, units: Sequence[Units]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return (parent module, name in it, output projection) for every block."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = []
    for one in units:
        projection = one.output.module
        parent, _, name = paths[id(projection)].rpartition(".")
        found.append((model.get_submodule(parent), name, projection))
    return found
