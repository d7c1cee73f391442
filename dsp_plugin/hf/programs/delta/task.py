"""A GLUE task for Delta-Tuning's program: by prompts or by a task head, few-shot or in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedConfig

from ....delta.label_words import parse_mapping
from ....delta.task_templates import MAPPINGS, template_of
from ....delta.templates import Template
from ....options.errors import OptionError
from ...data.glue_files import Example
from ...delta.encoding import PromptEncoder, filler_of, label_word_ids
from ...delta.prompt_data import (
    DemonstrationDataset,
    PromptCollator,
    PromptDataset,
    WithPrompt,
    class_of,
    label_word_answers,
    label_word_metrics,
)
from ..chassis.glue_task import GlueTask
from ..chassis.parsing import say
from .arguments import PromptArguments
from .splits import with_labelled_tests

_OF_PROMPTS = ("template", "mapping", "first_sent_limit", "other_sent_limit")
_SCORES = ("0", "1")  # what STS-B's two label words are called in a mapping


class DeltaTask(GlueTask):
    """One GLUE task.

    Attributes:
        prompted: whether label words answer, and not a task head.
        template: as it was read; None without prompts. mapping: label -> word.
        soft_prompt: whether the prompt's vectors are there; without them their place in the template is none.
        words: tokens of the label words, once `prepare` was called.

    Raises:
        OptionError: no such task, template or mapping.
    """

    def __init__(self, options: PromptArguments, cache_dir: str | None = None):
        super().__init__(options, cache_dir)
        self.options: PromptArguments = options
        self.definition = with_labelled_tests(self.definition, options.data_dir)
        self.prompted = options.few_shot_type != "finetune"
        self.model_class = AutoModelForMaskedLM if self.prompted else AutoModelForSequenceClassification
        self.shown = (len(self.labels) or 2) if options.few_shot_type == "prompt-demo" else 0
        self.soft_prompt, self.seed, self.words, self.segments = False, 0, [], 2
        self._trains = False
        self.template: Template | None = None
        self.mapping: dict[str, str] | None = None
        if self.prompted:
            self._read_template()
        elif unused := [name for name in _OF_PROMPTS if getattr(options, name) is not None]:
            say(f"--few_shot_type finetune has no template: --{', --'.join(unused)} does nothing")

    def _read_template(self) -> None:
        options, sentences = self.options, 1 + self.pair
        source = options.template or template_of(self.name, options.hard == "Y")
        if source is None:
            raise OptionError("template", f"is missing: {self.name} has none of its own")
        template = Template.parse(source)
        labels = self.labels or _SCORES
        self.mapping = parse_mapping(options.mapping or repr(MAPPINGS.get(self.name, "")), labels)
        template.check_task(sentences, len(labels), self.shown)
        self.template = template

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Look up what the loaded model and its tokenizer have of the label words.

        Raises:
            OptionError: see `label_word_ids`.
        """
        self.segments = getattr(model.config, "type_vocab_size", 0) or 1
        if self.prompted:
            self.words = label_word_ids(tokenizer, self.mapping)
            self._encoder(tokenizer)

    @property
    def used_template(self) -> Template:
        """The template as this run has it: without the soft prompt's place where there is none."""
        template = self.template if self.soft_prompt else self.template.without_prompt()
        return template.with_demonstrations(self.shown, 1 + self.pair) if self.shown else template

    @property
    def draws(self) -> int:
        """Rows of a scored example."""
        return self.options.num_sample if self.shown else 1

    def config_entries(self) -> dict[str, Any]:
        return {} if self.prompted else super().config_entries()

    def adopt(self, config: PreTrainedConfig) -> None:
        if not self.prompted:
            super().adopt(config)

    def read(self, train: bool, dev: bool, test: bool) -> None:
        super().read(train or bool(self.shown), dev, test)
        if train and self.options.num_k is not None:
            self._check_k(self._examples["train"])
        self._trains = train

    def _check_k(self, examples: list[Example]) -> None:
        """Hold the number of examples a class against --num_k; full data are said to be that."""
        k = self.options.num_k
        names = self.labels or ("scores below 2.5", "scores from 2.5")
        counts = Counter(names[class_of(self.definition, example)] for example in examples)
        if all(counts[name] == k for name in names) or self.options.max_train_samples:
            return
        told = ", ".join(f"{counts[name]:,} of {name}" for name in names)
        if not self.labelled_tests:
            say(f"--num_k {k}: {self.options.data_dir or 'the data set'} is no few-shot folder: {told}")
            return
        raise OptionError("num_k", f"{k}: train.tsv has {told}")

    def tokenise(self, tokenizer: Any) -> None:
        if not self.prompted:
            self._tokenise_texts(tokenizer)
            return
        pool = self._examples.get("train", [])
        for split, examples in self._examples.items():
            encoder = self._encoder(tokenizer)
            data: Any
            if self.shown:
                of_train = split == "train"
                draws = 1 if of_train else self.draws
                data = DemonstrationDataset(
                    examples, encoder, self.definition, pool, self.seed, draws, of_train
                )
                data.largest("input_ids")
            else:
                data = PromptDataset(examples, encoder)
            for words in encoder.cuts.words(self.options.max_seq_length):
                say(f"{split}{', one draw of each' if self.shown else ''}: {words}")
            if split != "train":
                (self.dev if self.definition.split(split).is_labelled else self.test)[split] = data
            elif self._trains:
                self.train = data
        self._examples = {}
        self.collate = self._collator(tokenizer)

    def _encoder(self, tokenizer: Any) -> PromptEncoder:
        options = self.options
        return PromptEncoder(
            tokenizer,
            self.used_template,
            self.words,
            options.max_seq_length,
            1 + self.pair,
            self.shown,
            options.prompt_num,
            options.first_sent_limit,
            options.other_sent_limit,
            self.segments,
        )

    def _tokenise_texts(self, tokenizer: Any) -> None:
        """Tokenise for a task head; a soft prompt stands behind the first token."""
        if not self.soft_prompt:
            super().tokenise(tokenizer)
            return
        given, count = self.options, self.options.prompt_num
        if given.max_seq_length - count < 8:
            reason = f"{given.max_seq_length}: the soft prompt alone has {{}} {count}"
            raise OptionError("max_seq_length", reason, "prompt_num")
        self.options = replace(given, max_seq_length=given.max_seq_length - count)
        super().tokenise(tokenizer)
        self.options = given
        filler = filler_of(tokenizer)
        self.train = None if self.train is None else WithPrompt(self.train, count, filler)
        for sets in (self.dev, self.test):
            sets |= {split: WithPrompt(data, count, filler) for split, data in sets.items()}
        self.collate = self._collator(tokenizer)

    def _collator(self, tokenizer: Any) -> PromptCollator:
        length = self.options.max_seq_length if self.options.pad_to_max_length else None
        return PromptCollator(tokenizer.pad_token_id or 0, length)

    def compute_metrics(self, split: str) -> Callable[[Any], dict[str, float]]:
        if not self.prompted:
            return super().compute_metrics(split)
        return label_word_metrics(self.definition, self.draws)

    def answers(self, predictions: Any) -> Sequence:
        if not self.prompted:
            return super().answers(predictions)
        return label_word_answers(self.definition, predictions, self.draws)

    def truth(self, split: str) -> list[float]:
        data = self.dev[split]
        if isinstance(data, DemonstrationDataset):  # each example has several rows
            return [example.label for example in data.examples]
        return super().truth(split)

    def settings(self) -> dict[str, Any]:
        names = ("few_shot_type", "first_sent_limit", "other_sent_limit", "num_k")
        found = {**super().settings(), **{name: getattr(self.options, name) for name in names}}
        if self.prompted:
            found |= {"template": self.used_template.source, "mapping": self.mapping}
        if self.shown:
            found["num_sample"] = self.options.num_sample
        return found
