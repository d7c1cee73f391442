"""`make delta` by Snakemake, on stand-ins: base and samples first, rates by dev, stages in their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_runs import ROOT, calls, fake_repository, start

# Each notes its start. run.py leaves its file, and scores on dev that are best at the middle rate.
HEAD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from dsp_plugin.records.files.sealed import write_json
from dsp_plugin.records.record import Metric, Record, save_record

words = sys.argv[1:]
values = dict(zip(words, words[1:]))

def note(text):
    with open("calls", "a") as calls:
        calls.write(text + "\\n")

def write(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("{{}}")
"""
BODIES = {
    "pretrain_mlm.py": """
note("pretrain")
write(values["--output_dir"] + "/config.json")
sealed = '{"files": {"model.safetensors": {"sha256": "ab"}}}\\n'
write_json(values["--output_dir"] + "/checksums.json", sealed)
record = Record("mlm-train", "masked words", "masked-lm", seconds={"train": 60.0}, updates=9)
scores = {"before": 1.0, "after": 20.0}
record.metrics = [Metric("accuracy of masked words", scores[when], "%", subset=when) for when in scores]
record.extra = {"model": "bert", "sentences": 1000, "clock": "wall", "weights": {"model.safetensors": "ab"}}
save_record(record, values["--record_dir"])
""",
    "tools/generate_k_shot_data.py": """
note("samples " + values["--task"])
seeds = words[words.index("--seed") + 1 :]
folder = Path(values["--output_dir"], values["--mode"], values["--task"])
for seed in seeds:
    write(folder / f"{values['--k']}-{seed}" / "train.tsv")
""",
    "run.py": """
assert Path(values["--model_name_or_path"], "config.json").is_file()
assert Path(values["--data_dir"], "train.tsv").is_file()
start = values.get("--delta_checkpoint")
assert start is None or Path(start, "task.delta.safetensors").is_file()
out, rate = Path(values["--output_dir"]), values["--learning_rate"]
note(f"{out.parent.name}/{out.name} {rate}")
write(out / "task.delta.safetensors")
write(out / "model.safetensors")
for split in ("dev", "test"):
    record = Record("glue-score", "SST-2", values["--training_params"], seed=int(values["--seed"]))
    record.metrics = [Metric("accuracy", 70.0 if float(rate) == 1e-3 else 60.0, "%", subset=split)]
    delta = {"tag": values["--tag"], "few_shot_type": "prompt", "num_k": 16, "learning_rate": float(rate)}
    record.extra = {"delta": delta, "main_metric": "accuracy", "model": "mlm"}
    record.command = " ".join(["python", *sys.argv])
    save_record(record, Path(values["--record_dir"], split))
""",
}


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = fake_repository(tmp_path / "repository")
    for name, body in BODIES.items():
        path = folder / "scripts/delta" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD.format(root=str(ROOT)) + body)
    for name in ("glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", "bert/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_what_comes_before_what(repository):
    settings = {"tasks": "SST-2", "model": "bert", "data": "glue"}
    done = start(repository, "delta", only="SST-2/k16-bias-seed42", parts="few", **settings)
    assert done.returncode == 0, done.stdout
    started = calls(repository)
    assert sorted(started[:2]) == ["pretrain", "samples SST-2"]
    tried = [f"SST-2/k16-bias-lr{rate}-seed13 {rate}" for rate in ("0.0003", "0.001", "0.003")]
    assert sorted(started[2:5]) == tried
    assert started[5:] == ["SST-2/k16-bias-seed42 0.001"]  # the best one on dev
    table = (repository / "results/delta/table.md").read_text()
    assert "70.00 ± 0.00" in table and "not measured" in table
    folder = repository / "runs/delta/SST-2/k16-bias-seed42"
    assert (folder / "task.delta.safetensors").is_file() and not (folder / "model.safetensors").exists()
    again = start(repository, "delta", "-n", only="SST-2/k16-bias-seed42", parts="few", **settings)
    assert "Nothing to be done" in again.stdout and calls(repository) == []
    # a stage begins with the file of the one before, at the rate of its method alone
    only = "SST-2/orders-bias-then-adapter-seed13"
    done = start(repository, "delta", only=only, parts="orders", **settings)
    assert done.returncode == 0, done.stdout
    started = calls(repository)
    assert started.index("SST-2/orders-bias-seed13 0.001") < started.index(f"{only} 0.001")
    assert len(started) == 3 + 2 and started[-1] == f"{only} 0.001"
    # a clone has the records of a stage and no file: it is made once more, and the records stay
    kept = repository / "results/delta/SST-2/orders-bias-seed13/dev/results.json"
    before = kept.read_bytes()
    (repository / "runs/delta/SST-2/orders-bias-seed13/task.delta.safetensors").unlink()
    done = start(repository, "delta", only="SST-2/orders-bias-then-prompt-seed13", parts="orders", **settings)
    assert done.returncode == 0, done.stdout
    started = calls(repository)
    assert "SST-2/orders-bias-seed13 0.001" in started and kept.read_bytes() == before
    assert (repository / "runs/delta/records/SST-2/orders-bias-seed13/dev/results.json").is_file()


def test_what_is_missing_is_said_before_anything_is_started(repository):
    (repository / "glue/SST-2/dev.tsv").unlink()
    refused = start(repository, "delta", tasks="SST-2", model="bert", data="glue", parts="few")
    assert refused.returncode == 1 and "no glue/SST-2/dev.tsv: " in refused.stdout and calls(repository) == []
    weights = {"weights": {"model.safetensors": "ab"}}
    record = {"schema_version": 1, "kind": "mlm-train", "name": "masked words", "method": "masked-lm"}
    path = repository / "results/delta/mlm/results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**record, "extra": weights}))
    refused = start(repository, "delta", tasks="SST-2", model="bert", data="glue", parts="few")
    assert refused.returncode == 1 and "no runs/delta/mlm, the base of the records" in refused.stdout
