"""The shell pipelines of Delta-Tuning: which runs they start, what they skip and refuse; one for real."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from delta_models import write_masked_bert
from glue_folders import write_task
from hf_programs import ROOT

from dsp_plugin.delta.few_shot import TASKS, OfficialFiles
from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.chassis.train import option_groups
from dsp_plugin.hf.programs.delta.arguments import DeltaArguments, PromptArguments

# in place of Python: notes its command line, and leaves the record by which a run counts as done
STAND_IN = """#!/usr/bin/env bash
printf '%q ' "$@" >>{starts}; echo >>{starts}
for ((n = 1; n < $#; n++)); do [[ ${{!n}} != --output_dir ]] || {{ m=$((n + 1)); out=${{!m}}; }}; done
for place in "$out" "$out"/stage{{2-bias,3-adapter,3-prompt,3-bias}}; do
    mkdir -p "$place"/{{test,dev}} && touch "$place"/{{test,dev}}/results.json
done
mkdir -p "$out/checkpoint-4"
"""
SETTINGS = ("TASK", "TAG", "BS", "LR", "PROMPT", "SEED", "MODEL", "HARD", "GPUN", "NOTRAIN", "TRAIN_PARAM")
MORE = ("SEEDS", "RATES", "COMBINATIONS", "ORDERS", "K", "STEPS", "EVAL", "LENGTH", "TYPE", "DATA", "OUT")


@pytest.fixture
def folder(tmp_path) -> Path:
    for task in ("SST-2", "MNLI"):
        for seed in (100, 13, 21, 42, 87):
            (tmp_path / "data/k-shot" / task / f"16-{seed}").mkdir(parents=True)
        (tmp_path / "data/original" / task).mkdir(parents=True)
    (tmp_path / "python").write_text(STAND_IN.format(starts=tmp_path / "starts"))
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def pipeline(
    folder: Path, name: str, *words: str, python: object = None, **settings
) -> subprocess.CompletedProcess:
    hidden = (*SETTINGS, *MORE, "FLAGS", "EPOCHS", "DSP_DATA_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHON": str(python or folder / "python"), **{k: str(v) for k, v in settings.items()}}
    script = ROOT / "scripts" / "delta" / f"{name}.sh"
    return subprocess.run(
        ["bash", script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def command_lines(folder: Path) -> list[list[str]]:
    """The command lines of the runs since the last call."""
    path = folder / "starts"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [shlex.split(line) for line in lines]


def started(folder: Path) -> list[dict]:
    """The options of the runs since the last call, as the program understands them."""
    groups = option_groups(PromptArguments, (DeltaArguments,))
    found = []
    for words in command_lines(folder):
        made = parse("", groups, words[words.index("--model_name_or_path") :])
        found.append({name: value for one in made for name, value in vars(one).items()} | {"words": words})
    return found


def test_the_published_line_is_one_run(folder):
    settings = dict(
        TASK="SST-2", TAG="t1", BS=8, LR="3e-3", PROMPT="prompt", SEED=13, MODEL="m", HARD="N", GPUN=2
    )
    done = pipeline(
        folder, "run_experiment", "--training_params prompt,bias --use_adapters", **settings, NOTRAIN=""
    )
    assert done.returncode == 0, done.stderr
    (run,) = started(folder)
    assert run["words"][:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert run["training_params"] == ["prompt,bias"] and run["use_adapter"] and run["do_train"]
    assert (run["task_name"], run["tag"], run["hard"], run["seed"]) == ("SST-2", "t1", "N", 13)
    assert (run["per_device_train_batch_size"], run["learning_rate"]) == (4, 3e-3)
    assert (run["max_steps"], run["eval_steps"], run["num_k"]) == (6000, 200, 16)
    assert run["data_dir"] == "data/k-shot/SST-2/16-13" and run["model_name_or_path"] == "m"
    assert run["load_best_model_at_end"] and run["metric_for_best_model"] == "eval_accuracy"
    assert run["output_dir"] == "result/t1/SST-2/prompt+bias-prompt-N/lr3e-3-seed13"
    assert not list(folder.glob("result/**/checkpoint-4"))
    # once more, on one device: it is done; with other settings it is refused
    again = pipeline(
        folder, "run_experiment", "--training_params prompt,bias --use_adapters", **{**settings, "GPUN": 1}
    )
    assert again.returncode == 0 and started(folder) == [] and "is done" in again.stdout
    other = pipeline(
        folder, "run_experiment", "--training_params prompt,bias --use_adapters", **settings, STEPS=9
    )
    assert other.returncode == 2 and "holds a run with other settings" in other.stderr


def test_all_runs_of_a_task(folder):
    done = pipeline(folder, "run_one_task", TASK="SST-2")
    assert done.returncode == 0, done.stderr
    runs = command_lines(folder)

    def given(words: list[str], name: str) -> str | None:
        return words[words.index(name) + 1] if name in words else None

    trained = Counter(
        (given(run, "--training_params"), given(run, "--few_shot_type"), "--do_train" in run) for run in runs
    )
    subsets = "prompt bias adapter prompt,bias prompt,adapter bias,adapter prompt,bias,adapter".split()
    methods = {(one, "prompt", True): 20 for one in subsets}
    assert trained == {(None, "prompt", False): 5, **methods, (None, "finetune", True): 20}
    assert {given(run, "--seed") for run in runs} == {"100", "13", "21", "42", "87"}
    rates = {given(run, "--learning_rate") for run in runs if given(run, "--training_params") == "prompt"}
    assert rates == {"1e-2", "3e-3", "1e-3", "3e-4"}
    assert len({given(run, "--output_dir") for run in runs}) == len(runs)


def test_all_orders_of_the_stages(folder):
    done = pipeline(folder, "run_mulstage_task", TASK="MNLI", SEEDS="42", RATES="1e-3")
    assert done.returncode == 0, done.stderr
    runs = started(folder)
    assert len({tuple(run["training_params"]) for run in runs}) == 6
    assert all(sorted(run["training_params"]) == ["adapter", "bias", "prompt"] for run in runs)
    assert {run["max_seq_length"] for run in runs} == {512}
    own = pipeline(folder, "run_mulstage_experiment", TASK="SST-2", TRAIN_PARAM="prompt,adapter bias")
    assert own.returncode == 0 and started(folder)[0]["training_params"] == ["prompt,adapter", "bias"]


def test_full_data(folder):
    done = pipeline(folder, "run_fulldataset_one_task", TASK="SST-2", RATES="1e-3", COMBINATIONS="none bias")
    assert done.returncode == 0, done.stderr
    none, bias = started(folder)
    assert bias["tag"] == "full"  # and so in no folder of a few-shot run
    assert not none["do_train"] and not bias["do_predict"] and bias["data_dir"] == "data/original/SST-2"
    assert (
        bias["per_device_train_batch_size"] == 64 and bias["num_train_epochs"] == 10 and bias["num_k"] is None
    )


@pytest.mark.parametrize(
    "settings,words,message",
    [
        ({}, [], "TASK=... is missing"),
        ({"TASK": "WNLI"}, [], "TASK=WNLI is none of"),
        ({"TASK": "SST-2", "HARD": "yes"}, [], "HARD=yes: Y or N"),
        ({"TASK": "SST-2", "BS": "4.5"}, [], "BS=4.5 is no whole number"),
        ({"TASK": "SST-2", "BS": "3", "GPUN": "2"}, [], "BS=3 is no multiple of GPUN=2"),
        ({"TASK": "SST-2", "SEED": "7"}, [], "there is no folder data/k-shot/SST-2/16-7"),
        ({"TASK": "SST-2", "PROMPT": ""}, ["--training_params bias prompt"], "PROMPT is empty"),
        ({"TASK": "SST-2", "PROMPT": "soft"}, [], "PROMPT=soft: prompt, or nothing"),
        ({"TASK": "SST-2", "GPUN": "0"}, [], "GPUN=0 is no whole number from 1 on"),
        ({"TASK": "SST-2", "NOTRAIN": "maybe"}, [], "NOTRAIN=maybe: 1, or nothing"),
    ],
)
def test_settings_that_cannot_be(folder, settings, words, message):
    done = pipeline(folder, "run_experiment", *words, **settings)
    assert done.returncode == 2 and message in done.stderr and started(folder) == []


def test_no_is_a_word_for_training(folder):
    for word, trained in {"0": True, "N": True, "false": True, "1": False, "Y": False}.items():
        done = pipeline(folder, "run_experiment", TASK="SST-2", NOTRAIN=word, TAG=f"t{word}")
        assert done.returncode == 0, done.stderr
        (run,) = started(folder)
        assert run["do_train"] is trained, word


def test_a_run_that_was_refused_leaves_its_folder_free(folder):
    refusing = folder / "refusing"
    refusing.write_text("#!/usr/bin/env bash\nexit 1\n")
    refusing.chmod(0o755)
    words = "--training_params bias"
    assert pipeline(folder, "run_experiment", words, TASK="SST-2", FLAGS="--typo", python=refusing).returncode
    done = pipeline(folder, "run_experiment", words, TASK="SST-2")
    assert done.returncode == 0 and len(started(folder)) == 1, done.stderr


@pytest.mark.parametrize("name", ["run_one_task", "run_fulldataset_one_task"])
def test_a_base_that_cannot_be_scored_ends_the_task(folder, name):
    failing = folder / "failing"
    failing.write_text(
        f'#!/usr/bin/env bash\n[[ $* == *--do_train* ]] && exec {folder}/python "$@"\nexit 3\n'
    )
    failing.chmod(0o755)
    done = pipeline(
        folder, name, TASK="SST-2", COMBINATIONS="bias none", SEEDS=42, RATES="1e-3", python=failing
    )
    assert done.returncode == 3 and len(started(folder)) == 1, done.stderr


def test_help_of_each(folder):
    for path in sorted((ROOT / "scripts" / "delta").glob("run_*.sh")):
        done = pipeline(folder, path.stem, "--help")
        assert done.returncode == 0 and "TASK=" in done.stdout and started(folder) == []


def test_one_run_for_real_and_its_table(tmp_path):
    write_masked_bert(tmp_path / "bert")
    write_task(tmp_path / "original", "SST-2", train=160, dev=10)
    list(OfficialFiles(TASKS["SST-2"], tmp_path / "original").write(tmp_path / "data/k-shot/SST-2", 16, [42]))
    more = dict(TASK="SST-2", MODEL="bert", STEPS=4, EVAL=2, LENGTH=64, FLAGS="--use_cpu")
    done = pipeline(
        tmp_path, "run_mulstage_experiment", python=sys.executable, TRAIN_PARAM="prompt bias", **more
    )
    assert done.returncode == 0, done.stderr
    tool = ROOT / "scripts" / "delta" / "tools" / "gather_result.py"
    table = subprocess.run(
        [sys.executable, tool], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "| prompt (stage 1 of 2) | test " in table and "| prompt-then-bias " in table
