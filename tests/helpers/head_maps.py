"""A head map from rows of name, number of heads and kind."""

from __future__ import annotations

from dsp_plugin.gating import AttentionBlock, HeadMap


def head_map(*blocks: tuple[str, int, str]) -> HeadMap:
    return HeadMap([AttentionBlock(*block) for block in blocks])
