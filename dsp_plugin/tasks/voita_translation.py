"""Registers `voita_translation`."""

from fairseq.tasks import register_task

from ..mt.heads.methods.voita import VoitaTranslationConfig, VoitaTranslationTask

register_task("voita_translation", dataclass=VoitaTranslationConfig)(VoitaTranslationTask)
