"""Registers `delta_translation`."""

from fairseq.tasks import register_task

from ..mt.delta.translation import DeltaTranslationConfig, DeltaTranslationTask

register_task("delta_translation", dataclass=DeltaTranslationConfig)(DeltaTranslationTask)
