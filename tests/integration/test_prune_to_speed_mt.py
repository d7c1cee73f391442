"""`dsp prune --target-speedup` of a checkpoint that stock fairseq trained: what comes out translates on."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("fairseq")

from dsp_plugin.cli import main as cli
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task
from dsp_plugin.records.record import load_record


def words(run, data, out, *more, speedup=1.3):
    checkpoint = run / "checkpoint_last.pt"
    asked = ["prune", checkpoint, "--target-speedup", speedup, "--calibration", data, "--out", out]
    more = ["--group", 4, "--shape", "2x5x2", "--costs", out.parent / "costs", "--threads", 1, *more]
    return [str(word) for word in [*asked, *more]]


def test_a_smaller_checkpoint_comes_out_and_translates(stock_run, tiny_data, tmp_path, capsys):
    before = (stock_run / "checkpoint_last.pt").read_bytes()
    out = tmp_path / "small.pt"
    argv = words(stock_run, tiny_data, out, "--cost", "parameters", "--score", tiny_data)
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ceiling: ") and "BLEU on valid" in shown
    assert (stock_run / "checkpoint_last.pt").read_bytes() == before

    task = translation_task(str(tiny_data), "valid")
    whole, small = load_model(str(stock_run / "checkpoint_last.pt"), task), load_model(str(out), task)
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (whole, small)]
    record = load_record(tmp_path / "small.results.json")
    assert record.parameters == {"before": counts[0], "after": counts[1]}
    # at least what was asked, and not a unit more than is needed
    largest = max(4 * 4 * 16 + 3 * 4, 4 * (2 * 16 + 1))
    assert 1.3 <= counts[0] / counts[1] and counts[1] + largest > counts[0] / 1.3
    assert record.metric("BLEU", "valid").signature and record.metric("BLEU unpruned", "valid")
    assert len(translate(small, task, "valid", beam=2, max_len_b=12)) == len(task.dataset("valid"))

    mask = json.loads((tmp_path / "small.mask.json").read_text())["keep"]
    assert sum(mask) == record.heads["kept"] + record.heads["groups"]["kept"]
    assert (tmp_path / "small.units.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_can_lose_neurons_alone_by_latency_one_number_a_kind(stock_run, tiny_data, tmp_path):
    out = tmp_path / "small.pt"
    more = ("--units", "neurons", "--uniform", "--score-by", "importance")
    assert cli.main(words(stock_run, tiny_data, out, *more, speedup=1)) == 0
    record = load_record(tmp_path / "small.results.json")
    assert record.heads["total"] == 0 and record.heads["groups"]["total"] == 20
    mask = json.loads((tmp_path / "small.mask.json").read_text())
    heads = [block for block in mask["blocks"] if not block.get("neurons")]
    assert all(mask["keep"][: sum(block["num_heads"] for block in heads)]), "no head went"
    assert load_checkpoint(str(out))["cfg"]["model"]["neurons"] == 4


def test_what_is_no_data_of_the_checkpoint_is_refused_before_work(stock_run, tiny_data, tmp_path, capsys):
    out = tmp_path / "small.pt"
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    for lang in ("de", "en"):
        path = other / f"dict.{lang}.txt"
        path.write_text(path.read_text() + "neverseen 1\n")
    for argv, said in (
        (words(stock_run, other, out), "is of other data"),
        (words(stock_run, tmp_path, out), "--calibration"),
        (words(stock_run, tiny_data, out, "--shape", "2x5"), "sentences, tokens and beam"),
        (words(stock_run, tiny_data, out, "--shape", "2x5000x2"), "positions for"),
        (words(stock_run, tiny_data, out, "--group", 3), "--group 3"),
        (words(stock_run, tiny_data, out, "--cost", "bytes", speedup=100), "out of reach"),
        (words(stock_run, tiny_data, out, "--task", "CoLA"), "--task"),
    ):
        assert cli.main(argv) == 1
        assert said in capsys.readouterr().err, argv
    assert not out.exists()


def test_a_checkpoint_with_gates_is_to_lose_its_closed_heads_first(joint_run, tiny_data, tmp_path, capsys):
    folder, _ = joint_run
    assert cli.main(words(folder, tiny_data, tmp_path / "small.pt")) == 1
    assert "take the heads that they close out first" in capsys.readouterr().err
    assert not (tmp_path / "small.pt").exists()
