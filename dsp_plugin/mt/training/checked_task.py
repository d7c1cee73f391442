"""fairseq's translation task that looks at its options and its data before it works with them."""

from __future__ import annotations

from typing import Any

from fairseq import utils
from fairseq.tasks.translation import TranslationTask
from omegaconf import DictConfig

from ...options.errors import OptionError, dashed
from .data_checks import check_languages, check_set, read_dictionary
from .dictionaries import check_dictionaries
from .option_checks import check_options, spelling_options


class CheckedTranslationTask(TranslationTask):
    """Refuses, by name, numbers that mean nothing, languages that the data do not have, and damaged files."""

    @classmethod
    @spelling_options()
    def setup_task(cls, cfg, from_checkpoint=False, **kwargs):
        """Set the task up. What a checkpoint says of its own training is not looked at.

        Raises:
            ValueError, FileNotFoundError: naming the option or the file.
        """
        if not from_checkpoint:
            if isinstance(cfg, DictConfig):
                check_options(cfg._get_root())
            check_languages(cfg.data, cfg.source_lang, cfg.target_lang, cfg.dataset_impl)
        return super().setup_task(cfg, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the task state of a model that is loaded.

        Raises:
            ValueError: the model was trained with other dictionaries.
        """
        check_dictionaries(state_dict, self, "the model")
        super().load_state_dict(state_dict)

    @classmethod
    def load_dictionary(cls, filename):
        return read_dictionary(filename)

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load one set. Errors as `check_set`."""
        if epoch == 1 and self.cfg.dataset_impl in (None, "mmap"):
            whole = self.cfg._get_root() if isinstance(self.cfg, DictConfig) else {}
            dataset = whole.get("dataset") or {}
            names = ("train_subset", "valid_subset", "gen_subset")
            option = next((name for name in names if split in str(dataset.get(name)).split(",")), "")
            folders = utils.split_paths(self.cfg.data)
            for folder in folders if split == self.cfg.train_subset else folders[:1]:
                check_set(
                    folder,
                    split,
                    self.cfg.source_lang,
                    self.cfg.target_lang,
                    (len(self.source_dictionary), len(self.target_dictionary)),
                    both=bool(whole.get("optimizer")),
                    option=option and dashed(option),
                )
        return super().load_dataset(split, epoch, combine, **kwargs)

    @spelling_options()
    def build_generator(self, models, args, *more, **kwargs):
        """Build the search, after a look at whether the shortest sentence may have as many words as it must.

        Raises:
            ValueError: naming --min-len.
        """
        sizes = [
            dataset.src_sizes.min()
            for dataset in self.datasets.values()
            if len(getattr(dataset, "src_sizes", ()))
        ]
        least, a, b = (
            getattr(args, name, default)
            for name, default in (("min_len", 1), ("max_len_a", 0), ("max_len_b", 200))
        )
        if sizes and int(a * min(sizes) + b) < least:
            reason = f"{least}: {{}} and {{}} allow the shortest sentence {int(a * min(sizes) + b)} tokens"
            raise OptionError("min_len", reason, "max_len_a", "max_len_b")
        return super().build_generator(models, args, *more, **kwargs)
