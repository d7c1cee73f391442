"""Two processes under torchrun (gloo, CPU): the same model on both, and what one process would have made
of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import padded, sentences
from hf_diffs import base_model, in_diff, without_dropout
from hf_training import DATA, LAMBDA, K, QuietConcrete, expected_gradients, gated

from dsp_plugin.diffs import DiffPack
from dsp_plugin.hf.heads.importance import head_importance
from dsp_plugin.hf.heads.importance_start import ImportanceStart
from dsp_plugin.records.record import load_record

TESTS = Path(__file__).resolve().parents[1] / "helpers"
NAME = "gating.gates.scores"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes of `hf_worker.py` found, their folder, and what they said."""
    folder = tmp_path_factory.mktemp("torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parents[1])]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*command, str(TESTS / "hf_worker.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert found[0]["world"] == 2
    return found, folder, done.stdout


def same(one, other) -> bool:
    """Bit by bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other)))


def test_the_gradient_is_that_of_one_process_with_all_the_rows(ranks):
    """Mean loss of the 8 rows, one penalty, and clipping apart: 2 processes with 2 micro-batches of 2."""
    found = [rank["one_update"]["gradients"] for rank in ranks[0]]
    assert same(*found)
    expected = expected_gradients(
        gated(lambda heads: QuietConcrete(heads, K, LAMBDA), dropout=False), DATA[:8]
    )
    scores = expected.pop(NAME)
    norm = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in expected.values()]))
    coefficient = min(1.0, 0.5 / float(norm))
    assert coefficient < 0.5
    for name, gradient in expected.items():
        torch.testing.assert_close(found[0][name], coefficient * gradient, rtol=1e-3, atol=1e-6)
    scores = coefficient * scores
    torch.testing.assert_close(
        found[0][NAME], scores * min(1.0, 0.5 / float(scores.norm())), rtol=1e-3, atol=1e-6
    )


def test_both_processes_end_with_the_same_model_and_the_same_heads(ranks):
    one, other = (rank["relaxed"]["whole"] for rank in ranks[0])
    assert same(one["state"], other["state"]) and same(one["optimizer"], other["optimizer"])
    assert torch.equal(one["keep"], other["keep"]) and int(one["keep"].sum()) == K
    assert one["losses"] == other["losses"] and len(one["losses"]) == 4
    # though each drew gates of its own
    assert len(one["draws"]) == 4 and not any(
        torch.equal(*draws) for draws in zip(one["draws"], other["draws"])
    )


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(ranks):
    for rank in ranks[0]:
        whole, resumed = rank["relaxed"]["whole"], rank["relaxed"]["resumed"]
        assert same(resumed["draws"], whole["draws"][2:])
        assert all(same(resumed[name], whole[name]) for name in ("state", "optimizer", "keep", "losses"))


def test_the_heads_are_noted_once(ranks):
    lines = (ranks[1] / "relaxed" / "heads.jsonl").read_text().splitlines()
    assert [json.loads(line)["updates"] for line in lines] == [1, 2, 3, 4]


def test_importance_is_that_of_one_process(ranks):
    one, other = (rank["michel"] for rank in ranks[0])
    assert torch.equal(one["importance"], other["importance"]) and one["keep"] == other["keep"]
    alone = head_importance(tiny_model("bert"), sentences(9), padded, 2, progress=False)
    torch.testing.assert_close(one["importance"], alone, rtol=1e-12, atol=0)
    assert [sum(keep) for keep in one["keep"]] == [8, 5, 2, 0]
    start = ImportanceStart(gated("relaxed", dropout=False), sentences(9), padded, batch_size=2)()
    assert torch.equal(one["start"], other["start"]) and torch.equal(one["start"], start)


def test_both_processes_end_with_the_same_diff(ranks, tmp_path):
    one, other = (rank["diff"] for rank in ranks[0])
    assert same(one["state"], other["state"]) and one["state"]["w"].any()
    assert same(one["values"], other["values"]) and same(one["model"], other["model"])
    # the gradient is that of one process with all the rows
    options = dict(max_steps=1, per_device_train_batch_size=8)
    run, optimizer = in_diff(tmp_path, model=without_dropout(base_model()), data=DATA[:8], **options)
    run.train()
    assert one["norm"] == other["norm"] == pytest.approx(optimizer.metrics()["w_norm"], rel=1e-4)


def test_the_number_of_updates_is_the_trainers(ranks):
    for rank in ranks[0]:
        assert all(ours == theirs for ours, theirs in rank["steps"]) and len(rank["steps"]) == 3


def test_the_programs_write_once_what_both_processes_found(ranks):
    one, other = (rank["programs"] for rank in ranks[0])
    for name, place in (("dsp", "dsp"), ("tuned", "dsp/tuned"), ("diff", "diff/0.01/3rd")):
        assert one[name]["eval_loss"] == other[name]["eval_loss"]
        record = load_record(ranks[1] / "programs" / place / "dev" / "results.json")
        assert record.metrics[0].value == 100 * one[name]["eval_matthews_correlation"]
        assert len((ranks[1] / "programs" / place / "CoLA.tsv").read_text().splitlines()) == 8
    before, after = (
        load_record(ranks[1] / "programs" / name / "results.json") for name in ("dsp", "dsp/tuned")
    )
    assert before.heads["kept"] == 3 and after.heads == before.heads
    assert (after.method, after.updates) == ("dsp-ste-tuned", 2)
    DiffPack.load(ranks[1] / "programs" / "diff" / "0.01" / "task.diff.safetensors")
    said = ranks[2]
    assert said.count("| stage 1: diff pruning") == said.count("| pack: ") - 1 == 1
