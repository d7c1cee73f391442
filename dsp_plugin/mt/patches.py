"""What this plugin changes in fairseq itself, each with its reason.

All of it is for fairseq 0.12.2 and 0.12.3. `tests/unit/mt/test_patches.py` fails where another version has
changed a function that is replaced here, or one that a patch counts on.
"""

from __future__ import annotations

import functools
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq import checkpoint_utils, models
from fairseq.file_io import PathManager

from ..records.files.claim import claim, give_back
from ..records.files.whole import replacing
from .checkpoints.checkpoint import read_checkpoint
from .heads.new_training import built_from
from .translate.hypotheses import Hypotheses


def patch_fairseq() -> None:
    """Put all changes in their places. Safe to call again."""
    guard_loading()
    save_atomically()
    one_training_a_folder()
    tell_loading_from_training()


def _replace(owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Put `make(stock function)` in a function's place in a module or class, once, with `__wrapped__`."""
    stock = getattr(owner, name)
    if not hasattr(stock, "of_dsp_plugin"):
        ours = functools.wraps(stock)(make(stock))
        ours.of_dsp_plugin = True
        setattr(owner, name, staticmethod(ours) if isinstance(owner, type) else ours)


# ---- checkpoints are data


class TorchOfCheckpoints:
    """torch as `fairseq.checkpoint_utils` knows it, whose `load` reads checkpoints as `load_checkpoint` does.

    `load_checkpoint_to_cpu` (which every program of fairseq's goes through, and `--restore-file`,
    `--finetune-from-model`, `from_pretrained`) and `load_ema_from_checkpoint` call `torch.load` on a file and
    then build a model from the options in it, some of which they run as programs.
    """

    @staticmethod
    def load(file: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(file, str(getattr(file, "name", "the checkpoint")))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def guard_loading() -> None:
    """Let fairseq's own programs read checkpoints as data."""
    if not isinstance(checkpoint_utils.torch, TorchOfCheckpoints):
        checkpoint_utils.torch = TorchOfCheckpoints()


# ---- checkpoints are written whole or not at all


def save_atomically() -> None:
    """Let fairseq save a checkpoint, and its copies `checkpoint_best.pt` and `_last.pt`, whole or not at all.

    fairseq saves the first file of an epoch under a temporary name that anybody can foresee, and copies it
    over the others in place: a full disk, or a kill, halfway through the copy would lose the checkpoint that
    a restart needs.
    """

    def make_copy(stock: Callable) -> Callable:
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            if not PathManager.supports_rename(dst_path):  # a remote store
                return stock(src_path, dst_path, overwrite)
            with replacing(dst_path) as temporary:
                return bool(stock(src_path, str(temporary), overwrite=True))

        return copy

    def make_save(stock: Callable) -> Callable:
        def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
            if async_write or not PathManager.supports_rename(filename):
                return stock(obj, filename, async_write)
            with replacing(filename) as temporary:
                stock(obj, str(temporary))

        return torch_persistent_save

    _replace(PathManager, "copy", make_copy)
    _replace(checkpoint_utils, "torch_persistent_save", make_save)


# ---- one training a folder

_CLAIMED: list[Any] = []  # by a training that has no trainer yet
_HELD: list[weakref.finalize] = []  # each ends the claim of a trainer, once


def one_training_a_folder() -> None:
    """Let `fairseq-train` claim its `--save-dir` where it looks whether it can write there.

    Two trainings in one folder write over each other's checkpoints, and a restart goes on from a mixture. The
    first process of a training claims; the folder is free again when its trainer is gone, when
    `give_back_folders` is called, and when the process ends.

    Raises (from fairseq, before it reads data):
        ValueError: another training is at work there, or there is no folder. OSError: it cannot be written.
    """

    def make_check(_: Callable) -> Callable:
        def verify_checkpoint_directory(save_dir: str) -> None:
            _CLAIMED.append(claim("--save-dir", save_dir))
            # fairseq's own trial is a file `dummy`, whoever has one there
            with tempfile.TemporaryFile(dir=save_dir):
                pass

        return verify_checkpoint_directory

    def make_load(stock: Callable) -> Callable:
        def load_checkpoint(cfg: Any, trainer: Any, **passthrough_args: Any) -> Any:
            while _CLAIMED:
                _HELD.append(weakref.finalize(trainer, give_back, _CLAIMED.pop()))
            return stock(cfg, trainer, **passthrough_args)

        return load_checkpoint

    _replace(checkpoint_utils, "verify_checkpoint_directory", make_check)
    _replace(checkpoint_utils, "load_checkpoint", make_load)


def give_back_folders() -> None:
    """End the claims of the trainings of this process."""
    while _HELD:
        _HELD.pop()()
    while _CLAIMED:
        give_back(_CLAIMED.pop())


def forget_best_score() -> None:
    """Let a training know nothing of the best score of one before it, which fairseq keeps in the process."""
    if hasattr(checkpoint_utils.save_checkpoint, "best"):
        del checkpoint_utils.save_checkpoint.best


# ---- a model is told whether it is built for a training


def tell_loading_from_training() -> None:
    """Let `new_training.whole_training` know whether a model is built for a training or to be loaded.

    fairseq tells its own `build_model` and not the model's; a checkpoint's configuration is that of its
    training.
    """

    def make(stock: Callable) -> Callable:
        def build_model(cfg: Any, task: Any, from_checkpoint: bool = False) -> Any:
            with built_from(from_checkpoint):
                return stock(cfg, task, from_checkpoint)

        return build_model

    _replace(models, "build_model", make)


# ---- translations in memory


@contextmanager
def collected_hypotheses() -> Iterator[Hypotheses]:
    """Collect what a `fairseq-generate` that runs inside loads and translates.

    Its `_main` makes the task, the models and the translations itself, and returns nothing but a score. It
    gives the task to `load_model_ensemble`; a language model beside the ensemble comes without one.
    """
    found, load = Hypotheses(), checkpoint_utils.load_model_ensemble

    @functools.wraps(load)
    def load_model_ensemble(filenames: Any, *args: Any, **kwargs: Any) -> Any:
        ensemble, cfg = load(filenames, *args, **kwargs)
        if kwargs.get("task") is not None:
            found.watch(ensemble, kwargs["task"])
        return ensemble, cfg

    checkpoint_utils.load_model_ensemble = load_model_ensemble
    try:
        yield found
    finally:
        checkpoint_utils.load_model_ensemble = load
