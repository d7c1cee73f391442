"""The stages of DSEE on fairseq, each in a folder of its own: what stands beside the two trainings."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from typing import Any

from ....dsee.artefact import DseeFile
from ....dsee.labels import label_of
from ....options.faults import naming
from ....records.files.whole import check_folder
from ....records.record import Metric, kept_heads, new_record, save_record
from ....records.settings import other_settings, refusal
from ...dsee.account import account_lines, account_of
from ...dsee.deployed import check_base, frozen_of
from ...dsee.files import FILE, file_of_checkpoint, read_file, write_file
from ...dsee.pruning import Pruning, prune_file
from ...heads.checkpoint_heads import CheckpointHeads, head_map_of_state, in_original_numbers
from ...surgery.base_checkpoint import BaseCheckpoint
from ..chassis.stages import Training, say
from ..chassis.training_results import result_of

# in the configuration of stage II's file, the fingerprint of the training it is of
STAGE1 = "stage1_settings"


@dataclass
class Update:
    """A training of an update, stage I or III, and the file that it ends in.

    Attributes:
        number: of the stage, in Roman. training: as fairseq makes it.
    """

    number: str
    training: Training

    @property
    def path(self) -> str:
        return os.path.join(self.training.folder, FILE)

    def run(self, base: BaseCheckpoint, name: str, label: str) -> None:
        """Train, unless it is done, and write the file and the record.

        Args:
            name, label: of the setting and of the method, for the record.
        """

        def finished() -> dict[str, Any]:
            file = file_of_checkpoint(result_of(self.training.folder), base, {"stage": self.number})
            write_file(file, self.path)
            account = account_of(base, file, self.path)
            for line in account_lines(account):
                say(line)
            return {"dsee": account}

        self.training.run(label, name, finished)


@dataclass
class Prune:
    """Stage II: it trains nothing, and is scored on the validation set as it stands.

    Attributes:
        folder: where it lies. pruning: what goes.
        first: stage I. later: fairseq's options of stage III, by which it is scored.
    """

    folder: str
    pruning: Pruning
    first: Update
    later: argparse.Namespace

    @property
    def path(self) -> str:
        return os.path.join(self.folder, FILE)

    def check(self) -> None:
        """Look at the folder, and at the file where there is one.

        Raises:
            ValueError: it was pruned otherwise, or of a stage I that had other settings.
        """
        check_folder("--save-dir", self.folder)
        if not os.path.isfile(self.path):
            return
        made_by = DseeFile.load(self.path).config
        there = made_by.get("pruning")
        differing = other_settings(there if isinstance(there, dict) else {}, self.pruning.figures())
        if differing:
            raise refusal(f"{self.path} was pruned", differing, "name another --save-dir")
        if (
            made_by.get(STAGE1) != self.first.training.fingerprint()
        ):  # it may have been removed, and trained anew
            remedy = f"remove {self.folder} and the stage after it, or name another --save-dir"
            raise refusal(f"{self.path} is of a stage I", [], remedy)

    def run(self, base: BaseCheckpoint, name: str) -> None:
        """Prune, unless it is done, and write file and record. Errors as `check` and `prune_file`."""
        record = os.path.join(self.folder, "results.json")
        self.check()
        if os.path.isfile(self.path) and os.path.isfile(record):
            say(f"{self.folder} is done")
            return
        started = time.time()
        file = read_file(self.first.path)
        with naming("--dsee-checkpoint", self.first.path):
            check_base(file, base.tensors)
        made_by = {**file.config, STAGE1: self.first.training.fingerprint()}
        file = prune_file(base, DseeFile(**{**vars(file), "config": made_by}), self.pruning)
        os.makedirs(self.folder, exist_ok=True)
        write_file(file, self.path)
        account = account_of(base, file, self.path)
        seconds = time.time() - started
        for line in account_lines(account):
            say(line)
        metrics = validated(self.later, self.path, self.folder)
        heads = heads_of_file(base, file)
        written = new_record(
            "mt-train",
            name,
            label_of(file.config),
            device="cpu" if self.later.cpu else None,
            seed=self.later.seed,
            heads=kept_heads(heads.head_map.to_dict(), heads.keep.tolist()),
            seconds={"prune": seconds},
            updates=0,
            metrics=metrics,
            extra={"dsee": account},
        )
        save_record(written, record)


def heads_of_file(base: BaseCheckpoint, file: DseeFile) -> CheckpointHeads:
    """Return the units that a file keeps, among those of the model before any removal."""
    import torch

    frozen = frozen_of(base.source, file)
    head_map = head_map_of_state(frozen.tensors, frozen.options)
    every = torch.ones(head_map.num_heads, dtype=torch.bool)
    return in_original_numbers(frozen.state, CheckpointHeads(head_map, every, None))


def validated(options: argparse.Namespace, path: str, folder: str) -> list[Metric]:
    """Score a file's model on the validation sets as fairseq-train would, before any update.

    Args:
        options: of fairseq-train. path: of the file. folder: for what a validation notes.
    """
    from fairseq import tasks
    from fairseq.dataclass.initialize import add_defaults
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer
    from fairseq_cli.train import validate

    cfg = convert_namespace_to_omegaconf(
        argparse.Namespace(**{**vars(options), "save_dir": folder, "dsee_checkpoint": path})
    )
    add_defaults(cfg)
    if cfg.dataset.disable_validation:
        return []
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    subsets = cfg.dataset.valid_subset.split(",")
    for subset in subsets:
        task.load_dataset(subset, combine=False, epoch=1)
    found = validate(cfg, trainer, task, argparse.Namespace(epoch=1), subsets)
    metric = cfg.checkpoint.best_checkpoint_metric
    return [Metric(metric, float(value), subset=subset) for subset, value in zip(subsets, found)]
