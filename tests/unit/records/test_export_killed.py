"""`dsp export` of a checkpoint that is killed on its way: there is no export without its certificate."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fairseq")

import tiny_models as tiny
from killed_everywhere import killed_everywhere

from dsp_plugin.cli.main import main
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.surgery.pruning import prune_state
from dsp_plugin.records.certificate import read_certificate


@pytest.mark.parametrize("earlier", [False, True])
def test_an_export_has_its_certificate_wherever_it_is_killed(earlier, tmp_path):
    source, out = tmp_path / "checkpoint.pt", tmp_path / "out.pt"
    state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    save_checkpoint(prune_state(state, mask=[True] * tiny.N).state, str(source))
    masks = {kept: tmp_path / f"{kept}.json" for kept in (3, 8)}
    for kept, path in masks.items():
        path.write_text(json.dumps([head < kept for head in range(tiny.N)]))
    if earlier:
        assert main(["export", str(source), "--mask", str(masks[3]), "--out", str(out)]) == 0
    before, kills = out.read_bytes() if earlier else None, 0
    for _ in killed_everywhere(
        lambda: main(["export", str(source), "--mask", str(masks[8]), "--out", str(out)]), every=2
    ):
        kills += 1
        if out.exists() and out.read_bytes() != before:
            assert read_certificate(out).equal
        elif earlier:  # the old one, beside its own certificate or one that says that it is of another
            load_checkpoint(str(out))
            try:
                assert read_certificate(out).equal
            except ValueError as error:
                assert "not the export that" in str(error)
    assert kills >= 3 and read_certificate(out).equal
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "3.json",
        "8.json",
        "checkpoint.pt",
        "out.pt",
        "out.pt.certificate.json",
    ]
