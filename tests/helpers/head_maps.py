"""A head map from rows of name, number of heads and kind (and neurons in a group)."""

from __future__ import annotations

from dsp_plugin.gating import AttentionBlock, HeadMap


def head_map(*blocks: tuple) -> HeadMap:
    return HeadMap([AttentionBlock(*block) for block in blocks])
