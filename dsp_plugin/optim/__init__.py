"""fairseq optimizers."""

from .diff_adam import DiffAdam, DiffAdamConfig, FixMaskAdam, FixMaskAdamConfig
from .dsp_adam import DSPAdam, DSPAdamConfig

__all__ = ["DSPAdam", "DSPAdamConfig", "DiffAdam", "DiffAdamConfig", "FixMaskAdam", "FixMaskAdamConfig"]
