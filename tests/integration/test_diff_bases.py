"""Diff pruning of other bases than BERT by the real programs: RoBERTa, XLNet, DistilBERT, and a BERT
without some heads.
"""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import json
from pathlib import Path

import pytest
import torch
from glue_folders import write_squad, write_task
from hf_programs import on_task, start, write_bert
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from dsp_plugin.cli.main import main as dsp
from dsp_plugin.diffs import DiffPack
from dsp_plugin.hf import load_pruned, prune_heads, save_pruned
from dsp_plugin.records.record import load_record

LENGTHS = dict(max_position_embeddings=64, pad_token_id=0)
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, **LENGTHS)
# As on the hub: language models, whose weights go under the leading name that the classifier has, too.
BASES = {
    "roberta": lambda words: RobertaForMaskedLM(RobertaConfig(vocab_size=words, **SIZES)),
    "xlnet": lambda words: XLNetLMHeadModel(
        XLNetConfig(vocab_size=words, d_model=32, n_layer=2, n_head=4, d_inner=40, pad_token_id=0)
    ),
    "distilbert": lambda words: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=words, dim=32, n_layers=2, n_heads=4, hidden_dim=40, **LENGTHS)
    ),
}
NEW = {
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlnet": ("logits_proj", "sequence_summary.summary"),
    "distilbert": ("classifier", "pre_classifier"),
}
QUICK = (
    "--do_train --do_eval --max_steps 2 --learning_rate 1e-3 --max_seq_length 24 --target_sparsity 0.01 "
    "--seed 3"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """MRPC/ (pairs) and a folder for each base, with the tokenizer of hf_programs."""
    folder = tmp_path_factory.mktemp("bases")
    write_bert(folder / "bert")
    write_task(folder / "MRPC", "MRPC", train=16, dev=8)
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    for family, make in BASES.items():
        torch.manual_seed(2)
        make(len(tokenizer)).save_pretrained(folder / family)
        side = "left" if family == "xlnet" else "right"
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if family == "xlnet" else [])]
        tokenizer = AutoTokenizer.from_pretrained(folder / "bert", padding_side=side, model_input_names=names)
        tokenizer.save_pretrained(folder / family)
    return folder


def mrpc(folder: Path, base: str, out: str) -> list:
    return [*on_task(folder, "MRPC", base), *QUICK, "--output_dir", folder / out]


def outputs(model) -> torch.Tensor:
    """Of three rows, one of them padded."""
    ids = torch.tensor([[2, 7, 8, 9, 3, 10], [2, 11, 12, 3, 13, 14], [2, 9, 3, 11, 0, 0]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits


@pytest.mark.parametrize("family", BASES)
def test_three_stages_a_pack_and_the_same_model_again(folder, family, tmp_path):
    found = start("glue/run_diff", *mrpc(folder, family, f"{family}-out"))
    path = folder / f"{family}-out" / "0.01" / "task.diff.safetensors"
    pack = DiffPack.load(path)
    assert set(pack.task_head) == {
        f"{module}.{part}" for module in NEW[family] for part in ("weight", "bias")
    }
    assert pack.count == round(0.01 * pack.base.total)
    record = load_record(folder / f"{family}-out" / "0.01" / "3rd" / "dev" / "results.json")
    assert record.method == "diff-structured-1%" and (record.heads is None) == (family == "xlnet")
    # merged into the base's files, stock Transformers loads the very model that was scored
    assert dsp(["diff", "merge", str(path), str(folder / family), "--out", str(tmp_path / "merged")]) == 0
    merged, loading = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not loading["missing_keys"]
    model = AutoModelForSequenceClassification.from_pretrained(folder / family)
    before = outputs(model)
    undo = pack.apply(model)
    assert torch.equal(outputs(model), outputs(merged)) and not torch.equal(outputs(model), before)
    undo.revert(model)
    assert torch.equal(outputs(model), before)
    training = ("--do_train", "--target_sparsity", "0.01")
    words = [word for word in mrpc(folder, tmp_path / "merged", f"{family}-again") if word not in training]
    AutoTokenizer.from_pretrained(folder / family).save_pretrained(tmp_path / "merged")
    again = start("glue/run_glue", *words)
    assert again["dev"]["eval_loss"] == pytest.approx(found["0.01"]["dev"]["eval_loss"], abs=1e-6)


def test_xlnet_answers_questions(folder, tmp_path):
    """Left padding and further outputs do no harm; see test_squad.py for windows that end with [CLS], as
    the hub's do.
    """
    write_squad(tmp_path / "train-v1.1.json", paragraphs=2)
    words = ["--model_name_or_path", folder / "xlnet", "--train_file", tmp_path / "train-v1.1.json"]
    words += ["--predict_file", tmp_path / "train-v1.1.json", *QUICK, "--output_dir", tmp_path / "out"]
    words[words.index("--max_seq_length") + 1] = 48
    found = start("squad/run_diff", *words)
    pack = DiffPack.load(tmp_path / "out" / "0.01" / "task.diff.safetensors")
    assert set(pack.task_head) == {"qa_outputs.weight", "qa_outputs.bias"}
    assert 0 <= found["0.01"]["dev"]["eval_f1"] <= 100


def test_a_base_without_some_of_its_heads(folder, tmp_path):
    """A pruned body, whose task head is new; its pack fits it and not the model it was before."""
    bert = BertModel.from_pretrained(folder / "bert")
    prune_heads(bert, [True, False, False, True, False, False, True, False])
    save_pruned(bert, folder / "small")
    AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "small")
    found = start("glue/run_diff", *mrpc(folder, "small", "small-out"))
    path = folder / "small-out" / "0.01" / "task.diff.safetensors"
    pack = DiffPack.load(path)
    total = sum(weight.numel() for weight in load_file(folder / "small" / "model.safetensors").values())
    assert set(pack.task_head) == {"classifier.weight", "classifier.bias"}
    assert pack.base.total == total and pack.count == round(0.01 * total)
    record = load_record(folder / "small-out" / "0.01" / "3rd" / "dev" / "results.json")
    assert (record.heads["kept"], record.heads["total"]) == (3, 8)
    model = load_pruned(folder / "small", AutoModelForSequenceClassification)
    pack.apply(model)
    assert dsp(["diff", "merge", str(path), str(folder / "small"), "--out", str(tmp_path / "merged")]) == 0
    assert (
        json.loads((tmp_path / "merged" / "config.json").read_text())["kept_heads"] == model.config.kept_heads
    )
    assert torch.equal(outputs(load_pruned(tmp_path / "merged")), outputs(model))
    stock = AutoModelForSequenceClassification.from_pretrained(folder / "bert")
    before = outputs(stock)
    with pytest.raises(ValueError, match="wrong base"):
        pack.apply(stock)
    assert torch.equal(outputs(stock), before)
    with pytest.raises(SystemExit, match="does not fit --model_name_or_path: wrong base"):
        start("glue/run_glue_fixmask_finetune", *mrpc(folder, "bert", "refused"), "--mask_checkpoint", path)
    assert found["0.01"]["dev"]["eval_loss"] > 0


def test_a_pruned_classifier_with_another_number_of_labels_begins_with_a_new_head(folder, capsys):
    """What dsp's programs leave: a model pruned on one task (MNLI's three labels), a diff for another
    (two).
    """
    write_task(folder / "MNLI", "MNLI", train=16, dev=4)
    words = ["--model_name_or_path", folder / "bert", "--task_name", "MNLI", "--data_dir", folder / "MNLI"]
    words += "--max_seq_length 24 --do_train --max_steps 1 --num_of_heads 4 --joint_pruning --use_ste".split()
    start("glue/run_dsp", *words, "--output_dir", folder / "dsp")
    words = mrpc(folder, "dsp/pruned", "dsp-diff")
    with pytest.raises(SystemExit, match="ignore_mismatched_sizes"):
        start("glue/run_glue_diffpruning", *words)
    start("glue/run_glue_diffpruning", *words, "--ignore_mismatched_sizes")
    info = ["--eval_checkpoint", folder / "dsp-diff" / "checkpoint-last-info.pt", "--ignore_mismatched_sizes"]
    start(
        "glue/run_glue_mag",
        *mrpc(folder, "dsp/pruned", "dsp-diff/2nd"),
        *info,
        "--save_checkpoint",
        folder / "mask.pt",
    )
    assert set(DiffPack.load(folder / "mask.pt").task_head) == {"classifier.weight", "classifier.bias"}


def test_the_serving_example_takes_the_packs_of_the_programs(folder, tmp_path, capsys):
    for task in ("CoLA", "SST-2", "STS-B"):
        write_task(folder / task, task, train=16, dev=4)
    words = ["--model_name_or_path", folder / "roberta", *QUICK, "--output_dir", tmp_path / "cola"]
    start("glue/run_diff", *words, "--task_name", "CoLA", "--data_dir", folder / "CoLA")
    start("glue/run_diff", *mrpc(folder, "roberta", tmp_path / "mrpc"))
    packs = [f"{task}={tmp_path / task / '0.01' / 'task.diff.safetensors'}" for task in ("cola", "mrpc")]
    capsys.readouterr()
    serve = ["--model_name_or_path", folder / "roberta", "--data_dir", folder]
    assert start("diff/serve_tasks", *serve, "--packs", *packs) < 1e-5  # the other two tasks get random packs
    said = capsys.readouterr().out
    assert (
        said.count("random") == 2
        and "8 requests" in said
        and all(f"\n{task} " in said for task in ("cola", "mrpc", "stsb"))
    )
    for given, message in (
        (packs[0].replace("cola=", "mrpc="), "the pack is of CoLA"),
        (f"qnli={tmp_path}", "--packs takes TASK=FILE"),
        (f"cola={tmp_path / 'none'}", "none"),
    ):
        with pytest.raises(SystemExit, match=message):
            start("diff/serve_tasks", *serve, "--packs", given)
    with pytest.raises(SystemExit, match="wrong base"):
        start(
            "diff/serve_tasks",
            "--model_name_or_path",
            folder / "bert",
            "--data_dir",
            folder,
            "--packs",
            packs[0],
        )
