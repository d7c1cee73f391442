"""What the programs of DSEE refuse, before training, in one line, and with nothing written."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

from pathlib import Path

import pytest
import torch
from glue_folders import write_task
from hf_programs import on_task, start, write_bert
from transformers import AutoModelForSequenceClassification

from dsp_plugin.hf.dsee import add_dsee, save_dsee
from dsp_plugin.hf.dsee.checkpoints import FILE

TRAIN = "--do_train --max_steps 1 --max_seq_length 24 --report_to none".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """bert/ and other/ with other weights; zero/, fresh/ and trained/ with files on bert/."""
    folder = tmp_path_factory.mktemp("refusals")
    write_bert(folder / "bert")
    write_bert(folder / "other", seed=2)
    write_task(folder / "CoLA", "CoLA", train=16, dev=6)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "bert", num_labels=2)
    add_dsee(model, 2, num_sparse=4, sparse_method="omp")
    (folder / "fresh").mkdir()
    save_dsee(model, folder / "fresh" / FILE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    (folder / "trained").mkdir()
    save_dsee(model, folder / "trained" / FILE, config={"task": "CoLA"})
    (folder / "rte").mkdir()
    save_dsee(model, folder / "rte" / FILE, config={"task": "RTE"})
    (folder / "damaged").mkdir()
    raw = bytearray((folder / "trained" / FILE).read_bytes())
    raw[-9] ^= 1
    (folder / "damaged" / FILE).write_bytes(raw)
    (folder / "empty").mkdir()
    return folder


CASES = [
    ("run_glue", "--apply_lora --lora_r 33", "--lora_r is 33, above the width of a matrix of 32 x 32"),
    ("run_glue", "--apply_lora --lora_r 0", "--lora_r 0: a whole number, 1 or more"),
    ("run_glue", "--apply_lora --lora_alpha -1", "--lora_alpha -1.0: a finite number above 0"),
    ("run_glue", "--apply_lora --apply_sparse --num_sparse 1025", "--num_sparse is 1025 entries a matrix"),
    ("run_glue", "--apply_lora --apply_sparse --sparse_method svd", "--sparse_method"),
    ("run_glue", "--apply_lora --dsee_targets query,gate", "--dsee_targets 'query,gate': some of query"),
    ("run_glue", "--apply_lora --cls_dropout 1", "--cls_dropout 1.0: a probability"),
    ("run_glue", "--apply_sparse", "--apply_sparse has its entries beside a low rank: give --apply_lora"),
    ("run_glue", "--lora_r 16", "--lora_r does nothing without --apply_lora"),
    ("run_glue", "--apply_lora --num_sparse 16", "--num_sparse does nothing without --apply_sparse"),
    ("run_glue", "--apply_lora --tune_epochs 1", "--tune_epochs trains all weights on"),
    ("run_glue", "--apply_lora --dsee_checkpoint {trained}", "--dsee_checkpoint is trained already"),
    ("run_glue", "--apply_lora --data_dir /nowhere", "--data_dir /nowhere is not a folder"),
    ("run_glue", "--apply_lora --model_name_or_path {trained}", "holds an update and not its base"),
    ("run_glue_prune", "--pruning_ratio 0.2", "--dsee_checkpoint: name what stage I has trained"),
    ("run_glue_prune", "--pruning_ratio 0.2 --dsee_checkpoint {empty}", "--dsee_checkpoint"),
    ("run_glue_prune", "--pruning_ratio 0.2 --dsee_checkpoint {fresh}", "is not trained: its update is 0"),
    ("run_glue_prune", "--pruning_ratio 0.2 --dsee_checkpoint {rte}", "is of RTE, not of CoLA"),
    ("run_glue_prune", "--pruning_ratio 0.2 --dsee_checkpoint {damaged}", "--dsee_checkpoint"),
    (
        "run_glue_prune",
        "--pruning_ratio 0.2 --dsee_checkpoint {trained} --model_name_or_path {other}",
        "wrong base: names and shapes fit, but the weights are others",
    ),
    ("run_glue_prune", "--dsee_checkpoint {trained}", "--pruning_ratio or --ad_pruning_ratio"),
    ("run_glue_prune", "--pruning_ratio 1 --dsee_checkpoint {trained}", "--pruning_ratio 1.0: a share"),
    (
        "run_glue_prune",
        "--ad_pruning_ratio nan --dsee_checkpoint {trained}",
        "--ad_pruning_ratio nan: a share",
    ),
    ("run_glue_prune", "--pruning_ratio 0.2 --prune_mode MAG --dsee_checkpoint {trained}", "--prune_mode"),
    (
        "run_glue_prune",
        "--pruning_ratio 0.2 --gradual_updates 9 --dsee_checkpoint {trained}",
        "--gradual_updates is more than the 1 updates",
    ),
    (
        "run_glue_prune",
        "--pruning_ratio 0.2 --gradual_updates 1 --load_best_model_at_end --eval_strategy steps "
        "--save_strategy steps --do_eval --dsee_checkpoint {trained}",
        "--load_best_model_at_end does not go with --gradual_updates",
    ),
    (
        "run_glue_prune",
        "--pruning_ratio 0.2 --gradual_updates 1 --mask_update --dsee_checkpoint {trained}",
        "--mask_update does not go with --gradual_updates yet",
    ),
    (
        "run_glue_prune",
        "--pruning_ratio 0.2 --apply_lora --lora_r 8 --dsee_checkpoint {trained}",
        "--lora_r 8: --dsee_checkpoint has 2",
    ),
    (
        "run_glue_prune_heads",
        "--prune_heads_num 4 --dsee_checkpoint {trained}",
        "--prune_heads_num leaves nothing of",
    ),
    ("run_glue_prune_heads", "--prune_mode W --dsee_checkpoint {trained}", "--prune_mode W ranks no heads"),
    (
        "run_glue_prune_heads",
        "--prune_neurons 0.5 --neuron_group 7 --dsee_checkpoint {trained}",
        "--neuron_group 7: ",
    ),
    ("run_dsee", "--prune_heads_num 1", "--apply_lora is what all three stages are about"),
    ("run_dsee", "--apply_lora", "--pruning_ratio or --ad_pruning_ratio, --prune_heads_num or"),
    ("run_dsee", "--apply_lora --prune_heads_num 1 --resume_from_checkpoint x", "each stage goes on from"),
    ("run_dsee", "--apply_lora --prune_heads_num 1 --third_max_steps 0", "--third_max_steps 0: a whole"),
]


@pytest.mark.parametrize("program, words, said", CASES, ids=lambda value: str(value)[:40])
def test_a_command_that_cannot_be_is_refused_and_writes_nothing(folder, tmp_path, program, words, said):
    words = words.format(**{path.name: path for path in folder.iterdir()}).split()
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as error:
        start(f"dsee/{program}", *on_task(folder, "CoLA"), *TRAIN, "--output_dir", out, *words)
    text = str(error.value)
    assert said in text and "\n" not in text, text
    left = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert not left, left


def test_a_model_without_the_roles_is_refused_by_name(folder, tmp_path, monkeypatch):
    from dsp_plugin.hf.dsee import adding
    from dsp_plugin.hf.heads.layouts.locate import NotSupported

    def lacking(model, roles):
        raise NotSupported("BertForSequenceClassification has no value matrix of its own in layer.0")

    monkeypatch.setattr(adding, "find_targets", lacking)
    words = [*TRAIN, "--apply_lora", "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit) as error:
        start("dsee/run_glue", *on_task(folder, "CoLA"), *words)
    assert "--model_name_or_path" in str(error.value) and "no value matrix" in str(error.value)
