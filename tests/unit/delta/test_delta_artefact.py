"""The file: what is written is read; what does not fit, is damaged or of another kind is refused."""

from __future__ import annotations

import pytest
import torch

from dsp_plugin.artefacts.base import Base
from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.parts import Part
from dsp_plugin.dsee.artefact import DseeFile


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def base():
    shapes = {"a.query.weight": (6, 5), "a.key.weight": (6, 5), "b.weight": (4, 6), "b.bias": (4,)}
    return Base.of({name: draw(*shape) for name, shape in shapes.items()})


def parts():
    where = torch.tensor([0, 3, 19], dtype=torch.int32)
    low = {"a.query.weight.down": draw(2, 5), "a.query.weight.up": draw(6, 2)}
    other = {name.replace("query", "key"): tensor for name, tensor in low.items()}
    return {
        "prompt": Part(1, {"prompt_num": 3}, {"vectors": draw(3, 5)}),
        "bias": Part(1, {}, {"b.bias": draw(4)}),
        "adapter": Part(
            2,
            {"adapter": "houlsby"},
            {
                "x.out.down.weight": draw(2, 5),
                "x.out.down.bias": draw(2),
                "x.out.up.weight": draw(5, 2),
                "x.out.up.bias": draw(5),
            },
        ),
        "lora": Part(2, {"scale": 2.0}, low),
        "diff": Part(3, {}, {"b.weight.positions": where, "b.weight.values": draw(3)}),
        "dsee": Part(
            3, {"scale": 0.5}, {**other, "a.key.weight.positions": where, "a.key.weight.values": draw(3)}
        ),
    }


def some_file(**changes):
    whole = dict(
        base=base(),
        parts=parts(),
        task_head={"classifier.weight": draw(2, 4)},
        template="*cls*sent_0*_It_was*mask*.*sep+*",
        mapping={"0": "terrible", "1": "great"},
        config={"model_config": {"num_labels": 2}},
    )
    return DeltaFile(**{**whole, **changes})


def test_what_is_written_is_read(tmp_path):
    file, path = some_file(), tmp_path / "task.delta.safetensors"
    assert file.save(path) == path.stat().st_size == len(file.to_bytes())
    read = DeltaFile.load(path)
    assert read.base == file.base and (read.template, read.mapping) == (file.template, file.mapping)
    assert read.config == file.config and list(read.parts) == list(file.parts)
    for method, part in file.parts.items():
        assert (read.parts[method].stage, read.parts[method].settings) == (part.stage, part.settings)
        assert set(read.parts[method].tensors) == set(part.tensors)
        for name, tensor in part.tensors.items():
            assert torch.equal(read.parts[method].tensors[name], tensor)
    assert read.to_bytes() == path.read_bytes()
    # 15 + 4 + 27 + 22 + 3 + 25 trained numbers, and 8 of the task head
    assert read.count == 15 + 4 + 27 + 22 + 3 + 25 + 8


def _without(method, ending):
    def change(found):
        tensors = {name: one for name, one in found[method].tensors.items() if not name.endswith(ending)}
        found[method] = Part(found[method].stage, found[method].settings, tensors)

    return change


def _with(method, name, tensor):
    def change(found):
        found[method] = Part(
            found[method].stage, found[method].settings, {**found[method].tensors, name: tensor}
        )

    return change


def _stage(method, stage):
    def change(found):
        found[method] = Part(stage, found[method].settings, found[method].tensors)

    return change


DAMAGE = {
    "no vectors": (_without("prompt", "vectors"), "empty"),
    "a list of numbers": (_with("prompt", "vectors", draw(3)), "no list of vectors"),
    "not finite": (_with("prompt", "vectors", torch.tensor([[float("nan")]])), "not finite"),
    "no bias of the base": (_with("bias", "c.bias", draw(4)), "no bias of the base"),
    "no bias": (_with("bias", "b.weight", draw(4, 6)), "no bias of the base"),
    "another shape": (_with("bias", "b.bias", draw(5)), "the shape"),
    "half an adapter": (_without("adapter", "up.bias"), "has no up.bias"),
    "no bottleneck": (_with("adapter", "x.out.up.weight", draw(2, 5)), "no bottleneck"),
    "half an update": (_without("lora", ".up"), "has no up"),
    "another rank": (_with("lora", "a.query.weight.up", draw(6, 3)), "low rank"),
    "another matrix": (_with("lora", "a.query.weight.up", draw(5, 2)), "another shape"),
    "positions of none": (_with("lora", "a.query.weight.positions", torch.tensor([1])), "has a tensor"),
    "outside": (_with("diff", "b.weight.positions", torch.tensor([0, 3, 24])), "leave the tensor"),
    "falling": (_with("diff", "b.weight.positions", torch.tensor([3, 0, 4])), "do not rise"),
    "too few values": (_with("dsee", "a.key.weight.values", draw(2)), "one a value"),
    "stage 0": (_stage("bias", 0), "stage"),
    "stage true": (_stage("bias", True), "stage"),
    "unknown method": (lambda found: found.update(soft=found["prompt"]), "knows"),
    "no scale": (lambda found: found.update(lora=Part(1, {}, found["lora"].tensors)), "scale"),
    "nothing": (lambda found: found.clear(), "nothing to store"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda name: name)
def test_parts_that_do_not_fit_are_not_written(damage):
    found = parts()
    change, said = DAMAGE[damage]
    change(found)
    with pytest.raises(ValueError, match=said):
        some_file(parts=found).to_bytes()


def test_templates_and_mappings_that_are_none():
    for changes in ({"template": 3}, {"template": "a\x1b"}, {"mapping": ["0"]}, {"mapping": {"0": 1}}):
        with pytest.raises(ValueError, match="template|mapping"):
            some_file(**changes).to_bytes()


def test_another_template_is_refused():
    file = some_file()
    file.check_template(None, None)
    file.check_template(file.template, dict(file.mapping))
    with pytest.raises(ValueError, match="wrong template"):
        file.check_template("*cls**mask**sep+*", None)
    with pytest.raises(ValueError, match="wrong mapping"):
        file.check_template(None, {"0": "bad", "1": "great"})
    with pytest.raises(ValueError, match="made with none"):
        some_file(template=None).check_template("*mask*", None)


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "task.delta.safetensors"
    some_file().save(path)
    raw = path.read_bytes()
    for place in range(0, len(raw), 61):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            DeltaFile.load(path)
    path.write_bytes(raw[:-1])
    with pytest.raises(ValueError, match="truncated"):
        DeltaFile.load(path)


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "task.delta.safetensors"
    some_file().save(path)
    with pytest.raises(ValueError, match="not a DSEE file"):
        DseeFile.load(path)
    with pytest.raises(FileNotFoundError, match="no delta file"):
        DeltaFile.load(tmp_path / "none")
