"""Which sentences make a batch of training does not depend on the epoch that a process starts in."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

from fairseq import tasks
from fairseq_models import parse


def iterator(data, epoch: int, **options):
    """That of a new process which starts, or goes on, in this epoch."""
    task = tasks.setup_task(parse(data, arch="dsp_transformer", task="dsp_translation").task)
    task.load_dataset("train")
    data = task.dataset("train")
    return task.get_batch_iterator(
        data, max_sentences=30, epoch=epoch, seed=1, grouped_shuffling=False, **options
    )


def test_a_run_resumed_in_a_later_epoch_has_the_batches_of_the_first(tiny_data):
    first, later = iterator(tiny_data, 1), iterator(tiny_data, 3)
    assert len(first.frozen_batches) == 4
    assert [list(batch) for batch in first.frozen_batches] == [list(batch) for batch in later.frozen_batches]
    # fairseq then tells the iterator where it was, and the order of the batches is that epoch's
    later.load_state_dict({"epoch": 3, "iterations_in_epoch": 0, "shuffle": True})
    assert later.next_epoch_idx == 3


@pytest.mark.parametrize("option", ["update_epoch_batch_itr", "disable_iterator_cache"])
def test_batches_that_are_to_be_new_in_every_epoch_are(tiny_data, option):
    first, later = (iterator(tiny_data, epoch, **{option: True}) for epoch in (1, 3))
    assert later.epoch == 3
    assert [list(batch) for batch in first.frozen_batches] != [list(batch) for batch in later.frozen_batches]
