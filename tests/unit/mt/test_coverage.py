"""What is evaluated is the whole set, whatever its name; where it is not, that is said."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("fairseq")

import torch
from fairseq import criterions, tasks
from fairseq.logging import metrics
from fairseq_models import parse

from dsp_plugin.mt.training.coverage import COVERAGE, Coverage, coverage_of

SIZES = {"train": 120, "valid": 16, "test": 12}


def task_of(data, *subsets: str):
    task = tasks.setup_task(parse(data, arch="dsp_transformer", task="dsp_translation").task)
    for subset in subsets:
        task.load_dataset(subset)
    return task


def sentences(iterator) -> list:
    return sorted(int(number) for batch in iterator.frozen_batches for number in batch)


@pytest.mark.parametrize("subset", SIZES)
@pytest.mark.parametrize("batch_size", [1, 7, 8, 100, 200])
def test_every_sentence_is_evaluated_whatever_the_set_is_called(tiny_data, subset, batch_size):
    task = task_of(tiny_data, subset)
    iterator = task.get_batch_iterator(
        task.dataset(subset), max_sentences=batch_size, required_batch_size_multiple=8
    )
    assert sentences(iterator) == list(range(SIZES[subset]))
    assert coverage_of(iterator).whole and COVERAGE in task.state_dict() and not task.state_dict()[COVERAGE]


def test_evaluating_the_training_set_leaves_the_training_its_own_batches(tiny_data):
    task = task_of(tiny_data, "train")
    data = task.dataset("train")
    training = task.get_batch_iterator(
        data, max_sentences=50, required_batch_size_multiple=8, grouped_shuffling=False
    )
    evaluation = task.get_batch_iterator(data, max_sentences=50, required_batch_size_multiple=8)
    assert len(sentences(evaluation)) == 120
    again = task.get_batch_iterator(
        data, max_sentences=50, required_batch_size_multiple=8, grouped_shuffling=False
    )
    assert again is training and training is not evaluation


def partial(task, **options):
    """Those of `valid` that have at most 5 tokens a side, with their end marks."""
    return task.get_batch_iterator(
        task.dataset("valid"), max_sentences=4, max_positions=(5, 5), ignore_invalid_inputs=True, **options
    )


def test_sentences_that_are_left_out_are_told(tiny_data, caplog):
    task = task_of(tiny_data, "valid")
    fit = sum(size <= 5 for size in task.dataset("valid").src_sizes)
    assert 0 < fit < 16
    with caplog.at_level(logging.WARNING):
        iterator = partial(task)
    assert coverage_of(iterator) == Coverage(fit, 16)
    assert f"ONLY {fit} OF 16 SENTENCES of valid" in caplog.text and f"valid-{fit}-of-16" in caplog.text
    assert task.state_dict()[COVERAGE] == {"valid": [fit, 16]}
    caplog.clear()
    partial(task)
    assert "ONLY" not in caplog.text  # once is enough

    class Evaluating(criterions.FairseqCriterion):
        logging_outputs_can_be_summed = staticmethod(lambda: True)
        reduce_metrics = staticmethod(lambda logging_outputs: None)

    def logged(criterion):
        with metrics.aggregate(new_root=True) as seen:
            task.reduce_metrics([{"ntokens": 3, "nsentences": 2}], criterion)
        return seen.get_smoothed_values()

    shown = logged(Evaluating(task).eval())
    assert (shown["sentences"], shown["sentences_of_set"]) == (fit, 16)
    assert "sentences" not in logged(Evaluating(task).train())  # an update of training in between
    task.get_batch_iterator(task.dataset("valid"), max_sentences=4, disable_iterator_cache=True)
    assert "sentences" not in logged(Evaluating(task).eval()) and not task.state_dict()[COVERAGE]


def test_a_shard_is_a_part_unless_its_processes_share_their_results(tiny_data, monkeypatch):
    task = task_of(tiny_data, "valid")
    shard = task.get_batch_iterator(task.dataset("valid"), max_sentences=5, num_shards=2, shard_id=1)
    assert coverage_of(shard) == Coverage(sum(len(batch) for batch in shard.frozen_batches[1::2]), 16)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert coverage_of(shard).whole


@pytest.mark.parametrize("steps, covered", [(0, 4), (2, 12), (3, 16), (9, 16), (None, 16)])
def test_a_validation_that_stops_early(tiny_data, steps, covered):
    """fairseq reads one batch more than --max-valid-steps."""
    task = task_of(tiny_data, "valid")
    iterator = task.get_batch_iterator(task.dataset("valid"), max_sentences=4)
    assert coverage_of(iterator, steps) == Coverage(covered, 16)


def test_label():
    assert Coverage(21, 21).label("train") == "train"
    assert Coverage(16, 21).label("train") == "train-16-of-21"
