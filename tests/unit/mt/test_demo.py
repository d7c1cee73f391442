"""The demo: what it ends with follows from the records, and both models had the same updates."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import demo
import demo_pipelines
import demo_report

from dsp_plugin.records.record import Metric, Record, load_record, save_record

SPEEDS = {"unpruned-tuned": 80.0, "pruned-tuned": 100.0}


def score(part: str, bleu: float, kept: int, updates: int) -> Record:
    blocks = [
        {"name": "encoder.layers.0.self_attn", "kind": "encoder-self", "num_heads": 4, "kept": [*range(kept)]}
    ]
    return Record(
        "mt-bleu",
        "embedded",
        f"any{part}",
        seed=1,
        data="06d6d6e5ea81653c",
        metrics=[Metric("BLEU", bleu, signature="tok:13a", subset="test")],
        heads={"total": 4, "kept": kept, "blocks": blocks},
        parameters={"before": 2_000_000, "after": 2_000_000 if kept == 4 else 1_500_000},
        updates=updates,
    )


@pytest.fixture
def records() -> dict[str, Record]:
    return {
        "unpruned": score("", 91.0, 4, 450),
        "unpruned-tuned": score("-tuned", 95.25, 4, 900),
        "masked": score("", 80.0, 1, 450),
        "pruned": score("-pruned", 80.0, 1, 450),
        "pruned-tuned": score("-tuned", 94.75, 1, 900),
    }


def test_the_summary_follows_from_the_records(records):
    assert demo_report.summary_lines("embedded", records, "test", SPEEDS, "there/comparison.png") == [
        "heads       1 of 4 stay, the others are taken out",
        "BLEU        94.75, with all heads 95.25: -0.50 (450 + 900 updates of training and tuning each)",
        "parameters  1,500,000, with all heads 2,000,000: 0.75 times",
        "speed       100.0 sentences/s, with all heads 80.0: 1.25 times",
        "picture     there/comparison.png",
        "next        make multi30k (the same on real text); docs/fairseq.md (your own model)",
    ]


@pytest.mark.parametrize("name", ["unpruned", "pruned", "unpruned-tuned", "pruned-tuned"])
def test_models_of_other_updates_are_not_compared(records, name):
    records[name] = replace(records[name], updates=records[name].updates - 1)
    with pytest.raises(ValueError, match="449|899"):
        demo_report.summary_lines("embedded", records, "test", SPEEDS, "comparison.png")


def test_the_files_follow_from_the_records(records, tmp_path):
    scores = {}
    for name, (script, part, _) in demo_report.MODELS.items():
        scores[script] = str(tmp_path / script)
        save_record(records[name], tmp_path / script / "records" / f"test{part}")
    read = demo_report.load_scores(scores, "test")
    lines = demo_report.write_report(
        str(tmp_path), "embedded", "test", read, SPEEDS, seconds=200.0, seed=1, cpu=True
    )
    assert len(lines) == 6 and all(line.strip() and "\n" not in line for line in lines)
    assert (tmp_path / "heads.png").stat().st_size and (tmp_path / "comparison.png").stat().st_size
    table = (tmp_path / "table.md").read_text()
    assert "94.75" in table and "450 + 900" in table and "1 of 4" in table
    record = load_record(tmp_path / "results.json")
    assert record.updates == 1350 and record.metric("BLEU pruned-tuned", "test").value == 94.75
    assert record.metric("speed pruned-tuned", "test").value == 100.0


def test_both_models_are_told_the_same_lengths():
    options = demo.parser_of().parse_args([])
    settings = demo.settings_of(options, 6)
    assert settings["SCHEDULE"] == "auto" and settings["K"] == "6"
    folders = demo.folders_of("demo/embedded", 6, 1, settings)
    length = f"{settings['MAX_UPDATE']}+{settings['TUNE_UPDATES']}"
    assert set(folders) == {"unpruned", "joint"} and all(length in folder for folder in folders.values())


@pytest.mark.parametrize("dataset", sorted(demo.SETTINGS))
def test_the_schedule_of_the_demo_is_worked_out(dataset):
    """No setting that lib.sh fills in by itself makes it one by hand."""
    options = demo.parser_of().parse_args(["--dataset", dataset])
    shown = subprocess.run(
        ["bash", "-c", 'source scripts/mt/lib.sh; schedule --by-hand; echo "$SCHEDULE:${GATES[*]}"'],
        env={**os.environ, **demo.settings_of(options, 6)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "auto:\n"


@pytest.mark.parametrize(
    "words, environment, message",
    [
        (["--num-of-heads", "25"], {}, "0..24"),
        (["--num-of-heads", "six"], {}, "--num-of-heads"),
        (["--seed", "-1"], {}, "--seed"),
        ([], {"MAX_UPDATE": "99"}, "MAX_UPDATE must be at least 100"),
        ([], {"TUNE_UPDATES": "0"}, "TUNE_UPDATES"),
        (["--out", "/dev/null"], {}, "/dev/null"),
    ],
)
def test_bad_input_is_refused_before_work(words, environment, message, monkeypatch, capsys):
    def no_work(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "run_one", no_work)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((SystemExit, ValueError)) as end:
        demo.main(words)
    assert message in capsys.readouterr().err + str(end.value)


LOG = [
    "10:00:00 | INFO | fairseq_cli.train | {'_name': None, 'finetune_from_model': None, 'max_update': 450}",
    "10:00:09 | INFO | train_inner | epoch 001:     50 / 98 loss=8.004, nll_loss=7.868, heads_open=24, "
    "num_updates=50, lr=0.001",
    "10:00:20 | INFO | valid | epoch 005 | valid on 'valid' | loss 2.031 | bleu 83.2 | num_updates 450",
    "| BLEU on test: 85.52  nrefs:1|case:mixed",
    "10:01:00 | INFO | fairseq_cli.train | {'_name': None, 'finetune_from_model': 'runs/pruned.pt'}",
    "10:02:00 | INFO | train_inner | epoch 001:     50 / 98 loss=1.6, nll_loss=0.4, num_updates=50, lr=0.001",
]
NEWS = [
    "",
    "training: update 50 of 450, loss 8.004, heads open 24",
    "training: update 450 of 450, BLEU 83.2 on valid",
    "scored: BLEU on test: 85.52",
    "scored: BLEU on test: 85.52",
    "tuning: update 50 of 900, loss 1.6",
]


@pytest.mark.parametrize("number", range(len(NEWS)))
def test_the_news_of_a_log_are_phase_update_and_figures(number, tmp_path):
    log, earlier = tmp_path / "pipeline.log", "| BLEU on test: 1.00  of an earlier start\n"
    log.write_text(earlier + "\n".join(LOG[: number + 1]))
    settings = {"MAX_UPDATE": "450", "TUNE_UPDATES": "900"}
    assert demo_pipelines.last_news(str(log), len(earlier), settings) == NEWS[number]


def test_a_failure_names_the_log(tmp_path, capfd):
    log = str(tmp_path / "prepare.log")
    with pytest.raises(SystemExit) as end:
        demo_pipelines.run_one("the preparation", ["bash", "-c", "echo no words >&2; exit 3"], log, {})
    assert "no words" in str(end.value) and f"the preparation failed; its whole output: {log}" in str(
        end.value
    )
    assert capfd.readouterr() == ("", "")


def test_a_failed_pipeline_ends_the_other(tmp_path, monkeypatch):
    scripts = tmp_path / "scripts" / "mt"
    scripts.mkdir(parents=True)
    for name, text in {"unpruned": "sleep 600; true", "joint": "echo no room; exit 1"}.items():
        (scripts / f"{name}.sh").write_text(f"#!/bin/bash\n{text}\n")
        (scripts / f"{name}.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    lengths = {"MAX_UPDATE": "450", "TUNE_UPDATES": "900"}
    jobs = {name: {**lengths, "SAVE_DIR": str(tmp_path / name)} for name in ("unpruned", "joint")}
    started = time.time()
    try:
        with pytest.raises(SystemExit, match="no room\n\njoint failed"):
            demo_pipelines.run_side_by_side(jobs)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert time.time() - started < 60
