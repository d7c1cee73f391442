"""Registers `dsee_translation`."""

from fairseq.tasks import register_task

from ..mt.dsee.translation import DseeTranslationConfig, DseeTranslationTask

register_task("dsee_translation", dataclass=DseeTranslationConfig)(DseeTranslationTask)
