"""The record of a translation says what ran: the model as it was loaded, and how much of the set it
covers.
"""

from __future__ import annotations

import ast
import json

import pytest

pytest.importorskip("fairseq")

from fairseq import checkpoint_utils
from fairseq_commands import PACKAGE, run
from fairseq_training import K

from dsp_plugin.mt.programs.chassis.refusals import one_line
from dsp_plugin.mt.programs.generate import generate
from dsp_plugin.options.errors import dashed
from dsp_plugin.records.record import load_record

FLAGS = (
    "-s de -t en --cpu --batch-size 5 --beam 2 --num-workers 0 --no-progress-bar --max-len-b 5 --quiet"
).split()


def record_of(data, path, folder, *flags: str):
    generate([str(data), "--path", str(path), "--record-dir", str(folder), *FLAGS, *flags])
    return load_record(folder / "results.json")


@pytest.fixture(scope="module")
def trained(joint_run):
    return joint_run[0] / "checkpoint_last.pt"


@pytest.mark.parametrize(
    "overrides, kept",
    [
        ("{}", K),
        ("{'num_of_heads': 20}", 20),
        ("{'model': {'num_of_heads': 20}}", 20),
        ("{'num_of_heads': None, 'heads_per_kind': 'encoder-self=1,decoder-cross=2,decoder-self=4'}", 7),
        ("{'min_heads_per_block': 1}", K),
        ("{'num_of_heads': 20, 'use_ste': True, 'annealing': False}", 20),
        ("{'num_of_heads': None, 'joint_pruning': False, 'annealing': False}", 24),
    ],
)
def test_overrides_are_recorded_as_they_ran(tiny_data, trained, tmp_path, overrides, kept):
    record = record_of(tiny_data, trained, tmp_path, "--model-overrides", overrides)
    (model,), _ = checkpoint_utils.load_model_ensemble(
        [str(trained)], arg_overrides=ast.literal_eval(overrides)
    )
    keep = model.eval().gating.gates.keep().tolist() if model.gating else [True] * 24
    assert sum(keep) == kept == record.heads["kept"]
    assert json.loads((tmp_path / "mask.json").read_text())["keep"] == keep
    one_head = 4 * 16 * 4 + 3 * 4  # four projections of 16 by 4, three biases
    assert record.parameters["before"] - record.parameters["after"] == (24 - kept) * one_head
    assert record.parameters["before"] == sum(
        p.numel() for n, p in model.named_parameters() if "gating" not in n
    )
    assert record.method == ("dsp" if model.gating else "unpruned")


def test_every_model_of_an_ensemble_is_recorded(tiny_data, trained, stock_run, tmp_path):
    stock = stock_run / "checkpoint_last.pt"
    record = record_of(tiny_data, f"{trained}:{stock}", tmp_path)
    alone = [record_of(tiny_data, path, tmp_path / path.parent.name) for path in (trained, stock)]
    assert [each["method"] for each in record.extra["ensemble"]] == ["dsp", "unpruned"]
    assert [each["heads"] for each in record.extra["ensemble"]] == [one.heads for one in alone]
    assert record.heads is None and record.method == "ensemble" and record.extra["models"] == 2
    assert record.parameters == {
        when: sum(one.parameters[when] for one in alone) for when in ("before", "after")
    }


def test_the_file_that_is_read_is_the_one_that_is_recorded(tiny_data, trained, stock_run, tmp_path):
    (tmp_path / "model.pt").write_bytes(trained.read_bytes())
    (tmp_path / "model-other.pt").write_bytes((stock_run / "checkpoint_last.pt").read_bytes())
    record = record_of(tiny_data, tmp_path / "model.pt", tmp_path / "out", "--checkpoint-suffix=-other")
    assert record.heads["kept"] == 24 and record.updates == 3


@pytest.mark.parametrize(
    "flags, told",
    [
        (
            ["--model-overrides", "{'num_of_head': 3}"],
            "--model-overrides {'num_of_head': 3}: the checkpoint has no option num_of_head",
        ),
        (["--model-overrides", "[1"], "a Python dictionary is wanted"),
        (["--model-overrides", "{'num_of_heads': 25}"], "0..24"),
        (["--model-overrides", "{'num_of_heads': 3}", "--num-of-heads", "4"], "two numbers of heads"),
        (["--checkpoint-shard-count", "2"], "--checkpoint-shard-count 2"),
        (["--num-shards", "2", "--shard-id", "2"], "--shard-id 2"),
    ],
)
def test_what_cannot_be_is_refused(tiny_data, trained, tmp_path, flags, told):
    with pytest.raises(ValueError) as refused:
        record_of(tiny_data, trained, tmp_path / "out", *flags)
    assert told in one_line(refused.value, dashed) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-source-positions", "6", "--skip-invalid-size-inputs-valid-test"],
        ["--num-shards", "2", "--shard-id", "1"],
    ],
)
def test_a_part_of_a_set_is_called_so(tiny_data, trained, tmp_path, capsys, flags):
    whole = record_of(tiny_data, trained, tmp_path / "whole")
    assert (
        whole.metrics[0].subset == "test"
        and whole.extra["sentences"] == 12
        and "sentences_of_set" not in whole.extra
    )
    lines: list[str] = (tmp_path / "whole" / "translations.txt").read_text().splitlines()
    capsys.readouterr()
    record = record_of(
        tiny_data, trained, tmp_path / "whole", *flags, "--results-path", str(tmp_path / "text")
    )
    covered = record.extra["sentences"]
    assert 0 < covered < 12 == record.extra["sentences_of_set"]
    name = f"{covered}-of-12"
    assert record.metrics[0].subset == f"test-{name}"
    shown = capsys.readouterr().out
    assert f"ONLY {covered} OF 12 SENTENCES" in shown and f"BLEU on test-{name}" in shown
    assert [path.name for path in (tmp_path / "text").iterdir()] == [f"generate-test-{name}.txt"]
    assert (
        f"Generate test-{name} with beam=2" in (tmp_path / "text" / f"generate-test-{name}.txt").read_text()
    )
    assert not (tmp_path / "whole" / "translations.txt").exists()  # of the run before
    found = [
        line.split("\t")
        for line in (tmp_path / "whole" / f"translations-{name}.txt").read_text().splitlines()
    ]
    assert len(found) == covered and all(lines[int(number)] == text for number, text in found)


def test_distillation_data_has_every_sentence(tiny_data, trained, tmp_path):
    record = record_of(tiny_data, trained, tmp_path, "--gen-subset", "train")
    assert record.metrics[0].subset == "train" and record.extra["sentences"] == 120
    assert len((tmp_path / "translations.txt").read_text().splitlines()) == 120


@pytest.mark.parametrize(
    "flags, told",
    [((), False), (("--max-source-positions", 6, "--skip-invalid-size-inputs-valid-test"), True)],
)
def test_fairseqs_own_programs(tiny_data, trained, tmp_path, flags, told):
    plain = [
        tiny_data,
        "--user-dir",
        PACKAGE,
        "--path",
        trained,
        "--cpu",
        "--num-workers",
        0,
        "--no-progress-bar",
        "--batch-size",
        7,
    ]
    done = run(
        "fairseq_cli.generate",
        [*plain, "--task", "dsp_translation", "--gen-subset", "train", "--max-len-b", 4, *flags],
        tmp_path,
    )
    count = sum(line.startswith("H-") for line in done.succeeded().output.splitlines())
    assert (f"ONLY {count} OF 120 SENTENCES" in done.output) == told and (count < 120) == told
    validated = run(
        "fairseq_cli.validate",
        [*plain, "--task", "dsp_translation", "--valid-subset", "train", *flags],
        tmp_path,
    ).succeeded()
    assert (f"sentences {count} | sentences_of_set 120" in validated.output) == told, validated.output[-2000:]
