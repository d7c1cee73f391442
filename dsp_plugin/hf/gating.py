"""Gates on the heads of any supported Transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..gating import HeadGates, HeadMap, Switchboard
from ..reports.sealed_folder import check_sealed
from .interface import LINK, Heads, use_ours, use_stock
from .layouts import Attention, attentions_of

GATING = "gating"  # the attribute of the model that holds its switchboard, and so the first word of its saved names
_DRAWS = "dsp_draw_hook"
# what to do about a half of a method that is missing, as users of Transformers say it (see `Handshake`)
_ADVICE = {
    "optimizer": "give the Trainer optimizers=pruning_optimizers(...), or gate the heads before it makes its own",
    "rate": "give the Trainer optimizers=pruning_optimizers(...)",
    "penalty": "give the Trainer callbacks=[HeadGatesCallback(model)], or add model.gating.penalty() to the loss of your loop",
    "updates": "give the Trainer callbacks=[HeadGatesCallback(model)], or call model.gating.set_num_updates(n) in your loop",
    "forward": "call the gated model itself, with the attention implementation that gate_heads has given it",
}


def heads_link(attention: Attention) -> Heads:
    """What the attention function knows of a block; made where the module has none yet."""
    link = getattr(attention.module, LINK, None)
    if link is None:
        link = Heads(attention.group, attention.block.num_heads)
        setattr(attention.module, LINK, link)
    return link


def gate_heads(model: PreTrainedModel, gates: HeadGates, warmup_updates: int = 0) -> Switchboard:
    """Put gates on a model's heads, in place.

    Each head's context is multiplied by its gate, just before the output projection. In training the gates are drawn
    once a forward pass of the base model; in evaluation the mask `gates.keep()` holds. The switchboard becomes the
    submodule `gating` of the model: it moves with it, and is saved with it under names that begin with `gating.`,
    which stock `from_pretrained` reports as unexpected and leaves aside.

    Args:
        model: any model `head_map_of` takes, with task head or without.
        gates: for the N heads of `head_map_of(model)`.
        warmup_updates: see `Switchboard`.

    Raises:
        ValueError: the model is not supported or is gated already, or the gates are for another number of heads.
    """
    if switchboard_of(model) is not None:
        raise ValueError("the model's heads are gated already: ungate_heads(model) first")
    attentions = attentions_of(model)
    switchboard = Switchboard(HeadMap([attention.block for attention in attentions]), gates, warmup_updates)
    switchboard.to(next(model.parameters()).device).train(model.training)
    use_ours(model)
    for position, attention in enumerate(attentions):
        link = heads_link(attention)
        link.switchboard, link.position = switchboard, position
    setattr(model, GATING, switchboard)
    base = model.base_model
    # in a tuple, so that the base model does not hold the switchboard as a submodule, too
    hooks = base.register_forward_pre_hook(_draw), base.register_forward_hook(_end, always_call=True)
    setattr(base, _DRAWS, (hooks, switchboard))
    switchboard.handshake.trains(model)
    switchboard.handshake.wants(advice=_ADVICE)
    return switchboard


def ungate_heads(model: PreTrainedModel) -> None:
    """Undo `gate_heads`: all heads (that have not been removed) are open again. Nothing to do on a model without gates."""
    if switchboard_of(model) is None:
        return
    base = model.base_model
    for hook in getattr(base, _DRAWS)[0]:
        hook.remove()
    delattr(base, _DRAWS)
    delattr(model, GATING)
    links = [getattr(attention.module, LINK) for attention in attentions_of(model)]
    for link in links:
        link.switchboard = None
    if all(link.kept is None for link in links):
        use_stock(model)


def switchboard_of(model: nn.Module) -> Optional[Switchboard]:
    """The switchboard of a gated model, None for any other."""
    found = getattr(model, GATING, None)
    return found if isinstance(found, Switchboard) else None


def load_gating(model: PreTrainedModel, folder: str) -> None:
    """Read the gates' state (scores) of a gated model that was saved with `save_pretrained` into one gated alike.

    Args:
        model: gated.
        folder: with `.safetensors` files; they are compared with its list of checksums, where there is one (`seal_folder`).

    Raises:
        ValueError: the model has no gates, the folder has none of these or is damaged, or they are of other gates.
    """
    switchboard = switchboard_of(model)
    if switchboard is None:
        raise ValueError("the model has no gates to read scores into: gate_heads(model, gates) first")
    check_sealed(folder, warn=True)
    state: Dict[str, Tensor] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(GATING + ".")]
            state.update({name[len(GATING) + 1 :]: file.get_tensor(name) for name in names})
    if not state:
        raise ValueError(f"{folder} holds no scores of heads: it was not saved from a gated model")
    try:
        switchboard.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the scores in {folder} are of other gates than the model's ({error})") from error


def _draw(base: nn.Module, args) -> None:
    # found through the module, not through a closure: a copy of the model draws from its own switchboard
    getattr(base, _DRAWS)[1].begin_forward(base)


def _end(base: nn.Module, args, output) -> None:
    getattr(base, _DRAWS)[1].end_forward()
