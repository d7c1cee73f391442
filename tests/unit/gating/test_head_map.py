"""Names of heads and their flat numbers."""

from __future__ import annotations

import pytest
import torch

from dsp_plugin.gating import AttentionBlock, HeadMap
from dsp_plugin.gating.head_map import in_order

# head counts differ, and one block has none: h = 2, 0, 3
BLOCKS = [
    AttentionBlock("encoder.0", 2, "encoder-self"),
    AttentionBlock("decoder.0.cross", 0, "decoder-cross"),
    AttentionBlock("decoder.0.self", 3, "decoder-self"),
]
FLAT = [
    ("encoder.0", 0),
    ("encoder.0", 1),
    ("decoder.0.self", 0),
    ("decoder.0.self", 1),
    ("decoder.0.self", 2),
]


@pytest.fixture
def heads() -> HeadMap:
    return HeadMap(BLOCKS)


def test_the_numbering_follows_the_blocks(heads):
    assert heads.num_heads == 5
    assert [heads.index(name, head) for name, head in FLAT] == list(range(5))
    assert [heads.range(block.name) for block in BLOCKS] == [(0, 2), (2, 2), (2, 5)]


def test_what_has_a_kind_is_sorted_by_it_and_else_stays_as_it_comes():
    kinds = {"b": "decoder-self", "a": "decoder-self", "d": "encoder-self", "c": "decoder-cross"}
    assert in_order(kinds, kinds.__getitem__) == ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    "name, head", [("encoder.0", 2), ("encoder.0", -1), ("decoder.0.cross", 0), ("nowhere", 0)]
)
def test_a_head_that_does_not_exist(heads, name, head):
    with pytest.raises(KeyError):
        heads.index(name, head)


def test_split_cuts_the_last_dimension_into_views(heads):
    values = torch.arange(10.0).view(2, 5)
    parts = heads.split(values)
    assert [tuple(part.shape) for part in parts] == [(2, 2), (2, 0), (2, 3)]
    assert torch.equal(torch.cat(parts, dim=-1), values)
    parts[2][1, 0] = -1.0
    assert values[1, 2] == -1.0


@pytest.mark.parametrize("size", [0, 4, 6])
def test_split_refuses_another_number_of_values(heads, size):
    with pytest.raises(ValueError, match=f"expected 5 values.*got {size}"):
        heads.split(torch.zeros(size))


@pytest.mark.parametrize("as_type", [list, torch.tensor])
def test_kept_by_block(heads, as_type):
    keep = as_type([False, True, True, False, True])
    assert heads.kept_by_block(keep) == {"encoder.0": [1], "decoder.0.cross": [], "decoder.0.self": [0, 2]}


def test_kept_by_block_refuses_another_number_of_flags(heads):
    with pytest.raises(ValueError, match="expected 5 flags"):
        heads.kept_by_block([True] * 4)


def test_maps_are_told_apart(heads):
    assert HeadMap(BLOCKS) == heads and hash(HeadMap(BLOCKS)) == hash(heads)
    maps = [
        HeadMap(BLOCKS),
        HeadMap(BLOCKS[::-1]),
        HeadMap(BLOCKS[:2]),
        HeadMap([*BLOCKS[:2], AttentionBlock("decoder.0.self", 4, "decoder-self")]),
        HeadMap([*BLOCKS[:2], AttentionBlock("decoder.0.self", 3, "encoder-self")]),
    ]
    assert len(set(maps)) == len(maps)


def test_groups_of_neurons_come_last_and_say_their_size():
    blocks = [
        AttentionBlock("encoder.0", 2, "encoder-self"),
        AttentionBlock("encoder.0.fc2", 5, "encoder-ffn", 8),
        AttentionBlock("decoder.0.fc2", 3, "decoder-ffn", 8),
    ]
    assert in_order(blocks[::-1], lambda block: block.kind) == [blocks[0], blocks[1], blocks[2]]
    heads = HeadMap(blocks)
    assert heads.mixed and not HeadMap(blocks[1:]).mixed and not HeadMap(BLOCKS).mixed
    assert heads.to_dict()["blocks"][:2] == [
        {"name": "encoder.0", "num_heads": 2, "kind": "encoder-self"},  # as before there were neurons
        {"name": "encoder.0.fc2", "num_heads": 5, "kind": "encoder-ffn", "neurons": 8},
    ]
    assert repr(heads) == "HeadMap(2 heads and 8 groups of neurons in 3 blocks)"
    assert repr(HeadMap(BLOCKS)) == "HeadMap(5 heads in 3 blocks)"
    assert heads != HeadMap([*blocks[:2], AttentionBlock("decoder.0.fc2", 3, "decoder-ffn", 4)])


def test_two_blocks_of_one_name():
    with pytest.raises(ValueError, match="distinct names"):
        HeadMap([BLOCKS[0], BLOCKS[0]])


def test_a_negative_number_of_heads():
    with pytest.raises(ValueError, match="negative"):
        HeadMap([AttentionBlock("a", -1, "encoder-self")])


def test_a_model_without_attention():
    empty = HeadMap([])
    assert empty.num_heads == 0 and empty.split(torch.zeros(0)) == [] and empty.kept_by_block([]) == {}
