"""The terminal's head map exactly; the PNGs by their pixels."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest
import torch

from dsp_plugin.reports.pictures.bars import comparison_png
from dsp_plugin.reports.pictures.heads import head_map_png, head_map_text

HEAD_MAP = {
    "blocks": [
        {"name": "encoder.layers.0.self_attn", "num_heads": 4, "kind": "encoder-self"},
        {"name": "encoder.layers.10.self_attn", "num_heads": 2, "kind": "encoder-self"},
        {"name": "decoder.layers.0.encoder_attn", "num_heads": 4, "kind": "decoder-cross"},
        {"name": "decoder.layers.0.self_attn", "num_heads": 0, "kind": "decoder-self"},
    ]
}
MASK = [True, False, False, True, False, True, False, False, False, False]


def test_text_map():
    assert head_map_text(HEAD_MAP, torch.tensor(MASK), ascii_only=False).splitlines() == [
        "3 of 10 heads kept (■ kept, · removed)",
        "encoder-self: 3 of 6",
        "  layer  0  ■ · · ■  2/4",
        "  layer 10  · ■      1/2",
        "decoder-cross: 0 of 4",
        "  layer  0  · · · ·  0/4",
        "decoder-self: 0 of 0",
        "  layer  0  (no heads)  0/0",
    ]


@pytest.mark.parametrize("encoding, square", [("utf-8", "■"), ("ascii", "#"), ("latin-1", "#")])
def test_text_map_in_the_encoding_of_stdout(monkeypatch, encoding, square):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    text = head_map_text(HEAD_MAP, MASK)
    assert text.count(square) == 3 + 1  # one in the legend
    text.encode(encoding)


def test_a_mask_of_integers_is_a_mask_and_wrong_ones_are_refused(tmp_path):
    assert head_map_text(HEAD_MAP, [int(flag) for flag in MASK]) == head_map_text(HEAD_MAP, MASK)
    with pytest.raises(ValueError, match="9"):
        head_map_text(HEAD_MAP, MASK[:9])
    with pytest.raises(ValueError, match="booleans"):
        head_map_text(HEAD_MAP, torch.full((10,), 0.5))
    with pytest.raises(ValueError, match="booleans"):
        head_map_png(HEAD_MAP, [2] * 10, tmp_path / "x.png")
    with pytest.raises(ValueError, match="finite"):
        head_map_png(HEAD_MAP, [float("nan")] * 10, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no head"):
        head_map_png({"blocks": []}, [], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_png_has_one_blue_square_a_kept_head(tmp_path):
    blue = np.array([0x00, 0x72, 0xB2]) / 255

    def blue_pixels(mask) -> int:
        head_map_png(HEAD_MAP, mask, tmp_path / "heads.png", "title")
        image = matplotlib.image.imread(tmp_path / "heads.png")[..., :3]
        return int((np.abs(image - blue).max(-1) < 0.02).sum())

    none, three, six = blue_pixels([False] * 10), blue_pixels(MASK), blue_pixels([True] * 6 + [False] * 4)
    # the legend's square is always there; each head adds as much as any other
    assert 0 < none < three
    assert (six - none) / (three - none) == pytest.approx(2, rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.png"]


def test_png_of_scores_and_bars(tmp_path):
    head_map_png(HEAD_MAP, torch.randn(10, requires_grad=True), tmp_path / "scores.png")
    comparison_png(
        ["unpruned", "dsp"], {"BLEU": [30.0, None], "speed (1/s)": [10, 20]}, tmp_path / "bars.png", "t"
    )
    for name in ("scores.png", "bars.png"):
        assert matplotlib.image.imread(tmp_path / name).std() > 0.01
    with pytest.raises(ValueError, match="BLEU has 1 numbers for 2 runs"):
        comparison_png(["a", "b"], {"BLEU": [1.0]}, tmp_path / "x.png")
    with pytest.raises(ValueError, match=">= 0"):
        comparison_png(["a"], {"BLEU": [-1.0]}, tmp_path / "x.png")
