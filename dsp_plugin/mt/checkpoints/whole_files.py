"""fairseq's own writing of checkpoints: whole or not at all."""

import functools
from typing import Any

from ...records.files.whole import replacing


def save_atomically() -> None:
    """Let fairseq save a checkpoint, and copy it to `checkpoint_best.pt` and `checkpoint_last.pt`, whole or
    not at all.

    fairseq saves the first file of an epoch under a temporary name that anybody can foresee, and copies it
    over the others in place: a full disk, or a kill, halfway through the copy would lose the checkpoint that
    a restart needs. Safe to call again.
    """
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    if not getattr(PathManager.copy, "atomic", False):
        PathManager.copy = staticmethod(_atomic_copy(PathManager, PathManager.copy))
    if not getattr(checkpoint_utils.torch_persistent_save, "atomic", False):
        checkpoint_utils.torch_persistent_save = _atomic_save(
            PathManager, checkpoint_utils.torch_persistent_save
        )


def _atomic_copy(manager, in_place):
    @functools.wraps(in_place)
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not manager.supports_rename(dst_path):  # a remote store
            return in_place(src_path, dst_path, overwrite)
        with replacing(dst_path) as temporary:
            return bool(in_place(src_path, str(temporary), overwrite=True))

    copy.atomic = True
    return copy


def _atomic_save(manager, stock):
    @functools.wraps(stock)
    def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
        if async_write or not manager.supports_rename(filename):
            return stock(obj, filename, async_write)
        with replacing(filename) as temporary:
            stock(obj, str(temporary))

    torch_persistent_save.atomic = True
    return torch_persistent_save
