"""The three stages of diff pruning on small generated data: the published command lines, a few updates
each.
"""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from glue_folders import write_squad, write_task
from hf_programs import on_task, start, write_bert
from safetensors.torch import load_file, save_file

from dsp_plugin.cli.main import main as dsp
from dsp_plugin.diffs import DiffPack, SparseDiff
from dsp_plugin.diffs.training.vector_file import read_vector
from dsp_plugin.records.record import load_record

# as published, but for the sequence length, the sizes of save and log intervals, and the rates
COMMON = (
    "--model_type bert --do_train --do_eval --sparsity_pen 0.000000125 --concrete_lower -1.5 "
    "--concrete_upper 1.5 "
    "--num_train_epochs 1 --save_steps 5000 --seed 0 --per_gpu_train_batch_size 8 --learning_rate 0.001 "
    "--gradient_accumulation_steps 1 --fix_layer -1 --max_seq_length 24 --per_gpu_eval_batch_size 8 "
    "--overwrite_output_dir "
    "--logging_steps 5000"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    write_bert(folder / "bert")
    write_task(folder / "CoLA", "CoLA", train=32, dev=8)
    return folder


def cola(folder: Path, *words) -> list:
    task = ["--task_name", "cola", "--data_dir", folder / "CoLA"]  # as the authors spell it
    return ["--model_name_or_path", folder / "bert", *task, *COMMON, *words]


@pytest.fixture(scope="module")
def stages(folder) -> dict:
    """The scores of the three stages, in out/, out/2nd and out/3rd."""
    out = folder / "out"
    info, mask = out / "checkpoint-last-info.pt", out / "mag0.5p.pt"
    second = [
        "--eval_checkpoint",
        info,
        "--save_checkpoint",
        mask,
        "--evaluate_during_training",
        "--target_sparsity",
        0.005,
    ]
    third = ["--mask_checkpoint", mask, "--evaluate_during_training", "--finetune", 1, "--do_predict"]
    return {
        "first": start("glue/run_glue_diffpruning", *cola(folder, "--output_dir", out)),
        "second": start("glue/run_glue_mag", *cola(folder, "--output_dir", out / "2nd"), *second),
        "third": start("glue/run_glue_fixmask_finetune", *cola(folder, "--output_dir", out / "3rd"), *third),
    }


def body_of(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "bert" / "model.safetensors").values())


# ---- the three stages


def test_exactly_the_wanted_share_is_kept(folder, stages):
    mask, task = (
        DiffPack.load(folder / "out" / name) for name in ("mag0.5p.pt", "3rd/task.diff.safetensors")
    )
    assert mask.count == task.count == round(0.005 * body_of(folder)) and mask.base.total == body_of(folder)
    assert set(mask.task_head) == {"classifier.weight", "classifier.bias"}
    for name, (positions, _) in mask.diff.entries.items():
        assert torch.equal(task.diff.entries[name][0], positions)
    assert any(
        not torch.equal(task.diff.entries[name][1], mask.diff.entries[name][1].half())
        for name in mask.diff.entries
    )
    assert not torch.equal(mask.task_head["classifier.weight"], task.task_head["classifier.weight"])


def test_what_is_kept_is_the_largest_of_the_first_stage(folder, stages):
    saved = read_vector(folder / "out" / "checkpoint-last-info.pt")
    z = (torch.sigmoid(saved.flat["alpha"]) * 3 - 1.5).clamp(0, 1)
    mask = DiffPack.load(folder / "out" / "mag0.5p.pt")
    assert saved.header["steps"] == 4 and bool((z == 1).all())  # alpha has hardly moved from 5
    largest = saved.flat["w"].abs().sort(descending=True).values[: mask.count]
    kept = torch.cat([values for _, values in mask.diff.entries.values()]).abs().sort(descending=True).values
    torch.testing.assert_close(kept, largest)


def test_the_records_hold_the_scores_of_the_packs_and_what_is_in_them(folder, stages):
    out = folder / "out"
    for stage, place, name in (
        ("first", out, "diff-structured-unprojected"),
        ("second", out / "2nd", "diff-structured-0.5%-projected"),
        ("third", out / "3rd", "diff-structured-0.5%"),
    ):
        record = load_record(place / "dev" / "results.json")
        assert (record.kind, record.name, record.method, record.seed) == ("glue-score", "CoLA", name, 0)
        assert record.metrics[0].value == pytest.approx(
            100 * stages[stage]["dev"]["eval_matthews_correlation"]
        )
    told = load_record(out / "3rd" / "dev" / "results.json").extra["diff"]
    pack = DiffPack.load(out / "3rd" / "task.diff.safetensors")
    assert told["nonzeros"] == sum(int((values != 0).sum()) for _, values in pack.diff.entries.values())
    assert told["positions"] == pack.count and told["total"] == body_of(folder)
    assert told["bytes"] == (out / "3rd" / "task.diff.safetensors").stat().st_size
    assert sum(layer["nonzeros"] for layer in told["layers"]) == told["nonzeros"]
    assert sum(layer["weights"] for layer in told["layers"]) == told["total"]
    assert told["untouched"] == sum(name not in pack.diff.entries for name in pack.diff.shapes)
    assert (
        told["fingerprint"]
        == hashlib.sha256((out / "3rd" / "task.diff.safetensors").read_bytes()).hexdigest()[:16]
    )
    assert told["full_bytes"] == 4 * (body_of(folder) + told["head"])
    assert load_record(out / "3rd" / "results.json").updates == load_record(out / "results.json").updates == 4
    assert not (out / "2nd" / "results.json").exists()
    assert load_record(out / "dev" / "results.json").extra["diff"]["nonzeros"] > told["nonzeros"]
    assert len((out / "3rd" / "CoLA.tsv").read_text().splitlines()) == 9


def test_the_merged_pack_is_a_plain_model_with_the_same_score(folder, stages):
    merged = folder / "merged"
    task = folder / "out" / "3rd" / "task.diff.safetensors"
    assert dsp(["diff", "merge", str(task), str(folder / "bert"), "--out", str(merged)]) == 0
    assert json.loads((merged / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    words = ["--task_name", "cola", "--data_dir", folder / "CoLA", "--max_seq_length", 24, "--do_eval"]
    found = start(
        "glue/run_glue", "--model_name_or_path", merged, *words, "--output_dir", folder / "merged-scores"
    )
    assert found["dev"]["eval_loss"] == pytest.approx(stages["third"]["dev"]["eval_loss"], abs=1e-5)
    words = cola(folder, "--output_dir", folder / "again", "--mask_checkpoint", task)
    words.remove("--do_train")
    found = start("glue/run_glue_fixmask_finetune", *words)
    assert found["dev"]["eval_loss"] == pytest.approx(stages["third"]["dev"]["eval_loss"], abs=1e-5)


def test_the_base_is_untouched(folder, stages):
    pack = DiffPack.load(folder / "out" / "3rd" / "task.diff.safetensors")
    base = load_file(folder / "bert" / "model.safetensors")
    pack.base.check(base, pack.base.find(base))


# ---- other ways


def test_started_again_it_goes_on_and_ends_the_same(folder, stages, capsys):
    words = [word for word in cola(folder) if word != "--overwrite_output_dir"]
    words[words.index("--save_steps") + 1] = 2
    out = folder / "halved"
    start("glue/run_glue_diffpruning", *words, "--output_dir", out)
    whole = (out / "checkpoint-last-info.pt").read_bytes()
    assert whole == (folder / "out" / "checkpoint-last-info.pt").read_bytes()
    shutil.rmtree(out / "checkpoint-4")  # as if killed after update 2
    (out / "checkpoint-last-info.pt").unlink()
    capsys.readouterr()
    start("glue/run_glue_diffpruning", *words, "--output_dir", out)
    assert f"going on from {out / 'checkpoint-2'}" in capsys.readouterr().out
    assert (out / "checkpoint-last-info.pt").read_bytes() == whole
    with pytest.raises(SystemExit, match=r"other settings \(alpha_init: 5.0 there, 4.0 here\)"):
        start("glue/run_glue_diffpruning", *words, "--alpha_init", 4, "--output_dir", out)


def test_another_mask_of_the_same_size_is_refused(folder, stages, tmp_path):
    mask = DiffPack.load(folder / "out" / "mag0.5p.pt")
    name, (positions, values) = next(iter(mask.diff.entries.items()))
    free = next(at for at in range(mask.diff.size(name)) if at not in positions)
    moved = torch.cat([positions[1:], torch.tensor([free])]).sort().values
    diff = SparseDiff({**mask.diff.entries, name: (moved, values)}, mask.diff.shapes)
    DiffPack.create(diff, mask.base, mask.task_head, mask.config, "float32").save(tmp_path / "moved.pt")
    words = [
        word
        for word in cola(folder, "--output_dir", folder / "out" / "3rd")
        if word != "--overwrite_output_dir"
    ]
    with pytest.raises(
        SystemExit,
        match=r"3rd holds a training with other settings \(mask: [0-9a-f]{16} there, [0-9a-f]{16} here\)",
    ):
        start("glue/run_glue_fixmask_finetune", *words, "--mask_checkpoint", tmp_path / "moved.pt")


def test_unstructured_with_frozen_layers_penalties_by_layer_and_a_threshold(folder, capsys):
    more = ["--per_params_alpha", 0, "--fix_layer", 1, "--sparsity_penalty_per_layer", 0, 0, "1e-6", "1e-7"]
    start("glue/run_glue_diffpruning", *cola(folder, *more, "--output_dir", folder / "flat"))
    info = folder / "flat" / "checkpoint-last-info.pt"
    words = [
        "--eval_checkpoint",
        info,
        "--threshold",
        1e-3,
        "--output_dir",
        folder / "flat" / "2nd",
        "--sampled_diff",
    ]
    start("glue/run_glue_mag", *cola(folder, *words))
    pack = DiffPack.load(folder / "flat" / "2nd" / "projected.diff.safetensors")
    assert pack.config["method"] == "diff-unstructured"
    assert not [name for name in pack.diff.entries if "embeddings" in name or "layer.0" in name]
    values = torch.cat([values for _, values in pack.diff.entries.values()])
    assert float(values.abs().min()) > 1e-3 and len(values) > 100


def test_a_finetuned_model_is_the_non_adaptive_baseline(folder, capsys):
    more = ["--baseline", "full", "--fix_layer", 1, "--max_steps", 2, "--output_dir", folder / "full"]
    start("glue/run_glue_diffpruning", *cola(folder, *more))
    assert load_record(folder / "full" / "dev" / "results.json").method == "full"
    words = [
        "--eval_checkpoint",
        folder / "full",
        "--target_sparsity",
        0.01,
        "--output_dir",
        folder / "adaptive",
    ]
    start("glue/run_glue_mag", *cola(folder, *words))
    pack = DiffPack.load(folder / "adaptive" / "projected.diff.safetensors")
    assert pack.count == round(0.01 * body_of(folder))
    before, after = (load_file(folder / name / "model.safetensors") for name in ("bert", "full"))
    name, (positions, values) = next(iter(pack.diff.entries.items()))
    change = (after[name] - before[name.removeprefix("bert.")]).reshape(-1)
    torch.testing.assert_close(values, change[positions], rtol=0, atol=0)
    assert torch.equal(pack.task_head["classifier.weight"], after["classifier.weight"])
    assert load_record(folder / "adaptive" / "dev" / "results.json").method == "non-adaptive-1%-projected"
    # --fix_layer 1: the embeddings and the lowest layer stay at the base
    moved = {name for name, weight in before.items() if not torch.equal(after[f"bert.{name}"], weight)}
    assert moved and all("layer.1" in name or "pooler" in name for name in moved)
    # of another task, or of another base: its folder says so
    words = ["--eval_checkpoint", folder / "full", "--output_dir", folder / "other"]
    with pytest.raises(SystemExit, match="--eval_checkpoint .*full was trained on CoLA, not on SST-2"):
        start("glue/run_glue_mag", *cola(folder, *words, "--task_name", "sst-2"))
    shutil.copytree(folder / "bert", folder / "another")
    assert "was finetuned from" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="nothing to sample"):
        start(
            "glue/run_glue_mag",
            *cola(folder, *words, "--sampled_diff", "--model_name_or_path", folder / "another"),
        )
    assert "full was finetuned from bert: --model_name_or_path should be" in capsys.readouterr().out


def test_the_last_layer_is_a_pack_without_positions(folder, capsys):
    more = [
        "--baseline",
        "last-layer",
        "--max_steps",
        2,
        "--output_dir",
        folder / "last",
        "--use_cpu",
        "--fp16",
    ]
    found = start("glue/run_glue_diffpruning", *cola(folder, *more))
    assert "--fp16 is for GPUs" in capsys.readouterr().out
    pack = DiffPack.load(folder / "last" / "task.diff.safetensors")
    assert pack.count == 0 and set(pack.task_head) == {"classifier.weight", "classifier.bias"}
    record = load_record(folder / "last" / "dev" / "results.json")
    assert record.method == "last-layer" and record.extra["diff"]["nonzeros"] == 0
    assert record.metrics[0].value == pytest.approx(100 * found["dev"]["eval_matthews_correlation"])


def test_all_stages_in_one_command_with_two_densities(folder, capsys):
    words = [
        *on_task(folder, "CoLA"),
        "--max_seq_length",
        24,
        "--do_train",
        "--do_eval",
        "--max_steps",
        2,
        "--learning_rate",
        1e-3,
        "--output_dir",
        folder / "all",
    ]
    for more, message in (
        (["--target_sparsity", 0.01, 2], "--target_sparsity '2': a share, above 0"),
        (["--finetune_num_train_epochs", 0], "--finetune_num_train_epochs.*: '0': a finite number above 0"),
        (
            ["--baseline", "full"],
            "--baseline full: it has one stage; its program is scripts/glue/run_glue_diffpruning.py",
        ),
        (["--threshold", 0.1], "--threshold 0.1: the densities are those of --target_sparsity"),
        (["--save-checkpoint", "x"], "--save-checkpoint x: the masks are in --output_dir"),
        (["--eval_checkpoint", "x"], "--eval_checkpoint x: stage 1"),
        (["--mask_checkpoint", "x"], "--mask_checkpoint x: stage 2"),
        (["--save_pack=x"], "--save_pack x: the packs are in --output_dir"),
        (["--method", "x"], "--method x: each stage"),
    ):
        with pytest.raises(SystemExit, match=message):
            start("glue/run_diff", *words, *more)
    assert not (folder / "all").exists()
    words += ["--record_dir", folder / "records", "--threshold", -1]
    found = start("glue/run_diff", *words, "--target_sparsity", 0.01, 0.002, "--finetune_learning_rate", 2e-3)
    assert set(found) == {"0.01", "0.002"}
    summary = []
    for density, name in (("0.01", "1%"), ("0.002", "0.2%")):
        pack = DiffPack.load(folder / "all" / density / "task.diff.safetensors")
        assert pack.count == round(float(density) * body_of(folder))
        record = load_record(folder / "records" / density / "3rd" / "dev" / "results.json")
        assert record.method == f"diff-structured-{name}"
        projected = load_record(folder / "records" / density / "2nd" / "dev" / "results.json")
        assert projected.method == f"diff-structured-{name}-projected"
        assert record.metrics[0].value == pytest.approx(
            100 * found[density]["dev"]["eval_matthews_correlation"]
        )
        size = (folder / "all" / density / "task.diff.safetensors").stat().st_size
        shown = (
            f"{density}: {pack.count:,} of {pack.base.total:,} weights, {size:,} bytes in "
            f"{folder}/all/{density}/task"
        )
        summary.append((shown, f"{density}: matthews_correlation {record.metrics[0].value:.2f} on dev"))
    out = capsys.readouterr().out
    assert out.count("stage 1") == 1 and all(
        line in out.split("stage 3")[-1] for lines in summary for line in lines
    )
    assert load_record(folder / "records" / "dev" / "results.json").method == "diff-structured-unprojected"
    assert not list((folder / "all").rglob("results.json"))


def test_squad(tmp_path):
    write_bert(tmp_path / "bert")
    write_squad(tmp_path / "data" / "train-v1.1.json", paragraphs=3)
    write_squad(tmp_path / "data" / "dev-v1.1.json", paragraphs=2, seed=2)
    out = tmp_path / "out"
    words = [
        "--model_name_or_path",
        tmp_path / "bert",
        "--data_dir",
        tmp_path / "data",
        "--max_seq_length",
        48,
        "--doc_stride",
        16,
    ]
    words += [
        "--train_file",
        "train-v1.1.json",
        "--predict_file",
        "dev-v1.1.json",
        "--do_train",
        "--do_eval",
        "--max_steps",
        2,
    ]
    start("squad/run_squad_diffpruning", *words, "--output_dir", out)
    info = [
        "--eval_checkpoint",
        out / "checkpoint-last-info.pt",
        "--save_checkpoint",
        out / "mask.pt",
        "--target_sparsity",
        0.01,
    ]
    start("squad/run_squad_mag", *words, *info, "--output_dir", out / "2nd")
    found = start(
        "squad/run_squad_fixmask_finetune",
        *words,
        "--mask_checkpoint",
        out / "mask.pt",
        "--output_dir",
        out / "3rd",
    )
    record = load_record(out / "3rd" / "dev" / "results.json")
    assert record.method == "diff-structured-1%" and record.metric("f1", "dev-v1.1").value == pytest.approx(
        found["dev"]["eval_f1"]
    )
    assert set(DiffPack.load(out / "3rd" / "task.diff.safetensors").task_head) == {
        "qa_outputs.weight",
        "qa_outputs.bias",
    }
    assert len(json.loads((out / "3rd" / "predictions.json").read_text())) == 8


# ---- what is refused


def test_bad_input_is_refused_in_one_line(folder, stages, tmp_path):
    out, mask = folder / "out", folder / "out" / "mag0.5p.pt"
    info = ["--eval_checkpoint", out / "checkpoint-last-info.pt"]
    here = ["--output_dir", tmp_path / "out"]
    shutil.copytree(folder / "bert", tmp_path / "other")
    (tmp_path / "broken.pt").write_bytes(mask.read_bytes()[:-20])
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    mag, fix, prune = "glue/run_glue_mag", "glue/run_glue_fixmask_finetune", "glue/run_glue_diffpruning"
    elsewhere = ["--model_name_or_path", tmp_path / "other"]
    for program, words, message in (
        (mag, [], "--eval_checkpoint: name what the first stage wrote"),
        (
            mag,
            [*info, "--target_sparsity", 0],
            "--target_sparsity 0.0: a share, above 0 and at most 1 belongs there",
        ),
        (mag, [*info, "--target_sparsity", 1.5], "--target_sparsity 1.5: a share"),
        (
            mag,
            [*info, "--threshold", -0.5],
            "--threshold -0.5: a finite number, 0 or more, or -1 for none belongs there",
        ),
        (mag, [*info, "--concrete_lower", -0.1], "the diff was trained with -1.5 and 1.5"),
        (mag, [*info, *elsewhere], "--eval_checkpoint .*: wrong base"),
        (mag, ["--eval_checkpoint", mask], "holds no diff in training"),
        (mag, ["--eval_checkpoint", tmp_path / "none"], "--eval_checkpoint .*none"),
        (
            mag,
            [*info, "--save_checkpoint", info[1]],
            "--save_checkpoint .* is what --eval_checkpoint reads: name another one",
        ),
        (
            fix,
            ["--do_train", "--mask_checkpoint", mask, "--save_pack", mask],
            "--save_pack .* is what --mask_checkpoint reads",
        ),
        (fix, [], "--mask_checkpoint: name the pack"),
        (fix, ["--mask_checkpoint", tmp_path / "broken.pt"], "--mask_checkpoint .*broken.pt"),
        (fix, ["--mask_checkpoint", mask, *elsewhere], "does not fit --model_name_or_path: wrong base"),
        (fix, ["--mask_checkpoint", mask, "--task_name", "sst-2"], "is of CoLA, not of SST-2"),
        (prune, ["--sparsity_pen", -1], "--sparsity_pen -1.0: a finite number, 0 or more"),
        (prune, ["--fix_layer", 3], "--fix_layer .*number of layers"),
        (prune, ["--sparsity_penalty_per_layer", 1, 2], "--sparsity_penalty_per_layer needs 4 numbers"),
        (prune, ["--concrete_upper", 0.5], "--concrete_upper 0.5: a finite number above 1"),
        (prune, ["--task_head", "score"], "no parameter 'score'"),
        (prune, ["--per_params_alpha", 0, "--per_layer_alpha", 1], "exclude each other"),
    ):
        with pytest.raises(SystemExit, match=message):
            start(program, *cola(folder, *here), *words)
    assert not list(tmp_path.glob("out/*.safetensors")) and not list(tmp_path.glob("out/*.pt"))
