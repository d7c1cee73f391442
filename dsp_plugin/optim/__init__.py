"""fairseq optimizers."""

from .dsp_adam import DSPAdam, DSPAdamConfig

__all__ = ["DSPAdam", "DSPAdamConfig"]
