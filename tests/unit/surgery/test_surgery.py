"""Slicing against an attention block written out by hand, in float64; the record of what was kept.

C = 12 width, H = 4 heads of size d = 3.
"""

from __future__ import annotations

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import HeadMap
from dsp_plugin.surgery import (
    Projections,
    check_record,
    compose,
    fill_block,
    head_rows,
    mask_of_record,
    slice_block,
)

C, H, D = 12, 4, 3
KEPT = [[], [2], [0, 3], [1, 2], [0, 1, 2, 3]]


def block(source: int = C) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q_proj": (C, C), "k_proj": (C, source), "v_proj": (C, source), "out_proj": (C, C)}
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(*shape, dtype=torch.float64, generator=generator)
        tensors[f"{name}.bias"] = torch.randn(C, dtype=torch.float64, generator=generator)
    return tensors


def attention(tensors: dict[str, torch.Tensor], gates: list[float]) -> torch.Tensor:
    """Output [T, C] of the block: one head at a time, its context times its gate, the bias at the end."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, C, dtype=torch.float64, generator=generator)
    output = tensors["out_proj.bias"].expand(5, C).clone()
    for head, gate in enumerate(gates):
        rows = slice(head * D, head * D + D)
        q, k, v = (x @ tensors[f"{n}_proj.weight"][rows].T + tensors[f"{n}_proj.bias"][rows] for n in "qkv")
        weights = torch.softmax(q @ k.T / D**0.5, dim=-1)
        output += gate * (weights @ v) @ tensors["out_proj.weight"][:, rows].T
    return output


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items() if name != "out_proj.bias"}


def test_rows_of_heads():
    assert head_rows([0, 2], 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert head_rows([], 3).tolist() == []


@pytest.mark.parametrize("kept", KEPT)
def test_a_sliced_block_computes_what_the_masked_one_does(kept):
    tensors = block()
    gates = [float(head in kept) for head in range(H)]
    sliced = slice_block(tensors, kept, D)
    torch.testing.assert_close(
        attention(sliced, [1.0] * len(kept)), attention(tensors, gates), rtol=0, atol=1e-12
    )
    assert sum(t.numel() for t in sliced.values()) == C + len(kept) * (4 * C * D + 3 * D)


def test_without_heads_only_the_output_bias_is_left():
    tensors = block()
    assert list(slice_block(tensors, [], D)) == ["out_proj.bias"]
    torch.testing.assert_close(
        slice_block(tensors, [], D)["out_proj.bias"], tensors["out_proj.bias"], rtol=0, atol=0
    )


@pytest.mark.parametrize("kept", KEPT)
def test_filling_puts_heads_back_in_their_places(kept):
    tensors = block(source=7)
    dense = fill_block(slice_block(tensors, kept, D), kept, D, shapes_of(tensors))
    for head in range(H):
        rows = slice(head * D, head * D + D)
        for name, tensor in dense.items():
            if name == "out_proj.bias":
                assert torch.equal(tensor, tensors[name])
                continue
            part, old = (
                t[:, rows] if name == "out_proj.weight" else t[rows] for t in (tensor, tensors[name])
            )
            assert torch.equal(part, old if head in kept else torch.zeros_like(old)), (name, head)
    assert torch.equal(dense["k_proj.weight"].count_nonzero(), torch.tensor(len(kept) * D * 7))


def test_other_names_and_no_biases():
    tensors = {
        "query.weight": torch.ones(6, 4),
        "dense.weight": torch.ones(4, 6),
        "norm.weight": torch.ones(4),
    }
    sliced = slice_block(tensors, [1], 2, Projections(inputs=("query",), output="dense"))
    assert {name: list(t.shape) for name, t in sliced.items()} == {
        "query.weight": [2, 4],
        "dense.weight": [4, 2],
        "norm.weight": [4],
    }


def test_the_cut_tensors_do_not_hold_on_to_the_old_storage():
    weight = slice_block(block(), [1], D)["q_proj.weight"]
    assert weight.untyped_storage().nbytes() == weight.numel() * 8


@pytest.mark.parametrize("kept", [[4], [-1], [1, 1], [2, 0]])
def test_heads_that_are_not_there(kept):
    with pytest.raises(ValueError, match="ascending order, of 0..3"):
        slice_block(block(), kept, D)


def test_tensors_that_do_not_belong_together():
    with pytest.raises(ValueError, match="not the projections of one block"):
        slice_block({**block(), "v_proj.weight": torch.ones(9, C)}, [0], D)
    with pytest.raises(ValueError, match="not the projections of one block"):
        slice_block(block(), [0], 5)
    with pytest.raises(ValueError, match=r"q_proj.weight must be \[6, 12\] to hold 2 heads, it is \[3, 12\]"):
        fill_block(slice_block(block(), [1], D), [0, 1], D, shapes_of(block()))
    with pytest.raises(ValueError, match="missing"):
        fill_block(slice_block(block(), [], D), [0, 1], D, shapes_of(block()))


def uneven(a: int, b: int) -> HeadMap:
    return head_map(("encoder.a", a, "encoder-self"), ("decoder.b", b, "decoder-self"))


def test_records_compose_in_the_numbers_of_the_original_model():
    original = uneven(4, 3)
    first = compose(original, [True, False, True, True, False, True, True])
    assert first == {"encoder.a": [0, 2, 3], "decoder.b": [1, 2]}
    # what is left is numbered afresh: 0, 1, 2 of block a are the heads 0, 2, 3 of the original
    second = compose(uneven(3, 2), [False, True, True, False, True], first)
    assert second == {"encoder.a": [2, 3], "decoder.b": [2]}
    third = compose(uneven(2, 1), [False, True, False], second)
    assert third == {"encoder.a": [3], "decoder.b": []}
    assert mask_of_record(third, original).tolist() == [False, False, False, True, False, False, False]
    assert mask_of_record(first, original).tolist() == [True, False, True, True, False, True, True]
    assert compose(uneven(1, 0), [True], third) == third


def test_a_record_of_another_model():
    with pytest.raises(ValueError, match="does not belong"):
        compose(uneven(3, 2), [True] * 5, {"encoder.a": [0, 2], "decoder.b": [1, 2]})
    with pytest.raises(ValueError, match="expected 5 flags"):
        compose(uneven(3, 2), [True] * 4)


@pytest.mark.parametrize(
    "record, named",
    [
        ({"encoder.a": [0]}, "decoder.b"),
        ({"encoder.a": [0], "decoder.b": [], "decoder.c": []}, "decoder.c"),
        ({"encoder.a": [0, 4], "decoder.b": []}, "encoder.a"),
        ({"encoder.a": [1, 0], "decoder.b": []}, "encoder.a"),
        ({"encoder.a": [1, 1], "decoder.b": []}, "encoder.a"),
        ({"encoder.a": [True], "decoder.b": []}, "encoder.a"),
        ({"encoder.a": 3, "decoder.b": []}, "encoder.a"),
        ([], "list"),
    ],
)
def test_damaged_records(record, named):
    with pytest.raises(ValueError, match=named):
        check_record(record, uneven(4, 3))
