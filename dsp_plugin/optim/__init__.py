"""Registers the fairseq optimizers: `dsp_adam`, `diff_adam`, `fixmask_adam`."""

from fairseq.optim import register_optimizer

from ..mt.diffs.optimizers import DiffAdam, DiffAdamConfig, FixMaskAdam, FixMaskAdamConfig
from ..mt.heads.score_adam import DSPAdam, DSPAdamConfig

register_optimizer("dsp_adam", dataclass=DSPAdamConfig)(DSPAdam)
register_optimizer("diff_adam", dataclass=DiffAdamConfig)(DiffAdam)
register_optimizer("fixmask_adam", dataclass=FixMaskAdamConfig)(FixMaskAdam)
