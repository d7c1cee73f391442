"""Hooks that tell where a forward pass of a gated model begins and ends, whichever part of it is called.

Every module that holds several gated blocks (the model, its base model, its encoder) has a pair of them: the
outermost module that is called draws the gates, which hold until it ends (see `Switchboard.begin_forward`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ...gating import Switchboard
from .heads_link import GATING, add_hook, drop_forward_hook, drop_hook
from .interface import show_open_heads

FRAME = "dsp_frame"  # the attribute of a module that holds its `Frame`


@dataclass(eq=False)
class Frame:
    """The switchboard of a gated model, and the places that are checked when a forward pass begins.

    Attributes:
        switchboard: the one that draws the gates.
        places: (parent module, name in it, output projection) for every block.
        configs: configurations that name an attention implementation.
    """

    switchboard: Switchboard
    places: list[tuple[nn.Module, str, nn.Module]]
    configs: list[Any]

    def begin(self, module: nn.Module) -> None:
        """Draw the gates for a forward pass of `module`.

        Raises:
            ValueError: an output projection has been replaced by another module, whose input has no gates.
        """
        for position, (parent, name, projection) in enumerate(self.places):
            if parent._modules.get(name) is not projection:
                self._refuse(position, parent._modules.get(name))
        show_open_heads(self.configs)
        # a copy knows of no model yet; a part is not the whole
        if module._modules.get(GATING) is self.switchboard:
            self.switchboard.handshake.watch_model(module)
        self.switchboard.begin_forward(module)

    def _refuse(self, position: int, found: Any) -> None:
        block = self.switchboard.head_map.blocks[position].name
        raise ValueError(
            f"the output projection of {block} is another module ({type(found).__name__}) than the one whose "
            "input was gated, as after adding adapters (PEFT), quantising or replacing layers: its gates "
            "would be lost; do that before gate_heads, or prune_heads(model) first and then do it"
        )


def open_frames(root: nn.Module, frame: Frame) -> None:
    """Let `root` and every module in it that holds several blocks begin and end forward passes."""
    for module in _holders(root, [projection for _, _, projection in frame.places]):
        setattr(module, FRAME, frame)
        add_hook(module, _begin)
        module.register_forward_hook(_end, always_call=True)


def close_frames(root: nn.Module, switchboard: Switchboard) -> None:
    """Undo `open_frames`."""
    for module in root.modules():
        frame = module.__dict__.get(FRAME)
        if frame is None or frame.switchboard is not switchboard:
            continue
        delattr(module, FRAME)
        drop_hook(module, _begin)
        drop_forward_hook(module, _end)


def _holders(root: nn.Module, projections: Iterable[nn.Module]) -> list[nn.Module]:
    """Return `root` and the modules in it that hold several of these projections."""
    wanted = {id(projection) for projection in projections}
    found = [root]
    for module in root.modules():
        # lists are never called; layers are checkpointed one by one, and those of a decoder hold two blocks
        if module is root or isinstance(module, (nn.ModuleList, nn.ModuleDict, GradientCheckpointingLayer)):
            continue
        if sum(id(part) in wanted for part in module.modules()) > 1:
            found.append(module)
    return found


def _begin(module: nn.Module, args: Any) -> None:
    # found through the module, not through a closure: a copy of the model draws from its own switchboard
    module.__dict__[FRAME].begin(module)


def _end(module: nn.Module, args: Any, output: Any) -> None:
    module.__dict__[FRAME].switchboard.end_forward()
