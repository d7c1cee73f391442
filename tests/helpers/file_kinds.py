"""Every kind of file that we write: made by the code that programs write it with, read by the code that they
read it with.

A test (or the fuzzer) damages a file of `make` and reads again: the value must be the same, or the reader
must refuse with a ValueError or an OSError. Hosts are imported where they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

from dsp_plugin.gating import AttentionBlock, HeadMap, Sweep

HEADS = HeadMap([AttentionBlock("encoder.layers.0.self_attn", 3, "encoder-self")])
HYPOTHESES = ["a man rides a brown horse .", "two dogs run over the grass .", "a woman sits on a bench ."]
REFERENCES = [
    "a man rides a horse .",
    "two dogs are running on the grass .",
    "a woman is sitting on a bench .",
]


@dataclass(frozen=True)
class FileKind:
    """One kind of file or folder.

    Attributes:
        name: also of a folder.
        make: writes into an empty folder; returns the files of it that may be damaged.
        read: the folder -> what the files say, plain values and tensors to compare.
        needs: the host, where there is one.
    """

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    needs: str = ""


def _record():
    from dsp_plugin.records.bleu import bleu
    from dsp_plugin.records.record import Metric, new_record

    found = bleu(HYPOTHESES, REFERENCES)
    metric = Metric("BLEU", found["value"], signature=found["signature"], subset="test")
    return new_record(
        "mt-bleu", "größe", "dsp", device="cpu", seed=3, metrics=[metric], seconds={"train": 0.125}
    )


def make_record(folder: Path) -> list[Path]:
    from dsp_plugin.records.record import save_record

    return [save_record(_record(), folder)]


def read_record(folder: Path) -> Any:
    from dsp_plugin.records.record import load_record

    return load_record(folder / "results.json")


def make_sentences(folder: Path) -> list[Path]:
    from dsp_plugin.records.bleu import bleu_statistics
    from dsp_plugin.records.sentences import save_sentences

    signature = _record().metrics[0].signature
    statistics = bleu_statistics(HYPOTHESES, REFERENCES)
    save_sentences(folder, {"metric": "BLEU", "signature": signature, "statistics": statistics})
    return [folder / "sentences.json.xz"]


def read_sentences(folder: Path) -> Any:
    from dsp_plugin.records.sentences import load_statistics

    return load_statistics(folder, _record().metrics[0])


def make_answers(folder: Path) -> list[Path]:
    from dsp_plugin.records.answers import save_answers

    save_answers(folder, [1.0, 0.5, 5.0, 3.0], [1.5, 0.25, 4.0, 3.75])
    return [folder / "answers.json.xz"]


def read_answers(folder: Path) -> Any:
    from dsp_plugin.records.answers import load_answers

    return load_answers(folder, _record())


def make_history(folder: Path) -> list[Path]:
    from dsp_plugin.records.history import append_heads

    for updates in (10, 20, 30, 40):
        append_heads(folder, updates, torch.tensor([1, updates % 20, 0]).bool())
    return [folder / "heads.jsonl"]


def read_history(folder: Path) -> Any:
    from dsp_plugin.records.history import read_history

    return read_history(folder)


def _sweep(folder: Path) -> Sweep:
    return Sweep(str(folder), {"data": "abc", "step": 1}, HEADS, "BLEU", "save_dir")


def make_sweep(folder: Path) -> list[Path]:
    importance = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)
    _sweep(folder).run(
        torch.ones(3, dtype=torch.bool),
        [2, 1],
        lambda keep: importance,
        lambda keep, subset: {"value": float(keep.sum())},
        lambda kept: ["valid"],
        masks_of=[2],
        say=lambda text: None,
    )
    return sorted(folder.glob("*.json"))


def read_sweep(folder: Path) -> Any:
    from dsp_plugin.surgery import read_mask

    return _sweep(folder).steps, read_mask(str(folder / "mask-K2.json"), HEADS)


def make_translations(folder: Path) -> list[Path]:
    from dsp_plugin.mt.programs.generation_results import write_results

    write_results(
        str(folder),
        _record(),
        [SimpleNamespace(head_map=HEADS, keep=torch.tensor([True, False, True]))],
        HYPOTHESES,
    )
    return [folder / "mask.json", folder / "results.json"]


def read_translations(folder: Path) -> Any:
    from dsp_plugin.surgery import read_mask

    return read_mask(str(folder / "mask.json"), HEADS), read_record(folder)


def make_certificate(folder: Path) -> list[Path]:
    from dsp_plugin.records.certificate import Certificate, write_certificate

    (folder / "stock.pt").write_bytes(bytes(range(200)))
    certificate = Certificate(1e-7, 3.5, 1e-4, 20, 2, ["logits"], "float32", "real text", {"beam": 5})
    return [folder / "stock.pt", write_certificate(certificate, folder / "stock.pt")]


def read_certificate(folder: Path) -> Any:
    from dsp_plugin.records.certificate import read_certificate

    return read_certificate(folder / "stock.pt"), (folder / "stock.pt").read_bytes()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")


def _copies(tensors: Any) -> Any:
    """Not mapped from a file, which is about to be damaged."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _weights(model: Any) -> Any:
    return _copies(model.state_dict()), json.loads(model.config.to_json_string())


def _gated(method: str = "relaxed") -> Any:
    from hf_training import gated

    return gated(method)


def make_pruned(folder: Path) -> list[Path]:
    from dsp_plugin.hf import prune_heads, save_pruned

    model = _gated("ranked")
    prune_heads(model)
    save_pruned(model, folder)
    return _files(folder)


def read_pruned(folder: Path) -> Any:
    from dsp_plugin.hf import load_pruned

    return _weights(load_pruned(folder))


def make_gating(folder: Path) -> list[Path]:
    from hf_training import DATA, prepared

    from dsp_plugin.records.files.sealed_folder import seal_folder

    trainer = prepared(_gated(), folder, DATA, max_steps=1)
    trainer.train()
    trainer.save_model()
    seal_folder(folder)
    return _files(folder)


def read_gating(folder: Path) -> Any:
    from dsp_plugin.hf.heads.gating import load_gating

    model = _gated()
    load_gating(model, str(folder))
    return _copies(model.gating.state_dict())


def make_export(folder: Path) -> list[Path]:
    from dsp_plugin.hf.export.exports import export_dense_checked

    export_dense_checked(_gated("ranked"), folder)
    return _files(folder)


def read_export(folder: Path) -> Any:
    from dsp_plugin.hf.folders.pruned_folders import load_model
    from dsp_plugin.records.certificate import read_certificate

    return read_certificate(folder), _weights(load_model(folder))


def _training(folder: Path) -> Any:
    from hf_data import arguments

    return arguments(folder, max_steps=2, save_strategy="steps", save_steps=1)


def make_training(folder: Path) -> list[Path]:
    """Two checkpoints of a training, and the settings that it may go on with."""
    from hf_training import DATA, prepared

    from dsp_plugin.hf.programs.chassis.output_folder import begin

    begin(_training(folder), {"seed": 5}, None, False)
    prepared(_gated(), folder, DATA, max_steps=2, save_strategy="steps", save_steps=1).train()
    return [*_files(folder / "checkpoint-2"), folder / "settings.json"]


def read_training(folder: Path) -> Any:
    from transformers.trainer_pt_utils import safe_globals

    from dsp_plugin.hf.programs.chassis.output_folder import settings_of, starting_point

    checkpoint = Path(starting_point(_training(folder), {"seed": 5}, False))
    with safe_globals():
        loaded = {
            name: torch.load(checkpoint / name, weights_only=True)
            for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")
        }
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return (
        checkpoint.name,
        loaded,
        _copies(load_file(checkpoint / "model.safetensors")),
        state,
        settings_of(str(folder)),
    )


def make_old_training(folder: Path) -> list[Path]:
    """As earlier versions left it: without a list. Its weights and its state have no checksum at all."""
    make_training(folder)
    (folder / "checkpoint-2" / "checksums.json").unlink()
    return [folder / "checkpoint-2" / name for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")]


def make_vector(folder: Path) -> list[Path]:
    from diff_models import HEAD, tiny

    from dsp_plugin.diffs import DiffVector
    from dsp_plugin.diffs.training.vector_file import save_vector

    save_vector(
        folder / "checkpoint-last-info.pt", DiffVector(tiny(), task_head=HEAD, seed=1), {"method": "diff"}
    )
    return [folder / "checkpoint-last-info.pt"]


def read_vector(folder: Path) -> Any:
    from dsp_plugin.diffs.training.vector_file import read_vector

    return vars(read_vector(folder / "checkpoint-last-info.pt"))


def make_pack(folder: Path) -> list[Path]:
    from diff_packs import SmallModel, random_pack

    from dsp_plugin.artefacts.base import Base
    from dsp_plugin.diffs.packs.undo_file import UndoRecord

    model = SmallModel()
    base = Base.of(model, ["classifier"])
    pack = random_pack(model, 1)
    pack.save(folder / "task.diff.safetensors")
    UndoRecord.of(pack.apply(model), base).save(folder / "diff-undo.safetensors")
    return _files(folder)


def read_pack(folder: Path) -> Any:
    from diff_packs import SmallModel

    from dsp_plugin.diffs.packs.pack import DiffPack
    from dsp_plugin.diffs.packs.undo_file import UndoRecord

    model = SmallModel()
    DiffPack.load(folder / "task.diff.safetensors").apply(model)
    undo = UndoRecord.load(folder / "diff-undo.safetensors")
    return dict(model.state_dict()), undo.old, undo.task_head


def make_dsee(folder: Path) -> list[Path]:
    from dsp_plugin.artefacts.base import Base
    from dsp_plugin.dsee import DseeFile, PackedMask, Update

    generator = torch.Generator().manual_seed(2)
    weights = {name: torch.randn(6, 5, generator=generator) for name in ("query.weight", "key.weight")}
    parts = [torch.randn(shape, generator=generator) for shape in ((2, 5), (6, 2), (3,))]
    updates = {"query.weight": Update(*parts[:2], torch.tensor([1, 4, 29]), parts[2], 2.0)}
    masks = {"key.weight": PackedMask.of(weights["key.weight"] > 0)}
    head = {"classifier.weight": torch.randn(2, 6, generator=generator)}
    file = DseeFile(Base.of(weights), updates, masks, {"layer": [0, 2]}, {}, head, {"method": "dsee"})
    file.save(folder / "task.dsee.safetensors")
    return [folder / "task.dsee.safetensors"]


def read_dsee(folder: Path) -> Any:
    from dsp_plugin.dsee import DseeFile

    file = DseeFile.load(folder / "task.dsee.safetensors")
    updates = {name: vars(update) for name, update in file.updates.items()}
    masks = {name: mask.mask() for name, mask in file.masks.items()}
    return vars(file.base), updates, masks, file.kept, file.task_head, file.config


def make_delta(folder: Path) -> list[Path]:
    from dsp_plugin.artefacts.base import Base
    from dsp_plugin.delta.artefact import DeltaFile
    from dsp_plugin.delta.parts import Part

    generator = torch.Generator().manual_seed(2)
    weights = {"query.weight": torch.randn(6, 5, generator=generator), "query.bias": torch.zeros(6)}
    low = {
        name: torch.randn(shape, generator=generator) for name, shape in (("down", (2, 5)), ("up", (6, 2)))
    }
    parts = {
        "prompt": Part(1, {"prompt_num": 3}, {"vectors": torch.randn(3, 5, generator=generator)}),
        "bias": Part(1, {}, {"query.bias": torch.randn(6, generator=generator)}),
        "lora": Part(2, {"scale": 2.0}, {f"query.weight.{name}": one for name, one in low.items()}),
    }
    head = {"classifier.weight": torch.randn(2, 6, generator=generator)}
    file = DeltaFile(Base.of(weights), parts, head, "*cls*sent_0*mask*", {"0": "bad"}, {"off": ["bias"]})
    file.save(folder / "task.delta.safetensors")
    return [folder / "task.delta.safetensors"]


def read_delta(folder: Path) -> Any:
    from dsp_plugin.delta.artefact import DeltaFile

    file = DeltaFile.load(folder / "task.delta.safetensors")
    parts = {method: vars(part) for method, part in file.parts.items()}
    return vars(file.base), parts, file.task_head, file.template, file.mapping, file.config


def make_checkpoint(folder: Path) -> list[Path]:
    from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint

    generator = torch.Generator().manual_seed(2)
    weights = {f"encoder.layers.{n}.weight": torch.randn(8, 8, generator=generator) for n in range(3)}
    save_checkpoint(
        {"model": weights, "cfg": {"model": {"_name": "transformer"}}, "args": None}, str(folder / "small.pt")
    )
    return [folder / "small.pt"]


def read_checkpoint(folder: Path) -> Any:
    from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint

    return load_checkpoint(str(folder / "small.pt"))


KINDS = [
    FileKind("record", make_record, read_record),
    FileKind("sentences", make_sentences, read_sentences),
    FileKind("answers", make_answers, read_answers),
    FileKind("history", make_history, read_history),
    FileKind("sweep", make_sweep, read_sweep),
    FileKind("translations", make_translations, read_translations, "fairseq"),
    FileKind("certificate", make_certificate, read_certificate),
    FileKind("pruned-folder", make_pruned, read_pruned, "transformers"),
    FileKind("gating-state", make_gating, read_gating, "transformers"),
    FileKind("dense-export", make_export, read_export, "transformers"),
    FileKind("trainer-checkpoint", make_training, read_training, "transformers"),
    FileKind("old-trainer-checkpoint", make_old_training, read_training, "transformers"),
    FileKind("diff-vector", make_vector, read_vector),
    FileKind("diff-pack", make_pack, read_pack),
    FileKind("dsee-file", make_dsee, read_dsee),
    FileKind("delta-file", make_delta, read_delta),
    FileKind("fairseq-checkpoint", make_checkpoint, read_checkpoint, "fairseq"),
]
