"""`dsp export` by the command lines a user types: every format, its certificate, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")
pytest.importorskip("transformers")

from hf_models import VOCABULARY, tiny_model, uneven_mask

from dsp_plugin.cli import doctor
from dsp_plugin.cli.main import main
from dsp_plugin.gating import ExponentialCooling, RelaxedSubset
from dsp_plugin.hf import compare, gate_heads, head_map_of, prune_heads, random_batches, save_pruned

N_MT = 24  # heads of the translation model in fairseq_training


def dsp(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refusal(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert dsp(*arguments) == 1
    return capsys.readouterr().err


def certificate(folder: Path) -> dict:
    return json.loads((folder / "certificate.json").read_text())


# ------------------------------------------------------------------------------------------------- fairseq
# checkpoints


@pytest.fixture(scope="module")
def trained(joint_run) -> Path:
    return joint_run[0] / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def translated(trained, tiny_data):
    """(masked translations of the test set as words, its sentences as words)"""
    from dsp_plugin.mt.translate.translate import load_model, translate, translation_task

    task = translation_task(str(tiny_data), "test")
    found = translate(load_model(str(trained), task), task, "test", beam=2, max_len_a=0, max_len_b=20)
    words, eos = task.target_dictionary, task.target_dictionary.eos()
    sources = [[task.source_dictionary[n] for n in row["source"] if n != eos] for row in task.dataset("test")]
    return [[words[token] for token in translation.tokens if token != eos] for translation in found], sources


def test_ctranslate2(trained, translated, tmp_path, capsys):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs ctranslate2: `make venv` installs it")
    out = tmp_path / "ct2"
    assert dsp("export", trained, "--format", "ctranslate2", "--out", out, "--gen-subset", "test") == 0
    said = capsys.readouterr().out
    assert "6 of 24 heads kept" in said
    assert "largest difference to the masked model" in said and "of size 4" in said
    assert {path.name for path in out.iterdir()} >= {"model.bin", "config.json", "certificate.json"}
    written = certificate(out)
    assert written["equal"] and "test" in written["data"] and written["tokens"] > 12
    # and once more, with nothing of ours
    expected, sources = translated
    translator = ctranslate2.Translator(str(out), device="cpu", compute_type="float32")
    found = [
        r.hypotheses[0] for r in translator.translate_batch(sources, beam_size=2, max_decoding_length=20)
    ]
    # a tie may fall otherwise
    assert sum(a[:15] == b[:15] for a, b in zip(expected, found)) >= 0.8 * len(expected)
    # an earlier export is replaced, another budget
    assert (
        dsp("export", trained, "--format", "ctranslate2", "--out", out, "--num-of-heads", 0, "--sentences", 3)
        == 0
    )
    # the format has no block without heads
    assert "encoder: every block has 1 head of size 4\n" in capsys.readouterr().out
    assert certificate(out)["sequences"] == 3 and certificate(out)["sha256"] != written["sha256"]


def test_the_certificate_of_a_fairseq_export(trained, tmp_path):
    assert dsp("export", trained, "--out", tmp_path / "stock.pt") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stock.pt", "stock.pt.certificate.json"]
    written = json.loads((tmp_path / "stock.pt.certificate.json").read_text())
    assert written["equal"] and written["largest_difference"] < 1e-4 and "valid" in written["data"]
    assert list(written["sha256"]) == ["stock.pt"]


def test_what_cannot_be_exported_from_a_checkpoint(trained, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    said = refusal(capsys, "export", trained, "--format", "onnx", "--out", out)
    assert "--format onnx is not for a fairseq checkpoint" in said and "fairseq, ctranslate2" in said
    assert "--text is not for" in refusal(capsys, "export", trained, "--out", out, "--text", trained)
    form = ("export", trained, "--format", "ctranslate2", "--out")
    assert "no such folder" in refusal(capsys, *form, out, "--data", tmp_path / "none")
    assert "has no such set" in refusal(capsys, *form, out, "--gen-subset", "exam")
    assert f"--num-of-heads must be a whole number in 0..{N_MT}" in refusal(
        capsys, *form, out, "--num-of-heads", 25
    )
    with pytest.raises(SystemExit):
        dsp(*form, out, "--sentences", 0)
    assert "--sentences: '0': a whole number, 1 or more belongs there" in capsys.readouterr().err
    assert "holds other things" in refusal(capsys, *form, trained.parent)
    assert "is a file" in refusal(capsys, *form, Path(__file__))
    assert "no checkpoint at" in refusal(
        capsys, "export", tmp_path / "no.pt", "--format", "ctranslate2", "--out", out
    )
    there = doctor.is_importable
    monkeypatch.setattr(doctor, "is_importable", lambda module: module != "ctranslate2" and there(module))
    said = refusal(capsys, *form, out)
    assert "--format ctranslate2 needs ctranslate2" in said and "-m pip install" in said
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------
# Transformers folders


def tokenizer():
    """Words w0 ... of the tiny models' vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w0", pad_token="w1", model_max_length=30
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """whole/, with all heads; gated/, with scores; pruned/, with a tokenizer."""
    folder = tmp_path_factory.mktemp("hf")
    model = tiny_model("bert", dtype=torch.float32)
    model.save_pretrained(folder / "whole")
    switchboard = gate_heads(model, RelaxedSubset(head_map_of(model), 3, ExponentialCooling(1.0, 0.1, 5)))
    with torch.no_grad():
        next(switchboard.gates.parameters()).copy_(torch.tensor([0.1, 0.9, -1, 0.8, 0.2, 0.7, -2, -3]))
    model.save_pretrained(folder / "gated")
    prune_heads(model, switchboard.gates.keep())
    save_pruned(model, folder / "pruned")
    tokenizer().save_pretrained(folder / "pruned")
    (folder / "mask.json").write_text(json.dumps(uneven_mask(8, [4, 4]).tolist()))
    (folder / "text.txt").write_text("w5 w6 w7\n\nw9\nw3 w4 w5 w6 w7 w8 w9 w3 w30\n")
    return folder


def test_dense_from_a_pruned_folder_on_real_text(folders, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out = tmp_path / "dense"
    assert dsp("export", folders / "pruned", "--out", out, "--text", folders / "text.txt") == 0
    assert "3 of 8 heads kept" in capsys.readouterr().out
    written = certificate(out)
    assert written["equal"] and written["data"] == "text.txt (real text)"
    assert (written["sequences"], list(written["sha256"])) == (3, ["model.safetensors"])
    assert AutoTokenizer.from_pretrained(out)("w5 w6")["input_ids"] == [5, 6]
    stock = AutoModelForSequenceClassification.from_pretrained(out)
    pruned = tiny_model("bert", dtype=torch.float32)
    prune_heads(pruned, [False, True, False, True, False, True, False, False])
    assert compare(stock, pruned, list(random_batches(stock))).equal


def test_a_gated_folder_says_how_many_heads(folders, tmp_path, capsys):
    said = refusal(capsys, "export", folders / "gated", "--out", tmp_path / "out")
    assert "--num-of-heads K or --mask FILE.json" in said and "says not how many heads to keep" in said
    assert "must be a whole number in 0..8" in refusal(
        capsys, "export", folders / "gated", "--out", tmp_path / "out", "--num-of-heads", 9
    )
    assert dsp("export", folders / "gated", "--out", tmp_path / "out", "--num-of-heads", 3) == 0
    assert certificate(tmp_path / "out")["data"] == "random ids"
    dense = {path: (path / "model.safetensors").read_bytes() for path in (tmp_path / "out",)}
    assert dsp("export", folders / "pruned", "--out", tmp_path / "other") == 0
    assert dense[tmp_path / "out"] == (tmp_path / "other/model.safetensors").read_bytes()


def test_onnx_of_a_whole_folder_with_a_mask(folders, tmp_path, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason="ONNX export needs onnx, onnxscript and onnxruntime: `make venv` installs them"
        )
    out = tmp_path / "onnx"
    assert (
        dsp("export", folders / "whole", "--format", "onnx", "--out", out, "--mask", folders / "mask.json")
        == 0
    )
    assert "model.onnx" in capsys.readouterr().out
    assert certificate(out)["equal"] and list(certificate(out)["sha256"]) == ["model.onnx"]
    assert json.loads((out / "config.json").read_text())["kept_heads"]["encoder.layer.1.attention"] == []


def test_what_cannot_be_exported_from_a_folder(folders, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    whole = folders / "whole"
    said = refusal(capsys, "export", whole, "--format", "ctranslate2", "--out", out)
    assert "--format ctranslate2 is not for a Transformers folder" in said and "dense, onnx" in said
    assert "nothing to export" in refusal(capsys, "export", whole, "--out", out)
    assert "has no scores of its 8 heads" in refusal(
        capsys, "export", whole, "--out", out, "--num-of-heads", 3
    )
    assert "is the model itself" in refusal(capsys, "export", whole, "--out", whole)
    assert "holds other things" in refusal(capsys, "export", folders / "pruned", "--out", folders)
    assert "no tokenizer" in refusal(
        capsys, "export", whole, "--out", out, "--mask", folders / "mask.json", "--text", folders / "text.txt"
    )
    assert "--data is not for" in refusal(capsys, "export", whole, "--out", out, "--data", folders)
    assert "no such file" in refusal(capsys, "export", whole, "--out", out, "--text", folders / "none.txt")
    assert "config.json" in refusal(capsys, "export", folders, "--out", out)
    (tmp_path / "mask.json").write_text("[true]")
    assert "1 entries, the model 8 heads" in refusal(
        capsys, "export", whole, "--out", out, "--mask", tmp_path / "mask.json"
    )
    monkeypatch.setattr(doctor, "is_importable", lambda module: not module.startswith("onnx"))
    said = refusal(capsys, "export", whole, "--format", "onnx", "--out", out)
    assert "needs onnx, onnxruntime, onnxscript" in said and "-m pip install" in said
    assert not out.exists()


def test_the_program_of_all_families(tmp_path, capsys):
    """The program whose record stands under results/: to its very end, for one family."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason="ONNX export needs onnx, onnxscript and onnxruntime: `make venv` installs them"
        )
    import runpy

    script = Path(__file__).resolve().parents[2] / "scripts/hf/check_families.py"
    program = runpy.run_path(str(script))
    assert program["main"](["--out", str(tmp_path), "--families", "distilbert"]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    found = {m["name"]: m["value"] for m in record["metrics"] if m["name"].startswith("largest difference")}
    assert set(found) == {f"largest difference, {name}" for name in ("pruned", "reloaded", "dense", "onnx")}
    assert max(found[f"largest difference, {name}"] for name in ("pruned", "reloaded", "dense")) < 1e-9
    assert 0 < found["largest difference, onnx"] < 1e-4
