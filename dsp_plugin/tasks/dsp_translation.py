"""Registers `dsp_translation`."""

from fairseq.tasks import register_task

from ..mt.heads.methods.dsp import DSPTranslationConfig, DSPTranslationTask

register_task("dsp_translation", dataclass=DSPTranslationConfig)(DSPTranslationTask)
