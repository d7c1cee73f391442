"""Registers `diff_translation`."""

from fairseq.tasks import register_task

from ..mt.diffs.translation import DiffTranslationConfig, DiffTranslationTask

register_task("diff_translation", dataclass=DiffTranslationConfig)(DiffTranslationTask)
