"""Runs that are stopped inside a later epoch and resumed: every strategy of sampling, one process and
several.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hf_data import arguments, padded, sentences, trainer
from hf_training import gated, prepared
from torch.utils.data import DataLoader, RandomSampler
from transformers import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from dsp_plugin.hf.heads.gating import switchboard_of
from dsp_plugin.hf.trainer.epoch_order import EpochOrder

ROWS = sentences(18)  # 5 updates an epoch, the last of 2 rows


class Batches:
    """Collates, and notes which rows were asked for."""

    def __init__(self):
        self.seen = []

    def __call__(self, rows):
        self.seen.append(
            [next(i for i, row in enumerate(ROWS) if row["input_ids"] is one["input_ids"]) for one in rows]
        )
        return padded(rows)


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize("method", ["plain", "relaxed"])
def test_resumed_in_the_second_epoch_is_uninterrupted(strategy, method, tmp_path):
    options = dict(max_steps=13, save_strategy="steps", save_steps=7, train_sampling_strategy=strategy)
    models, orders = [], []
    for checkpoint in (None, str(tmp_path / "checkpoint-7")):
        if method == "plain":
            model = tiny_model("bert", dtype=torch.float32)
            run = trainer(model, arguments(tmp_path, **options), ROWS, [EpochOrder()])
        else:
            model = gated(method)
            run = prepared(model, tmp_path, ROWS, **options)
        run.data_collator = batches = Batches()
        torch.manual_seed(5 if checkpoint is None else 99)
        run.train(resume_from_checkpoint=checkpoint)
        models.append(model.state_dict())
        orders.append(batches.seen)
        assert (switchboard_of(model) is not None) == (method == "relaxed")
    whole, resumed = orders
    epochs = [[row for batch in whole[5 * epoch : 5 * epoch + 5] for row in batch] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(18)) and epochs[0] != epochs[1]
    assert resumed[:6] == whole[7:13]  # the loader reads a batch ahead
    for name, one in models[0].items():
        assert torch.equal(one, models[1][name]), name


# Without its seedable sampler Accelerate sends one process's random numbers to the others, which takes
# processes.
@pytest.mark.parametrize(
    "sampler_class, seedable",
    [(LengthGroupedSampler, True), (LengthGroupedSampler, False), (RandomSampler, True)],
)
def test_all_processes_draw_one_order_and_a_resumed_one_the_same(sampler_class, seedable, tmp_path):
    args, state = arguments(tmp_path), TrainerState(epoch=2.4)

    def batches(rank, skip=0, epoch=2):
        torch.manual_seed(1000 + rank + 7 * skip)
        lengths = [len(row["input_ids"]) for row in ROWS]
        sampler = (
            LengthGroupedSampler(2, lengths=lengths)
            if sampler_class is LengthGroupedSampler
            else sampler_class(ROWS)
        )
        loader = prepare_data_loader(
            DataLoader(range(len(ROWS)), batch_size=2, sampler=sampler),
            num_processes=2,
            process_index=rank,
            use_seedable_sampler=seedable,
            data_seed=args.seed,
        )
        state.epoch = epoch + 0.4
        EpochOrder().on_epoch_begin(args, state, None, train_dataloader=loader)
        loader = skip_first_batches(loader, skip) if skip else loader
        loader.set_epoch(epoch)  # as the Trainer does
        return [batch.tolist() for batch in loader]

    one, other = batches(0), batches(1)
    assert sorted({row for batch in one + other for row in batch}) == list(range(18))
    assert batches(0, skip=2) == one[2:] and batches(1, skip=2) == other[2:]
    assert batches(0, epoch=1) != one
