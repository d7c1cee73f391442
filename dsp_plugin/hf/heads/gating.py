"""Gates on the heads of any supported Transformers model, or of a user's own module around one or several."""

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
from .layouts.locate import Attention, attentions_of, model_parts
from .layouts.wrappers import check_root

# what to do about a half of a method that is missing, as users of Transformers say it (see `Handshake`)
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


def heads_link(attention: Attention) -> Heads:
    """What is known of a block's heads; made where nothing is yet."""
    link = getattr(attention.module, LINK, None)
    if link is None:
        link = Heads(attention.group, attention.block.num_heads)
        setattr(attention.module, LINK, link)
    setattr(attention.output.module, LINK, link)
    return link


def gate_heads(model: nn.Module, gates: HeadGates, warmup_updates: int = 0) -> Switchboard:
    """Put gates on a model's heads, in place.

    Each head's context is multiplied by its gate, just before the output projection. In training the gates
    are drawn once a forward pass of the model, or of the part of it that is called; in evaluation the mask
    `gates.keep()` holds. The switchboard becomes the submodule `gating` of the model: it moves with it, and
    is saved with it under names that begin with `gating.`, which stock `from_pretrained` reports as
    unexpected and leaves aside.

    Args:
        model: any model `head_map_of` takes, with task head or without, or a module around such models.
        gates: for the N heads of `head_map_of(model)`.
        warmup_updates: see `Switchboard`.

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
            f"{type(model).__name__} has an attribute `{GATING}` of its own: gate the "
            "Transformers model inside it"
        )
    attentions = attentions_of(model)
    switchboard = Switchboard(HeadMap([attention.block for attention in attentions]), gates, warmup_updates)
    switchboard.to(next(model.parameters()).device).train(model.training)
    for position, attention in enumerate(attentions):
        link = heads_link(attention)
        link.switchboard, link.position = switchboard, position
        add_hook(attention.output.module, gate_context)
    configs = {id(part.config): part.config for part in model_parts(model)}
    open_frames(model, Frame(switchboard, _places(model, attentions), list(configs.values())))
    setattr(model, GATING, switchboard)
    switchboard.handshake.trains(model)
    switchboard.handshake.wants(advice=_ADVICE)
    return switchboard


def ungate_heads(model: nn.Module) -> None:
    """Undo `gate_heads`: all heads (that have not been removed) are open again. Nothing to do on a model
    without gates.

    Raises:
        ValueError: the gates are those of a larger model, of which this one is a part.
    """
    for board, path in boards_of(model).items():
        check_whole(model, board)
        for module in model.modules():
            link = module.__dict__.get(LINK)
            if link is not None and link.switchboard is board:
                link.switchboard = None
        for module in [
            module for module in model.modules() if gate_context in module._forward_pre_hooks.values()
        ]:
            if module.__dict__[LINK].switchboard is None:
                drop_hook(module, gate_context)
        close_frames(model, board)
        if path is not None:
            parent, _, name = path.rpartition(".")
            delattr(model.get_submodule(parent), name)
    if not boards_of(model) and all(
        module.__dict__[LINK].kept is None for module in model.modules() if LINK in module.__dict__
    ):
        use_stock(model)


def boards_of(model: nn.Module) -> dict[Switchboard, str | None]:
    """The switchboards that gates of this model's heads come from, each with its path in the model.

    The path is None for one that is no part of the model: the gates were put on a larger model, or this one
    is a copy of a part of one.
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
    """The switchboard of a gated model, wherever in it its gates were put; None for any other.

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
    """Refuse to take a part of a gated model for the whole.

    Raises:
        ValueError: the switchboard hangs at a module around the model.
    """
    gated = board.handshake.model
    if gated is not None and not any(module is gated or module is board for module in model.modules()):
        raise ValueError(
            f"the gates of {type(model).__name__} were put on a larger model, of which it is a part "
            f"({type(gated).__name__}): "
            "give that one"
        )


def load_gating(model: nn.Module, folder: str) -> None:
    """Read the gates' state (scores) of a gated model that was saved with `save_pretrained` into one gated
    alike.

    Args:
        model: gated.
        folder: with `.safetensors` files; they are compared with its list of checksums, where there is one
            (`seal_folder`).

    Raises:
        ValueError: the model has no gates, the folder has none of these or is damaged, or they are of other
            gates.
    """
    switchboard = switchboard_of(model)
    if switchboard is None:
        raise ValueError("the model has no gates to read scores into: gate_heads(model, gates) first")
    check_sealed(folder, warn=True)
    found: dict[str, dict[str, Tensor]] = {}  # by the path of the module that was gated
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                around, word, own = f".{name}".rpartition(f".{GATING}.gates.")
                if word:
                    found.setdefault(around, {})[f"gates.{own}"] = file.get_tensor(name)
    if not found:
        raise ValueError(f"{folder} holds no scores of heads: it was not saved from a gated model")
    if len(found) > 1:
        parts = ", ".join(sorted(around.lstrip(".") or "the whole" for around in found))
        raise ValueError(
            f"{folder} holds scores of several gated parts ({parts}): load the whole model's state instead"
        )
    (state,) = found.values()
    try:
        switchboard.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the scores in {folder} are of other gates than the model's ({error})") from error


def _places(model: nn.Module, attentions: Sequence[Attention]) -> list[tuple[nn.Module, str, nn.Module]]:
    """(module around it, its name there, output projection) of every block."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = []
    for attention in attentions:
        projection = attention.output.module
        around, _, name = paths[id(projection)].rpartition(".")
        found.append((model.get_submodule(around), name, projection))
    return found
