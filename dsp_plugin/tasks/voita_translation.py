"""`voita_translation`: translation with the gates of Voita et al."""

from dataclasses import dataclass

from fairseq.tasks import register_task

from ..mt.heads.gated_task import GatedTranslationConfig, GatedTranslationTask


@dataclass
class VoitaTranslationConfig(GatedTranslationConfig):
    pass


@register_task("voita_translation", dataclass=VoitaTranslationConfig)
class VoitaTranslationTask(GatedTranslationTask):
    """Translation whose model closes attention heads under an L0 penalty."""
