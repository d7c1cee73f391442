"""Taking heads out of attention projections for good, and the record of what was kept. Pure torch."""

from .mask_file import read_mask, units_of_mask
from .record import KeptHeads, check_record, compose, mask_of_record
from .slicing import Projections, fill_block, head_rows, slice_block

__all__ = [
    "KeptHeads",
    "Projections",
    "check_record",
    "compose",
    "fill_block",
    "head_rows",
    "mask_of_record",
    "read_mask",
    "slice_block",
    "units_of_mask",
]
