"""The pipelines by Snakemake, on fake programs: order, several at once, failures, going on, what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from claims import at_work
from pipeline_runs import calls, fake_repository, start, words_of

from dsp_plugin.records.record import load_record

COLA = {"tasks": "CoLA", "model": "bert"}


@pytest.fixture
def repository(tmp_path):
    folder = fake_repository(tmp_path / "repository")
    (folder / "bert").mkdir()
    (folder / "bert/config.json").write_text(json.dumps({"num_hidden_layers": 6, "num_attention_heads": 12}))
    return folder


def test_every_run_once_and_what_it_starts_from_before_it(repository):
    done = start(repository, "glue", budgets=36, **COLA)
    started = [line.split() for line in calls(repository)]
    assert done.returncode == 0, done.stdout
    names = [Path(record).name for _, record in started]
    assert sorted(names) == [
        *("joint-K36-seed1", "michel-K36-seed1", "pipelined-K36-seed1", "random-K36-seed1"),
        *("ste-K36-seed1", "unpruned-seed1", "voita-K36-seed1"),
    ]
    for name in ("michel-K36-seed1", "pipelined-K36-seed1", "random-K36-seed1"):
        assert names.index(name) > names.index("unpruned-seed1")
    assert "## CoLA" in (repository / "results/glue/table.md").read_text() and "## CoLA" in done.stdout
    assert (repository / "runs/glue/CoLA/joint-K36-seed1.log").exists()
    assert not list((repository / "runs").glob("**/checkpoint-*/"))  # needed no more
    assert "Nothing to be done" in start(repository, "glue", "-n", budgets=36, **COLA).stdout
    start(repository, "glue", budgets=36, **COLA)
    assert calls(repository) == []


def test_a_new_method_is_an_entry_in_the_settings(repository):
    text = (repository / "pipelines/glue.yaml").read_text()
    again = "  mine: {method: mine, program: run_dsp, open_share: 1/6, from_unpruned: true}\n"
    alone = "  mine-too: {method: mine-too, program: run_dsp, open_share: 1/6}\n"
    settings = repository / "mine.yaml"
    settings.write_text(text.replace("methods:\n", f"methods:\n{again}{alone}", 1))
    shown = start(repository, "glue", "-n", settings=settings, only="CoLA/mine", budgets=36, **COLA).stdout
    assert "CoLA/mine-K36-seed1" in shown and "CoLA/mine-too-K36-seed1" in shown and "rule prune" in shown


def test_a_clone_has_records_and_no_models(repository):
    """What a run starts from is trained once more, beside the models; the records of others stay."""
    start(repository, "diff", densities=0.01, only="CoLA/full CoLA/non-adaptive", **COLA)
    steps = ["run_glue_diffpruning", "run_glue_mag", "run_glue_fixmask_finetune"]
    assert [line.split()[0] for line in calls(repository)] == steps
    full = repository / "results/diff/CoLA/full-seed1/dev/results.json"
    before = full.read_bytes()
    shutil.rmtree(repository / "runs")
    shutil.rmtree(repository / "results/diff/CoLA/non-adaptive-0.01-seed1/dev")
    shown = start(repository, "diff", "-n", densities=0.01, only="CoLA/non-adaptive", **COLA).stdout
    assert "train_again" in shown and "prune_again" in shown and calls(repository) == []
    done = start(repository, "diff", densities=0.01, only="CoLA/non-adaptive", **COLA)
    assert done.returncode == 0 and [line.split()[0] for line in calls(repository)] == steps
    assert full.read_bytes() == before
    assert load_record(repository / "runs/diff/records/CoLA/full-seed1/dev/results.json")


def test_a_stage_i_serves_all_that_is_pruned_and_is_trained_again_where_its_file_is_gone(repository):
    """And each latency is measured from the file of a run's last stage."""
    only = "CoLA/first CoLA/heads-seed1 CoLA/weights-20"
    done = start(repository, "dsee", seeds=1, only=only, speed=1, **COLA)
    assert done.returncode == 0, done.stdout
    started = calls(repository)
    assert started[0] == "run_glue results/dsee/CoLA/first-seed1"
    assert sorted(started[1:]) == [
        "run_glue results/dsee/CoLA/first-seed1/speed",
        "run_glue results/dsee/CoLA/heads-seed1/speed",
        "run_glue results/dsee/CoLA/weights-20-seed1/speed",
        "run_glue_prune results/dsee/CoLA/weights-20-seed1",
        "run_glue_prune_heads results/dsee/CoLA/heads-seed1",
    ]
    assert "Nothing to be done" in start(repository, "dsee", "-n", seeds=1, only=only, **COLA).stdout
    assert not list((repository / "runs/dsee").glob("**/checkpoint-*/"))
    shutil.rmtree(repository / "runs/dsee")
    shutil.rmtree(repository / "results/dsee/CoLA/heads-seed1/3rd")
    assert start(repository, "dsee", seeds=1, only="CoLA/heads-seed1", **COLA).returncode == 0
    again = [
        "run_glue runs/dsee/records/CoLA/first-seed1",
        "run_glue_prune_heads results/dsee/CoLA/heads-seed1",
    ]
    assert calls(repository) == again
    assert "## CoLA" in (repository / "results/dsee/table.md").read_text()


def test_a_failed_run_is_named_and_the_others_go_on(repository):
    (repository / "broken").write_text("CoLA/unpruned")
    done = start(repository, "glue", budgets=36, **COLA)
    assert done.returncode != 0
    assert "| FAILED CoLA/unpruned-seed1   see runs/glue/CoLA/unpruned-seed1.log" in done.stdout
    names = {Path(line.split()[1]).name for line in calls(repository)}
    assert names == {"unpruned-seed1", "joint-K36-seed1", "ste-K36-seed1", "voita-K36-seed1"}
    left = done.stdout.split("not done are")[1].split("\n\n")[0].split()
    waited = ("michel-K36", "pipelined-K36", "random-K36")
    assert sorted(left[:4]) == [f"CoLA/{name}-seed1" for name in (*waited, "unpruned")]
    assert "not measured" in (repository / "results/glue/table.md").read_text()  # made all the same
    assert (repository / "runs/glue/CoLA/unpruned-seed1/checkpoint-1/state").exists()  # to go on from

    (repository / "broken").unlink()
    assert start(repository, "glue", budgets=36, **COLA).returncode == 0
    assert len(calls(repository)) == 4
    record = load_record(repository / "results/glue/CoLA/unpruned-seed1/dev/results.json")
    assert record.extra["resumed"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_goes_on_from_its_checkpoint(repository, end):
    (repository / "hold").write_text("")
    words = words_of(repository, "glue", only="CoLA/unpruned", **COLA)
    streams = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # what a shell starts in its background ignores interrupts, and so would all that it starts
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, cwd=repository, start_new_session=True, **streams)
    signal.signal(signal.SIGINT, heard)
    state = repository / "runs/glue/CoLA/unpruned-seed1/checkpoint-1/state"
    deadline = time.time() + 60
    while not state.exists() and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, end)
    assert process.wait(timeout=240) != 0
    assert state.read_text() == "half a training"
    (repository / "hold").unlink()
    done = start(repository, "glue", only="CoLA/unpruned", **COLA)
    assert done.returncode == 0, done.stdout
    assert load_record(repository / "results/glue/CoLA/unpruned-seed1/dev/results.json").extra["resumed"]


def test_several_runs_side_by_side(repository):
    (repository / "together").write_text("3")  # each waits until three have started
    only = "CoLA/joint CoLA/ste CoLA/unpruned"
    profile = ["--profile", str(repository / "pipelines/profiles/local"), "--cores", "3"]
    done = start(repository, "glue", *profile, budgets=36, only=only, **COLA)
    assert done.returncode == 0 and len(calls(repository)) == 3


def test_a_run_that_another_pipeline_is_at_work_on_fails_at_once(repository):
    folder = repository / "runs/glue/CoLA"
    with at_work(folder, name=".unpruned-seed1.grid.lock") as other:
        done = start(repository, "glue", only="CoLA/unpruned", **COLA)
    assert done.returncode != 0 and calls(repository) == []
    told = f"FAILED CoLA/unpruned-seed1   the folder runs/glue/CoLA is in use by process {other.pid}"
    assert told in done.stdout


def test_what_cannot_be_is_refused_in_one_line(repository):
    for pipeline, config, reason in (
        ("glue", {"budgets": -1}, "budgets -1: a whole number, 0 or more belongs there"),
        ("glue", {"tasks": "SQuAD", "data": "nowhere/glue"}, "devsplit-train.json: make it with"),
        ("mt", {"only": "large"}, "only large: no such run"),
        ("domains", {"base": "nowhere.pt"}, "nowhere.pt: no such file"),
    ):
        done = start(repository, pipeline, **config)
        assert done.returncode == 1 and f"{pipeline}.smk: error: " in done.stdout and reason in done.stdout
        assert "Traceback" not in done.stdout
    assert calls(repository) == [] and not (repository / "runs").exists()
    shown = start(repository, "glue", "-n", tasks="SQuAD", data="nowhere/glue", python="/bin/false").stdout
    assert "train" in shown and "error" not in shown  # what is left can be seen without data and model


def test_the_steps_of_translation_runs(repository):
    """A run whose source fails waits, the other goes on; then all the rest; a record of others stays."""
    (repository / "broken").write_text("scripts/mt/unpruned.sh")
    done = start(repository, "mt", only="small/pipelined-K6 small/straight_through-K6")
    assert done.returncode != 0 and "| FAILED small/unpruned-seed1 train" in done.stdout
    through, source, run = (
        f"runs/grid/small/{name}-seed1" for name in ("straight_through-K6", "unpruned", "pipelined-K6")
    )
    first = calls(repository)
    assert sorted(first) == sorted(
        [
            f"unpruned train {source} ",
            *(
                f"straight_through {step} {through} {subset}"
                for step, subset in (("train", ""), ("prune", ""))
            ),
            *(f"straight_through score {through} {subset}" for subset in ("test", "test1")),
        ]
    )
    assert first.index(f"straight_through train {through} ") < first.index(
        f"straight_through prune {through} "
    )

    (repository / "broken").unlink()
    others = repository / "results/multi30k/small/unpruned-seed1/test/results.json"
    others.parent.mkdir(parents=True)
    others.write_text("of others")
    done = start(repository, "mt", only="small/pipelined-K6 small/straight_through-K6")
    assert done.returncode == 0, done.stdout
    steps = [line.split()[:2] for line in calls(repository)]
    assert steps[:2] == [["unpruned", "train"], ["pipelined", "train"]] and others.read_text() == "of others"
    scores = [["pipelined", "score"]] * 2 + [["pipelined", "score-tuned"]] * 2
    assert sorted(steps[2:]) == sorted([["pipelined", "prune"], ["pipelined", "tune"], *scores])
    assert steps.index(["pipelined", "prune"]) < steps.index(["pipelined", "tune"])
    assert steps.index(["pipelined", "tune"]) < steps.index(["pipelined", "score-tuned"])
    shown = start(repository, "mt", "-n", only="small/pipelined-K6").stdout
    assert "Nothing to be done" in shown
    (repository / "pipelines/speed.py").write_text("open('calls', 'a').write('speed\\n')")
    for _ in range(2):  # it is measured whenever it is asked for
        start(repository, "mt", only="small/pipelined-K6", speed=1)
        assert calls(repository) == ["speed"]


def test_one_sweep_and_one_model_for_all_choices(repository):
    done = start(repository, "pipelined", only="trained/unpruned trained/michel trained/auto-K9")
    assert done.returncode == 0, done.stdout
    started = [line.split() for line in calls(repository)]
    names = [(script, step, Path(folder).name) for script, step, folder, *_ in started]
    sweeps = [("michel", "sweep", f"michel-sweep-K18-9-seed{seed}") for seed in (1, 2)]
    assert sorted(name for name in names if name[1] == "sweep") == sweeps
    assert names[0] == ("stock", "train", "unpruned-seed1") and len(names) == len(started)
    assert sorted(name for name in names if name[1] == "train")[:2] == [
        ("pipelined", "train", f"auto-K9-seed{seed}") for seed in (1, 2)
    ]
    for budget in (18, 9):
        pruned = names.index(("michel", "prune", f"michel-K{budget}-seed2"))
        assert names.index(sweeps[1]) < pruned < names.index(("michel", "tune", f"michel-K{budget}-seed2"))
    for seed in (1, 2):
        assert ("unpruned", "tune", f"unpruned_tuned-seed{seed}") in names
    assert "not measured" in (repository / "results/multi30k/pipelined.md").read_text()
    shown = start(repository, "pipelined", "-n", only="trained/unpruned trained/michel trained/auto-K9")
    assert "Nothing to be done" in shown.stdout
    # what is there is of that model; of another one nothing is added
    (repository / "other.pt").write_text("another model")
    refused = start(repository, "pipelined", only="trained/start", unpruned="other.pt")
    assert refused.returncode == 1 and "holds choices of heads of another model" in refused.stdout
    done = start(repository, "pipelined", only="trained/start-K9", seeds=1, budgets=9)
    assert done.returncode == 0, done.stdout
    steps = ["prune", "score", "score", "score-tuned", "score-tuned", "tune"]
    assert sorted(line.split()[1] for line in calls(repository)) == steps


def test_the_steps_to_another_domain(repository):
    """A trial on programs that leave their outputs and no more."""
    start_of_fakes = """
import sys
from pathlib import Path

words = sys.argv[1:]
values = dict(zip(words, words[1:]))

def write(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("{}")
"""
    note = "open('calls', 'a').write(Path(sys.argv[0]).name + '\\n')\n"
    bodies = {
        "scripts/mt/run_diff.py": "for name in ('0.005', '0.05'):\n    if name in words:\n"
        "        write(f\"{values['--save-dir']}/{name}/task.diff.safetensors\")\n",
        "scripts/mt/run_dsp.py": "write(values['--save-dir'] + '/checkpoint_best.pt')\n",
        "scripts/mt/run_dsee.py": "for name in ('1st', '3rd'):\n"
        "    write(f\"{values['--save-dir']}/{name}/task.dsee.safetensors\")\n",
        "scripts/mt/run_delta.py": "write(values['--save-dir'] + '/task.delta.safetensors')\n",
        "scripts/mt/pack_diff.py": "write(values['--out'])\n",
        "scripts/mt/generate_dsp.py": "write(values['--record-dir'] + '/results.json')\n",
        "fairseq_cli/train.py": "write(values['--save-dir'] + '/checkpoint_best.pt')\n",
        "pipelines/check_flags.py": "",
        "pipelines/note_base.py": "",
        "pipelines/domain_text.py": "name, home = words\n"
        "label = f'{name}_as_{home}' if name != home else f'{name}_short'\n"
        "write(f'data-bin/{label}/prepared.json')\n",
    }
    for path, body in bodies.items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(
            start_of_fakes + (note if "check" not in path and "note_base" not in path else "") + body
        )
    (repository / "fairseq_cli/__init__.py").write_text("")
    reverted = repository / "runs/diff_domains/iwslt14-to-multi30k/reverted.pt"
    reverted.parent.mkdir(parents=True)
    reverted.write_text("the base once more")  # by `dsp diff`, which is no fake
    done = start(repository, "domains", home="iwslt14", quick=1)
    assert done.returncode == 0, done.stdout
    started = calls(repository)
    assert started[0] == "domain_text.py"  # of the base's domain: the other text and the base wait for it
    assert sorted(started[:3]) == ["domain_text.py", "domain_text.py", "run_dsp.py"]
    assert started.index("train.py") < started.index("pack_diff.py")
    counts = {name: started.count(name) for name in set(started)}
    expected = {
        "domain_text.py": 2,
        "run_dsp.py": 1,
        "run_diff.py": 2,
        "run_dsee.py": 1,
        "run_delta.py": 3,
        "train.py": 2,
        "pack_diff.py": 2,
        "generate_dsp.py": 22,
    }
    assert counts == expected
    results = repository / "results/diff/mt/iwslt14-to-multi30k"
    assert json.loads((results / "settings.json").read_text())["updates"] == 3
    refused = start(repository, "domains", home="iwslt14")
    assert refused.returncode == 1 and "with other settings (updates: 3 there, 250 here" in refused.stdout
    assert "Nothing to be done" in start(repository, "domains", "-n", home="iwslt14", quick=1).stdout
