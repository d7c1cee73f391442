"""Which activation checkpoint of torch is at work. All that leans on torch's private ways for it is here.

A checkpoint that is not reentrant is a frame (`torch.utils.checkpoint._CheckpointFrame`) and a pair of hooks
for saved tensors: one while its forward runs, whose closure holds the frame, another while it runs again,
whose closure holds a weak reference to the same frame. torch tells nobody which of its frames runs again; a
layer that must do the second time what it did the first can only look into these closures. So it is in torch
2.4 to 2.13; `test_draws.py` holds it, and where it is not so nothing is found, so that a block that is
computed again is refused (see `Replays`).

A reentrant checkpoint (and fairseq's own) leaves no such trace: its forward runs without gradients, and it
runs again inside the backward pass, with the random numbers of the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

# (ignore whether torch is tracing) -> the pair of hooks on top of this thread's stack, or None
top_hooks: Callable[[bool], tuple[Any, Any] | None] = torch._C._autograd._top_saved_tensors_default_hooks
# number of the backward pass that this thread is in, -1 outside any; an inner one has the larger number
backward_number: Callable[[], int] = torch._C._current_graph_task_id


@dataclass
class Checkpoints:
    """The checkpoints around a place in the program.

    Attributes:
        first: frames whose forward runs for the first time, the innermost first.
        again: the frame that is computed again, around those, if one is.
        run: an object that lives as long as this recomputation.
    """

    first: list[Any] = field(default_factory=list)
    again: Any | None = None
    run: Any | None = None


def checkpoints_here() -> Checkpoints:
    """Look at this thread's stack of hooks, down to the innermost recomputation; it is left as it was."""
    found, lifted = Checkpoints(), []
    try:
        while (hooks := top_hooks(True)) is not None:
            frame, again = _frame_of(hooks[0])
            if again:
                found.again, found.run = frame, hooks[0]
                break
            if frame is not None:
                found.first.append(frame)
            torch._C._autograd._pop_saved_tensors_default_hooks()
            lifted.append(hooks)
    finally:
        for pack, unpack in reversed(lifted):
            torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)
    return found


def _frame_of(pack: Any) -> tuple[Any | None, bool]:
    """Return the frame of a checkpoint's hook, and whether it is computed again; (None, False) for others."""
    pack = getattr(pack, "_torchdynamo_orig_callable", pack)
    code = getattr(pack, "__code__", None)
    if code is None or getattr(pack, "__module__", None) != "torch.utils.checkpoint":
        return None, False
    cells = dict(zip(code.co_freevars, pack.__closure__ or ()))
    if "target_frame_ref" in cells:
        return cells["target_frame_ref"].cell_contents(), True
    return (cells["frame"].cell_contents, False) if "frame" in cells else (None, False)


def random_state(device: torch.device) -> bytes:
    """Return the random state of the CPU and `device`, which a checkpoint restores before it runs again."""
    state = torch.get_rng_state().numpy().tobytes()
    if device.type == "cuda":
        state += torch.cuda.get_rng_state(device).numpy().tobytes()
    return state
