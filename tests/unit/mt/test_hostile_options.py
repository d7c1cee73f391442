"""Options in a checkpoint are data: none is run, resolved, opened or believed beyond what its class
declares.
"""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import checkpoint_utils
from fairseq_models import TINY, build, parse
from omegaconf import OmegaConf

import dsp_plugin
from dsp_plugin.mt.checkpoints import options as checkpoint_options
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.checkpoints.option_types import is_literal
from dsp_plugin.mt.checkpoints.options import check_options

dsp_plugin.register()
CODE = "__import__('os').mkdir('it ran')"


@pytest.fixture(scope="module")
def saved(tiny_data):
    """A checkpoint's state as fairseq saves it, by the model's architecture."""
    states = {}
    for arch in ("transformer", "dsp_transformer"):
        cfg = parse(tiny_data, *TINY, "--optimizer", "adam", "--lr", "0.25", arch=arch)
        _, model = build(tiny_data, *TINY, arch=arch)
        history = [{"num_updates": 3, "criterion_name": "X", "optimizer_name": "Y", "lr_scheduler_state": {}}]
        states[arch] = {
            "args": None,
            "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
            "model": model.state_dict(),
            "optimizer_history": history,
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        }
    return states


def changed(state, section=None, **options):
    """A copy with other options in one section (None: of its model)."""
    cfg = dict(state["cfg"])
    old = cfg[section or "model"]
    new = {**(vars(old) if isinstance(old, Namespace) else old), **options}
    cfg[section or "model"] = Namespace(**new) if isinstance(old, Namespace) else new
    return {**state, "cfg": cfg}


def flat(state, **options):
    """The same as a checkpoint of before fairseq 0.10.1."""
    cfg = {**state["cfg"], "model": vars(state["cfg"]["model"])}
    every = {
        name: value
        for part in cfg.values()
        if isinstance(part, dict)
        for name, value in part.items()
        if name != "_name"
    }
    names = {"arch": "transformer", "task": "translation", "criterion": "cross_entropy", "optimizer": "adam"}
    return {**state, "cfg": None, "args": Namespace(**{**every, **names, "lr_scheduler": "fixed", **options})}


def through_fairseq(path: Path):
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    return models[0], task


@pytest.fixture(params=["ours", "fairseq's"])
def read(request, tmp_path, monkeypatch):
    """Reads a state through a file, by our reader or fairseq's; no folder may have been made by it."""
    monkeypatch.chdir(tmp_path)

    def read(state):
        torch.save(state, "saved.pt")
        return load_checkpoint("saved.pt") if request.param == "ours" else through_fairseq("saved.pt")

    yield read
    assert [path.name for path in tmp_path.iterdir()] == ["saved.pt"]


@pytest.mark.parametrize("arch", ["transformer", "dsp_transformer"])
def test_what_fairseq_saved_is_read(saved, tmp_path, arch, caplog):
    torch.save(saved[arch], tmp_path / "saved.pt")
    model, task = through_fairseq(tmp_path / "saved.pt")
    assert all(torch.equal(value, saved[arch]["model"][name]) for name, value in model.state_dict().items())
    assert type(task).__name__ == "TranslationTask" and not [
        r for r in caplog.records if r.levelno >= logging.WARNING
    ]
    found = load_checkpoint(str(tmp_path / "saved.pt"))["cfg"]
    assert (
        found["task"] == saved[arch]["cfg"]["task"] and found["criterion"] == saved[arch]["cfg"]["criterion"]
    )


def test_what_fairseq_saved_before_there_was_a_cfg_is_read(saved, read):
    found = read(flat(saved["transformer"], left_pad_source="True", lr=[0.25], odd_old_option=3))
    if isinstance(found, dict):
        assert found["args"].left_pad_source is True and not hasattr(found["args"], "odd_old_option")


# option, value: refused for a stock transformer and for ours
REFUSED = [
    ("encoder_xformers_att_config", CODE),
    ("decoder_xformers_att_config", "{'name': 'scaled_dot_product'}"),  # harmless, but fairseq evaluates it
    ("adaptive_softmax_cutoff", CODE),
    ("adaptive_softmax_cutoff", [1, CODE]),
    ("encoder_layers", CODE),
    ("encoder_layers", "[(4, 3)] * 2"),
    ("encoder_layers", 1.5),
    ("encoder_layers", -1),
    ("encoder_layers", 10**9),
    ("decoder_layers", None),
    ("encoder_embed_dim", 0),
    ("encoder_embed_dim", 10**6),
    ("decoder_ffn_embed_dim", 10**9),
    ("encoder_attention_heads", 0),
    ("max_source_positions", 10**10),
    ("max_target_positions", 10**8),
    ("base_layers", 10**6),
    ("dropout", float("nan")),
    ("dropout", "0.1; import os"),
    ("attention_dropout", 2),
    ("activation_fn", CODE),
    ("activation_fn", "os.mkdir"),
    ("share_all_embeddings", CODE),
    ("share_all_embeddings", [1]),
    ("encoder_layers_to_keep", CODE),
    ("encoder_layers_to_keep", ["0", CODE]),
    ("quant_noise_pq", CODE),
    ("_name", "fconv"),
    ("_name", "lstm"),
    ("_name", "no_such_model"),
    ("_name", None),
    ("_name", ["transformer"]),
    ("arch", "fconv"),
    ("odd", "${oc.env:HOME}"),
    ("activation_fn", "${oc.env:HOME}"),
    ("odd", {"a": ["${oc.env:HOME}"]}),
]


@pytest.mark.parametrize("arch", ["transformer", "dsp_transformer"])
@pytest.mark.parametrize("name, value", REFUSED)
def test_refused_options_of_the_model(saved, read, arch, name, value):
    names = {"arch": None} if (name, value) == ("_name", None) else {}
    started = time.monotonic()
    with pytest.raises(ValueError, match="saved.pt is refused") as error:
        read(changed(saved[arch], **names, **{name: value}))
    assert name in str(error.value) or "model" in str(error.value)
    assert "\n" not in str(error.value) and time.monotonic() - started < 5


@pytest.mark.parametrize(
    "record",
    ["[" * 100_000, '{"a": ' * 5000, "[[1]]", '{"a": {"b": 1}}', "nonsense", "x" * 2_000_000, '{"a": [[1]]}'],
    ids=["deep list", "deep table", "list", "table of tables", "no JSON", "long", "list of lists"],
)
def test_a_record_of_kept_heads_that_is_none(saved, read, record):
    with pytest.raises(ValueError, match="kept_heads"):
        read(changed(saved["dsp_transformer"], kept_heads=record))


@pytest.mark.parametrize(
    "section, name, value",
    [
        ("task", "data", "${oc.env:HOME}"),
        ("task", "left_pad_source", CODE),
        ("task", "eval_bleu_args", "[" * 100_000),
        ("task", "eval_bleu_args", CODE),
        ("task", "eval_bleu_args", '{"beam": 1000000000}'),
        ("task", "max_source_positions", CODE),
        ("optimizer", "adam_betas", CODE),
        ("common", "seed", CODE),
        ("common", "odd", "${now:%Y}"),
        ("optimization", "lr", [CODE]),
        ("optimization", "update_freq", CODE),
        ("criterion", "sentence_avg", CODE),
        ("distributed_training", "ddp_backend", CODE),
    ],
)
def test_refused_options_of_other_sections(saved, read, section, name, value):
    with pytest.raises(ValueError, match=f"saved.pt is refused: option .*{name}"):
        read(changed(saved["dsp_transformer"], section, **{name: value}))


@pytest.mark.parametrize(
    "name, value",
    [
        ("arch", "fconv"),
        ("arch", None),
        ("task", "multilingual_translation"),
        ("left_pad_source", CODE),
        ("adaptive_softmax_cutoff", CODE),
        ("encoder_xformers_att_config", CODE),
        ("data", "a' model._name='fconv"[:1] + "\\' model.x='1"),
        ("data", "${oc.env:HOME}"),
        ("lr", [CODE]),
        ("adam_betas", CODE),
        ("encoder_layers", CODE),
    ],
)
def test_refused_options_of_old_checkpoints(saved, read, name, value):
    with pytest.raises(ValueError, match="saved.pt is refused"):
        read(flat(saved["transformer"], **{name: value}))


def test_unknown_options_are_left_out_with_one_warning(saved, tmp_path, caplog):
    state = changed(saved["dsp_transformer"], other_plugins_option=CODE, another={"a": [1, 2]})
    state["cfg"]["their_section"] = {"x": 1}
    torch.save(state, tmp_path / "other.pt")
    checkpoint_options._warned.clear()
    for _ in range(2):
        model, _ = through_fairseq(tmp_path / "other.pt")
    warned = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1 and all(
        name in warned[0] for name in ("other_plugins_option", "another", "their_section")
    )


@pytest.mark.parametrize(
    "section, name", [("criterion", "ctc"), ("task", "multilingual_translation"), ("criterion", CODE)]
)
def test_tasks_and_criterions_that_are_not_built_from_a_file(saved, tmp_path, caplog, section, name):
    state = changed(saved["dsp_transformer"])
    state["cfg"][section] = {"_name": name, "wer_args": CODE, "left_pad_source": CODE}
    torch.save(state, tmp_path / "other.pt")
    found = load_checkpoint(str(tmp_path / "other.pt"))
    assert found["cfg"][section] == {"_name": None} and section in caplog.text


def test_files_that_options_name_are_not_opened(saved, tmp_path):
    for name in ("encoder_embed_path", "decoder_embed_path"):
        torch.save(changed(saved["dsp_transformer"], **{name: "/no/such/file"}), tmp_path / "saved.pt")
        through_fairseq(tmp_path / "saved.pt")
    state = changed(
        saved["dsp_transformer"], "generation", replace_unk="/no/such/file", lm_path="/no/such/file"
    )
    torch.save(state, tmp_path / "saved.pt")
    generation = load_checkpoint(str(tmp_path / "saved.pt"))["cfg"]["generation"]
    assert generation["replace_unk"] is None and generation["lm_path"] is None


class TestModelsThatTheUserAllows:
    """DSP_ALLOW_MODELS=fconv"""

    def options(self, **changes):
        texts = {"encoder_layers": "[(4, 3)] * 2", "decoder_layers": "[(4, 3)]", "decoder_attention": "True"}
        sizes = {"encoder_embed_dim": 4, "decoder_embed_dim": 4, "decoder_out_embed_dim": 4, "dropout": 0.1}
        return Namespace(**{"_name": "fconv", "arch": "fconv", **texts, **sizes, "odd_one": 1, **changes})

    def check(self, saved, options):
        state = {**saved["transformer"], "cfg": {**saved["transformer"]["cfg"], "model": options}}
        check_options(state, "a.pt")
        return state["cfg"]["model"]

    def test_their_declared_options_are_read(self, saved, monkeypatch):
        with pytest.raises(ValueError, match="DSP_ALLOW_MODELS=fconv"):
            self.check(saved, self.options())
        monkeypatch.setenv("DSP_ALLOW_MODELS", "lstm, fconv")
        found = self.check(saved, self.options())
        assert found.encoder_layers == "[(4, 3)] * 2" and not hasattr(found, "odd_one")

    @pytest.mark.parametrize(
        "code",
        [CODE, "[0] * 10**9", "[(1, 2)] * 99999999", "(lambda: 0)()", "[x for x in 'a']", "1 if a else 2"],
    )
    def test_and_yet_none_is_a_program(self, saved, monkeypatch, code):
        monkeypatch.setenv("DSP_ALLOW_MODELS", "fconv")
        with pytest.raises(ValueError, match="encoder_layers: fairseq runs its value as a program"):
            self.check(saved, self.options(encoder_layers=code))


def test_literals():
    assert all(
        is_literal(text)
        for text in ("[(512, 3)] * 20 + [(1024, 1)]", "True", "1,2,3", "{'a': [1, -2.5]}", "None", "'x'")
    )
    assert not any(
        is_literal(text)
        for text in (CODE, "a", "a.b", "f()", "2**9", "[1]*9*9*9*9*9*9", "1 +", "(" * 5000, "x" * 10**6)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer_history": [{"num_updates": CODE}]},
        {"optimizer_history": [{"num_updates": -1}]},
        {"optimizer_history": "x"},
        {"extra_state": {"metrics": {"default": [(1, "a", "OrderedDict", {})]}}},
        {"extra_state": {"metrics": {"default": [(1, "a", "__builtins__", {})]}}},
        {"extra_state": {"metrics": {"default": [(1, "a", ["time"], {})]}}},
        {"extra_state": {"metrics": {"default": 1}}},
        {"extra_state": {"metrics": 1}},
    ],
)
def test_counters_and_meters(saved, read, change):
    with pytest.raises(ValueError, match="saved.pt is refused"):
        read({**saved["transformer"], **change})
