"""Registers `michel_translation`."""

from fairseq.tasks import register_task

from ..mt.heads.methods.michel import MichelTranslationConfig, MichelTranslationTask

register_task("michel_translation", dataclass=MichelTranslationConfig)(MichelTranslationTask)
