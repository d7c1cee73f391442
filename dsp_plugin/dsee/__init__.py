"""DSEE: an update of low rank plus a few entries on top of pruned weights. Pure torch and safetensors."""

from .supports import find_support

__all__ = ["find_support"]
