"""What vectors' files hold is checked, too, where the checksum fits: any program can compute one."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest
import torch
from diff_packs import SmallModel, deep
from safetensors import safe_open
from safetensors.torch import save_file

from dsp_plugin.artefacts.checksum import seal
from dsp_plugin.diffs.training.vector import DiffVector
from dsp_plugin.diffs.training.vector_file import read_vector, save_vector

NAN = float("nan")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A vector's file."""
    path = tmp_path_factory.mktemp("vector") / "vector.safetensors"
    vector = DiffVector(SmallModel(), task_head=["classifier.weight", "classifier.bias"], grouping="tensor")
    save_vector(path, vector, {"task": "cola"})
    vector.detach()
    return path


class TestVectors:
    @pytest.mark.parametrize(
        "entry, value, reason",
        [
            ("names", "abc", "list of different names"),
            ("names", ["a", "a"], "list of different names"),
            ("names", ["a\x1b[2J"], "no name"),
            ("names", [3], "no name"),
            ("steps", -1, "whole"),
            ("steps", 0.5, "whole"),
            ("seed", "x", "another kind"),
            ("seed", 2**70, "another kind"),
            ("base", 3, "another kind"),
            ("config", [], "another kind"),
            ("config", {"a": deep(200)}, "too deeply"),
            ("concrete", [NAN, 2], "concrete_lower"),
            ("concrete", [-1], "stretched"),
            ("concrete", ["a", "b"], "stretched"),
            ("format", "x", "format"),
        ],
    )
    def test_headers_that_make_no_sense(self, whole, tmp_path, entry, value, reason):
        with pytest.raises(ValueError, match=reason):
            read_vector(self.rewritten(whole, tmp_path / "v", {entry: value}))

    @pytest.mark.parametrize("name", ["w", "alpha", "group_alpha", "head.classifier.bias"])
    @pytest.mark.parametrize("how", [lambda t: t * NAN, lambda t: t.int()])
    def test_numbers_that_make_no_sense(self, whole, tmp_path, name, how):
        with pytest.raises(ValueError, match=f"not finite: {name.removeprefix('head.')}"):
            read_vector(self.rewritten(whole, tmp_path / "v", change={name: how}))

    def test_lengths_that_do_not_fit(self, whole, tmp_path):
        with pytest.raises(ValueError, match="not of one length"):
            read_vector(self.rewritten(whole, tmp_path / "v", change={"alpha": lambda t: t[:-1]}))

    def test_a_file_from_before_checksums_loads_with_a_warning(self, whole, tmp_path):
        with pytest.warns(UserWarning, match="before these files had a checksum"):
            again = read_vector(self.rewritten(whole, tmp_path / "v", {"checksum": None, "grouping": None}))
        assert torch.equal(again.flat["w"], read_vector(whole).flat["w"])

    def rewritten(self, whole, path, entries=MappingProxyType({}), change=MappingProxyType({})):
        """The file with other content and a checksum that fits. `entries`: None takes one out."""
        with safe_open(whole, "pt") as file:
            told = json.loads(file.metadata()["dsp_diff_vector"])
            content = {name: file.get_tensor(name) for name in file.keys()}
        told = {
            name: value
            for name, value in {**told, "checksum": "0" * 64, **entries}.items()
            if value is not None
        }
        content.update({name: how(content[name]).contiguous() for name, how in change.items()})
        save_file(content, path, {"dsp_diff_vector": json.dumps(told)})
        if "checksum" in told:
            seal(path)
        return path
