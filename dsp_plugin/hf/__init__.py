"""Transformers shell: gates, head removal, and files, for any model behind the attention interface."""

from .patches import hide_broken_torchaudio  # isort: skip

hide_broken_torchaudio()  # first: it decides whether Transformers can be imported

from .export.onnx_export import export_onnx
from .folders.pruned_folders import export_dense, load_pruned, save_pruned
from .heads.gating import gate_heads, load_gating, switchboard_of, ungate_heads
from .heads.surgery.kept_heads import record_of
from .heads.surgery.pruning import (
    Removal,
    check_pruned,
    check_surgery,
    count_parameters,
    fill_heads,
    original_head_map,
    prune_heads,
)
from .heads.units import head_map_of
from .probes.comparison import Certificate, compare, random_batches, write_certificate

__all__ = [
    "Certificate",
    "Removal",
    "check_pruned",
    "check_surgery",
    "compare",
    "count_parameters",
    "export_dense",
    "export_onnx",
    "fill_heads",
    "gate_heads",
    "head_map_of",
    "load_gating",
    "load_pruned",
    "original_head_map",
    "prune_heads",
    "random_batches",
    "record_of",
    "save_pruned",
    "switchboard_of",
    "ungate_heads",
    "write_certificate",
]
