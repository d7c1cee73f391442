"""Sparse diffs of fairseq models."""
