"""Canaries: what this plugin replaces in fairseq, or counts on, is as the patches take it to be.

Where one fails, read what the newer fairseq does there, mend `dsp_plugin/mt/patches.py` (or take the patch
out), and only then add the new digest.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
from pathlib import Path

import pytest

pytest.importorskip("fairseq")

import fairseq.models
import fairseq_cli.generate
import fairseq_cli.train
import torch
from fairseq import checkpoint_utils, options
from fairseq.file_io import PathManager
from fairseq.tasks import TASK_REGISTRY
from fairseq.trainer import Trainer

import dsp_plugin
from dsp_plugin.mt.patches import TorchOfCheckpoints, collected_hypotheses, patch_fairseq

# (where, function) -> beginning of the SHA-256 of its source in fairseq 0.12.2, and in 0.12.3 where that
# differs
READ = {
    (checkpoint_utils, "load_checkpoint_to_cpu"): ["96f7d33cde8e1582"],
    (checkpoint_utils, "load_ema_from_checkpoint"): ["4b8b42252f29ec6c"],
    (checkpoint_utils, "save_checkpoint"): ["6d723b0b350a2766", "61513534b9b33e6a"],
    (checkpoint_utils, "torch_persistent_save"): ["5f397c23bc8811f6"],
    (checkpoint_utils, "verify_checkpoint_directory"): ["413f93d9a158f8d4"],
    (checkpoint_utils, "load_checkpoint"): ["67d83ee6ab6c7cf0", "08e4fa03a2ab86a9"],
    (checkpoint_utils, "load_model_ensemble"): ["ffecc01166429332"],
    (PathManager, "copy"): ["1d3c09d3f1965527"],
    (PathManager, "supports_rename"): ["8dd0d0c99f5e6244"],
    (fairseq.models, "build_model"): ["616b10d14de9810d"],
    (fairseq_cli.generate, "_main"): ["ca3a4a7f2f3a7fc4"],
    (fairseq_cli.train, "main"): ["60ff9dfe7b8c1627", "2a1b822cd8f53582"],
    (fairseq_cli.train, "should_stop_early"): ["deb15b6c0cc23cfd"],
}


@pytest.fixture(autouse=True, scope="module")
def registered():
    dsp_plugin.register()


@pytest.mark.parametrize("owner, name", READ, ids=lambda value: getattr(value, "__name__", value))
def test_fairseqs_function_is_one_that_was_read(owner, name):
    source = inspect.getsource(inspect.unwrap(getattr(owner, name)))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] in READ[owner, name]


def test_each_is_replaced_once_however_often_fairseq_opens_the_plugin():
    replaced = [
        (checkpoint_utils, "torch_persistent_save"),
        (checkpoint_utils, "verify_checkpoint_directory"),
        (checkpoint_utils, "load_checkpoint"),
        (PathManager, "copy"),
        (fairseq.models, "build_model"),
    ]
    before = [getattr(owner, name) for owner, name in replaced]
    patch_fairseq()
    assert [getattr(owner, name) for owner, name in replaced] == before
    for function in before:
        assert function.__module__.startswith("fairseq.") and not hasattr(function.__wrapped__, "__wrapped__")
        assert inspect.signature(function) == inspect.signature(function.__wrapped__)


def test_checkpoints_are_read_where_the_guard_stands():
    """A newer fairseq that reads checkpoints elsewhere needs another patch."""
    source = Path(checkpoint_utils.__file__).read_text("utf-8")
    assert isinstance(checkpoint_utils.torch, TorchOfCheckpoints)
    assert (
        source.count("torch.load(") == 2 and "import torch\n" in source and "from torch import" not in source
    )
    assert checkpoint_utils.torch.HalfTensor is torch.HalfTensor
    trainer = Path(checkpoint_utils.__file__).with_name("trainer.py").read_text("utf-8")
    assert "torch.load(" not in trainer and "checkpoint_utils.load_checkpoint_to_cpu(" in trainer


def test_fairseqs_parsers_are_plain_and_read_their_lists_by_lambdas():
    """`refusals.raise_errors` replaces `error` of the one, and knows the other by their name."""
    for make, lists in (
        (options.get_training_parser, {"update_freq": [1, 2], "lr": [1.0, 2.0]}),
        (options.get_generation_parser, {}),
    ):
        parser = make()
        assert type(parser) is argparse.ArgumentParser and "error" not in vars(parser)
        types = {action.dest: action.type for action in parser._actions}
        named = {dest: read for dest, read in types.items() if getattr(read, "__name__", "") == "<lambda>"}
        assert {dest: read("1,2") for dest, read in named.items()} == lists
    source = inspect.getsource(options.parse_args_and_arch)
    assert source.count("modify_parser(parser)") == 2  # the second time with the options of what is chosen


def test_the_trainer_alone_asks_for_grouped_shuffling_and_only_to_train():
    """By it `coverage.is_training_pass` knows a training pass."""
    places = [Path(fairseq_cli.train.__file__).parent, Path(checkpoint_utils.__file__).parent]
    files = [file for place in places for file in place.glob("*.py")]
    assert [file.name for file in files if "grouped_shuffling=" in file.read_text("utf-8")] == ["trainer.py"]
    train, valid = map(inspect.getsource, (Trainer.get_train_iterator, Trainer.get_valid_iterator))
    assert train.count("get_batch_iterator(") == 1 and train.count("grouped_shuffling=") == 1
    assert valid.count("get_batch_iterator(") == 1 and "grouped_shuffling" not in valid


@pytest.mark.parametrize("method", ["dsp", "voita", "michel", "diff"])
def test_the_loader_finds_that_a_model_may_be_of_a_checkpoint(method):
    """It looks for the argument's name, and would not find it behind a decorator."""
    assert 'if "from_checkpoint" in argspec.args' in inspect.getsource(
        checkpoint_utils.load_model_ensemble_and_task
    )
    task = TASK_REGISTRY[f"{method}_translation"]
    assert "from_checkpoint" in inspect.getfullargspec(task.build_model).args


def test_the_loader_is_watched_for_the_time_of_a_generation_alone():
    stock = checkpoint_utils.load_model_ensemble
    with collected_hypotheses():
        assert checkpoint_utils.load_model_ensemble is not stock
    assert checkpoint_utils.load_model_ensemble is stock
