"""Delta-Tuning's program on small generated data: the published command, modes, stages, resumes, refusals."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from delta_models import write_masked_bert
from glue_folders import write_task
from hf_programs import start, write_bert
from transformers import AutoModel, AutoTokenizer

from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.few_shot import TASKS, OfficialFiles
from dsp_plugin.hf.delta.checkpoints import FILE
from dsp_plugin.records.answers import load_answers
from dsp_plugin.records.record import load_record
from dsp_plugin.reports.tables.delta_runs import chosen, read_runs

# as published, but for model, data and lengths
PUBLISHED = (
    "--task_name SST-2 --overwrite_output_dir --do_train --do_eval --do_predict --evaluation_strategy steps "
    "--num_k 16 --max_steps 4 --eval_steps 2 --per_device_train_batch_size 2 --learning_rate 1e-2 "
    "--num_train_epochs 0 --seed 42 --prompt_num 10 --num_sample 16 --training_params prompt"
).split()
PUBLISHED += ["--template", "*cls*prompt*sent_0*_It_was*mask*.*sep+*"]
PUBLISHED += ["--mapping", "{'0':'terrible','1':'great'}"]
SHORT = "--max_seq_length 64 --report_to none --per_device_train_batch_size 4 --learning_rate 1e-2".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A masked language model, one without a head for words, and few-shot folders TASK/16-13."""
    folder = tmp_path_factory.mktemp("delta")
    write_masked_bert(folder / "bert")
    write_bert(folder / "headless")
    for task in ("SST-2", "MNLI", "STS-B", "CoLA"):
        write_task(folder / "original" / task, task, train=160, dev=10)
        list(OfficialFiles(TASKS[task], folder / "original" / task).write(folder / "k-shot" / task, 16, [13]))
    return folder


def on(folder: Path, task: str, data: str = "k-shot/{}/16-13", model: str = "bert") -> list:
    place = folder / data.format(task)
    return ["--task_name", task, "--data_dir", place, "--model_name_or_path", folder / model, *SHORT]


def train(folder: Path, task: str, out: str, *words, **data) -> dict:
    given = ["--do_train", "--do_eval", "--do_predict", "--max_steps", 2, "--output_dir", folder / out]
    return start("delta/run", *on(folder, task, **data), *given, *words)


def delta(place: Path) -> dict:
    return load_record(place / "results.json").extra["delta"]


def test_the_published_command(folder):
    data = ["--data_dir", folder / "k-shot/SST-2/16-13", "--output_dir", folder / "result/tmp"]
    more = ["--model_name_or_path", folder / "bert", "--report_to", "none", "--max_seq_length", 64]
    scores = start("delta/run", *PUBLISHED, *data, *more)
    assert set(scores) == {"dev", "test"} and 0 <= scores["test"]["eval_accuracy_test"] <= 1
    out = folder / "result/tmp"
    record = load_record(out / "test" / "results.json")
    assert record.metrics[0].subset == "test" and record.method == "prompt"
    found = record.extra["delta"]
    assert found["added"] == found["methods"]["prompt"]["parameters"] == 10 * 32
    assert found["bytes"] == (out / FILE).stat().st_size and found["learning_rate"] == 1e-2
    assert load_record(out / "results.json").updates == 4
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    assert state["global_step"] == 4 and [e["step"] for e in state["log_history"] if "eval_loss" in e] == [
        2,
        4,
    ]
    stored = DeltaFile.load(out / FILE)
    assert stored.template == PUBLISHED[-3] and stored.mapping == {"0": "terrible", "1": "great"}


SUBSETS = [
    ",".join(one) for size in (1, 2, 3) for one in itertools.combinations(("prompt", "bias", "adapter"), size)
]


@pytest.mark.parametrize("methods", SUBSETS[1:])
def test_each_combination_in_one_stage(folder, methods):
    out = folder / "joint" / methods
    train(folder, "SST-2", f"joint/{methods}", "--training_params", methods, "--use_adapters")
    found = delta(out)
    assert set(found["methods"]) == set(methods.split(",")) and found["task_head"] == 0
    assert found["stages"] == [methods.split(",")] and {*DeltaFile.load(out / FILE).parts} == {
        *found["methods"]
    }


def test_stages_in_turn_each_in_its_folder(folder, capsys):
    words = ["--training_params", "bias", "prompt,lora", "adapter", "--tag", "exp"]
    train(folder, "SST-2", "staged", *words)
    names = ["stage1-bias", "stage2-prompt+lora", "stage3-adapter"]
    files = [DeltaFile.load(folder / "staged" / name / FILE) for name in names]
    assert [list(file.parts) for file in files] == [
        ["bias"],
        ["prompt", "bias", "lora"],
        ["prompt", "bias", "adapter", "lora"],
    ]
    for earlier, later in zip(files, files[1:]):
        for method, part in earlier.parts.items():
            assert later.parts[method].stage == part.stage
            for name, tensor in part.tensors.items():
                assert torch.equal(later.parts[method].tensors[name], tensor), (method, name)
    assert "prompt" not in files[0].template and files[1].template == files[2].template
    record = load_record(folder / "staged" / names[2] / "test/results.json")
    assert record.method == "bias-then-prompt+lora-then-adapter" and record.extra["delta"]["tag"] == "exp"
    rows = {row.method: row for row in chosen(read_runs(folder / "staged"))}
    assert set(rows) == {
        "bias (stage 1 of 3)",
        "bias-then-prompt+lora (stage 2 of 3)",
        "bias-then-prompt+lora-then-adapter",
    }
    told = capsys.readouterr().out
    assert "stage 2 of 3, prompt,lora" in told and "stands for nothing" in told
    # started again, nothing is trained
    before = [(folder / "staged" / name / FILE).read_bytes() for name in names]
    train(folder, "SST-2", "staged", *words)
    assert before == [(folder / "staged" / name / FILE).read_bytes() for name in names]


@pytest.mark.parametrize("mode", ["prompt", "prompt-demo"])
def test_a_training_goes_on_to_the_same_end(folder, mode, capsys):
    words = [
        "--training_params",
        "prompt,bias",
        "--few_shot_type",
        mode,
        "--num_sample",
        2,
        "--save_steps",
        9,
    ]
    words += ["--max_steps", 18]  # two epochs and a quarter
    train(folder, "SST-2", f"whole-{mode}", *words)
    whole = folder / f"whole-{mode}"
    shutil.copytree(whole, folder / f"part-{mode}")
    part = folder / f"part-{mode}"
    shutil.rmtree(part / "checkpoint-18")
    (part / FILE).unlink()
    train(folder, "SST-2", f"part-{mode}", *words)
    assert "checkpoint-9" in capsys.readouterr().out
    assert (part / FILE).read_bytes() == (whole / FILE).read_bytes()
    one, other = (load_record(place / "test/results.json").metrics for place in (whole, part))
    assert [metric.value for metric in one] == [metric.value for metric in other]


def test_what_is_scored_later_is_what_was_trained(folder):
    scores = train(folder, "SST-2", "once", "--training_params", "prompt,adapter")
    given = [
        "--do_eval",
        "--do_predict",
        "--output_dir",
        folder / "again",
        "--delta_checkpoint",
        folder / "once",
    ]
    again = start("delta/run", *on(folder, "SST-2"), *given)
    for split in ("dev", "test"):
        name = f"eval_loss{'_test' if split == 'test' else ''}"
        assert again[split][name] == scores[split][name]
    assert load_record(folder / "again/dev/results.json").method == "prompt+adapter"
    other = ["--template", "*cls*prompt*sent_0*_This_is*mask*.*sep+*"]
    with pytest.raises(SystemExit, match="--delta_checkpoint .*wrong template"):
        start("delta/run", *on(folder, "SST-2"), *given, *other)
    with pytest.raises(SystemExit, match="is of SST-2, not of CoLA"):
        start("delta/run", *on(folder, "CoLA"), *given)
    begin = ["--delta_checkpoint", folder / "once", "--training_params"]
    for more, message in (  # trained on, it is held against the same task's template and mapping, too
        (["--template", "*cls*prompt*sent_0*_This_is*mask*.*sep+*"], "wrong template"),
        (["--mapping", "{'0':'no','1':'yes'}"], "wrong mapping"),
        (["--few_shot_type", "finetune"], "is of --few_shot_type prompt"),
    ):
        with pytest.raises(SystemExit, match=f"--delta_checkpoint .*{message}"):
            train(folder, "SST-2", "refused", *begin, "bias", *more)
    # trained on: on another task, or by another stage
    train(folder, "CoLA", "moved", *begin, "prompt,adapter")
    assert delta(folder / "moved")["stages"] == [["prompt", "adapter"]]
    assert delta(folder / "moved")["begun_on"] == "SST-2" and delta(folder / "once")["begun_on"] is None
    assert load_record(folder / "moved/dev/results.json").method == "prompt+adapter-from-SST-2"
    # a later stage, on the task it was moved to, still says so
    moved = ["--delta_checkpoint", folder / "moved", "--training_params", "bias"]
    train(folder, "CoLA", "moved-on", *moved)
    record = load_record(folder / "moved-on/dev/results.json")
    assert record.method == "prompt+adapter-then-bias-from-SST-2"
    train(folder, "SST-2", "more", *begin, "bias")
    assert delta(folder / "more")["stages"] == [["prompt", "adapter"], ["bias"]]


@pytest.mark.parametrize("task", ["MNLI", "STS-B", "CoLA"])
@pytest.mark.parametrize("mode", ["finetune", "prompt", "prompt-demo"])
def test_modes_and_tasks(folder, task, mode):
    words = ["--few_shot_type", mode, "--training_params", "prompt,bias", "--num_sample", 2]
    if task == "MNLI":  # ends of sentences have no words of their own
        words += ["--first_sent_limit", 12, "--max_seq_length", 100]
    scores = train(folder, task, f"{mode}-{task}", *words)
    tests = ["test_matched", "test_mismatched"] if task == "MNLI" else ["test"]
    assert list(scores) == ["dev_matched" if task == "MNLI" else "dev", *tests]
    record = load_record(folder / f"{mode}-{task}" / tests[0] / "results.json")
    names = {"MNLI": ["accuracy"], "STS-B": ["pearson", "spearmanr"], "CoLA": ["matthews_correlation"]}
    assert [metric.name for metric in record.metrics] == names[task]
    said = load_answers(folder / f"{mode}-{task}" / tests[0], record)  # which holds them against the scores
    assert said is not None and len(said.labels) == 10
    found = record.extra["delta"]
    assert (found["task_head"] > 0) is (mode == "finetune") and ("template" in found) is (mode != "finetune")


def test_what_is_cut_or_left_out_is_told(folder, capsys):
    words = ["--training_params", "bias", "--max_predict_samples", 4, "--few_shot_type", "prompt-demo"]
    train(folder, "SST-2", "part-of-test", *words, "--first_sent_limit", 2, "--num_sample", 2)
    subsets = [
        load_record(folder / "part-of-test" / name / "results.json").metrics[0].subset
        for name in ("dev", "test")
    ]
    assert subsets == ["dev", "test[:4]"]
    assert "test, one draw of each: 4 of 4 texts are cut by the limits" in capsys.readouterr().out
    words = ["--training_params", "bias", "--few_shot_type", "finetune", "--template", "*cls*sent_0*mask*"]
    train(folder, "SST-2", "no-template", *words)
    assert "finetune has no template: --template does nothing" in capsys.readouterr().out


def test_a_stage_that_others_follow_keeps_its_last_checkpoint(folder):
    words = [
        "--load_best_model_at_end",
        "--metric_for_best_model",
        "eval_accuracy",
        "--eval_strategy",
        "steps",
    ]
    words += ["--eval_steps", 2, "--save_steps", 2, "--save_total_limit", 1, "--max_steps", 6]
    train(folder, "SST-2", "kept", "--training_params", "adapter", "bias", *words)
    first = folder / "kept/stage1-adapter"
    assert (first / FILE).read_bytes() == (first / "checkpoint-6" / FILE).read_bytes()


def test_all_weights(folder):
    train(folder, "SST-2", "full", "--save_steps", 1)
    record = load_record(folder / "full/test/results.json")
    assert record.method == "full" and (folder / "full/model.safetensors").is_file()
    whole = (folder / "full/model.safetensors").read_bytes()
    shutil.rmtree(folder / "full/checkpoint-2")
    train(folder, "SST-2", "full", "--save_steps", 1)
    assert (folder / "full/model.safetensors").read_bytes() == whole


def test_official_folders_and_the_untrained_base(folder, capsys):
    scores = train(
        folder, "SST-2", "official", "--training_params", "bias", "--num_k", 16, data="original/{}"
    )
    assert list(scores) == ["dev"]
    lines = (folder / "official/SST-2.tsv").read_text("utf-8").splitlines()
    assert len(lines) == 11 and lines[0] == "index\tprediction"
    assert "is no few-shot folder: 80 of 0, 80 of 1" in capsys.readouterr().out
    given = ["--do_eval", "--output_dir", folder / "untrained"]
    assert set(start("delta/run", *on(folder, "SST-2"), *given)) == {"dev"}
    assert load_record(folder / "untrained/dev/results.json").method == "none"


REFUSED = [
    (["--template", "*cls*prompt*sent_0*_It_was*great*.*sep+*"], "--template .* has no [*]mask[*]"),
    (["--template", "*cls*promt*sent_0*mask*"], "part 2: .*is [*]prompt[*] meant"),
    (["--template", "*cls*sent_0*_It_was*mask*.*sep+*"], "--template .* has no [*]prompt[*], where"),
    (["--template", "*cls*prompt*sent_1*mask*"], "an example has [*]sent_0[*]"),
    (["--mapping", "{'0':'terrible'}"], "--mapping .*label '1' has no word"),
    (["--mapping", "{'0':'terrible','1':'greatly'}"], "--mapping: the word 'greatly' .* is 2 tokens"),
    (["--mapping", "__import__('os')"], "--mapping .*a dictionary of labels"),
    (["--training_params", "prompt", "bias", "prompt"], "--training_params .*prompt twice"),
    (["--training_params", "prompt,prefix"], "--training_params .*prefix"),
    (["--training_params", ","], "--training_params"),
    (["--num_k", "8"], "--num_k 8: train.tsv has 16 of 0, 16 of 1"),
    (["--few_shot_type", "gpt3"], "gpt3"),
    (["--prompt_num", "0"], "--prompt_num 0: a whole number"),
    (["--max_seq_length", "12"], "--max_seq_length 12: the template alone has 16 tokens"),
    (["--adapter_reduction", "0"], "--adapter_reduction 0"),
    (["--delta_checkpoint", "nowhere"], "--delta_checkpoint nowhere"),
]


@pytest.mark.parametrize("words,message", REFUSED, ids=[" ".join(words)[:40] for words, _ in REFUSED])
def test_what_cannot_be_is_refused_at_the_start(folder, words, message):
    with pytest.raises(SystemExit, match=message):
        train(folder, "SST-2", "refused", "--training_params", "prompt", *words)
    assert not (folder / "refused/trainer_state.json").exists()


@pytest.mark.parametrize(
    "words,message",
    [
        (["bias", "adapter", "--adapter_reduction", 64], "--adapter_reduction is 64, above the width 32"),
        (["prompt", "lora", "dsee"], "lora and dsee would both change"),
    ],
)
def test_what_a_later_stage_refuses_is_known_before_the_first(folder, words, message):
    with pytest.raises(SystemExit, match=message):
        train(folder, "SST-2", "later", "--training_params", *words)
    assert not list((folder / "later").rglob(FILE))


def test_a_base_without_a_head_for_words(folder):
    with pytest.raises(SystemExit, match="lacks cls.predictions.* so its masked-LM head would be random"):
        train(folder, "SST-2", "headless-out", "--training_params", "bias", model="headless")
    mode = ["--training_params", "bias", "--few_shot_type", "finetune"]
    train(folder, "SST-2", "headless-out", *mode, model="headless")


def test_a_pooler_that_was_never_trained_learns_in_each_stage(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "headless")
    base = AutoModel.from_pretrained(folder / "headless")
    torch.nn.init.zeros_(base.pooler.dense.bias)
    for part in (base, tokenizer):
        part.save_pretrained(folder / "untrained-pooler")
    staged = ["--few_shot_type", "finetune", "--training_params", "bias", "adapter"]
    train(folder, "SST-2", "pooler-staged", *staged, model="untrained-pooler")
    stored = DeltaFile.load(folder / "pooler-staged/stage2-adapter" / FILE)
    assert any("pooler" in name for name in stored.task_head)
