"""What this plugin changes in fairseq itself, each with its reason. `tests/unit/mt/test_hostile_options.py`
fails where a newer fairseq has changed what the patch of loading is for.
"""

from typing import Any

import torch

from .checkpoints.checkpoint import read_checkpoint


class TorchOfCheckpoints:
    """torch, as `fairseq.checkpoint_utils` knows it, with a `load` that reads checkpoints the way
    `load_checkpoint` does.

    For fairseq 0.12.2 and 0.12.3: their `load_checkpoint_to_cpu` (which every program of fairseq's goes
    through, and `--restore-file`, `--finetune-from-model`, `from_pretrained`) and `load_ema_from_checkpoint`
    call `torch.load` on a file and then build a model from the options in it, some of which they run as
    programs.
    """

    @staticmethod
    def load(file: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(file, str(getattr(file, "name", "the checkpoint")))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def guard_loading() -> None:
    """Let fairseq's own programs read checkpoints as data. Safe to call again."""
    from fairseq import checkpoint_utils

    if not isinstance(checkpoint_utils.torch, TorchOfCheckpoints):
        checkpoint_utils.torch = TorchOfCheckpoints()
