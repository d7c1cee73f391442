"""The translations of a `fairseq-generate` that runs in this process, taken from memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fairseq import utils
from torch import Tensor, nn

from ..training.coverage import Coverage


@dataclass
class Hypotheses:
    """What a generation loads, and the best hypothesis that its search finds for every sentence.

    Attributes:
        models: the ensemble, as it translates.
        task: the task with the data sets.
        best: number of a sentence within its set -> tokens [T] of its best hypothesis, with the end mark, and
            their alignment to the source.
        targets: number -> tokens [T] of its reference, padded; empty where the set has no references.
    """

    models: list[nn.Module] = field(default_factory=list)
    task: Any = None
    best: dict[int, tuple[Tensor, Any]] = field(default_factory=dict)
    targets: dict[int, Tensor] = field(default_factory=dict)
    _generator: Any = None

    def watch(self, models: list[nn.Module], task: Any) -> None:
        """Collect from now on what this task translates by its `inference_step`."""
        self.models, self.task = models, task
        stock = task.inference_step

        def inference_step(generator: Any, models: Any, sample: dict[str, Any], *args: Any, **kwargs: Any):
            found = stock(generator, models, sample, *args, **kwargs)
            self._generator = generator
            for row, number in enumerate(sample["id"].tolist()):
                self.best[number] = found[row][0]["tokens"], found[row][0]["alignment"]
                if sample["target"] is not None:
                    self.targets[number] = sample["target"][row]
            return found

        task.inference_step = inference_step

    def numbers(self) -> list[int]:
        """Return the numbers of the translated sentences, in the order of the set."""
        return sorted(self.best)

    def coverage(self, subset: str) -> Coverage:
        """Return how many sentences of the set have a translation."""
        return Coverage(len(self.best), len(self.task.dataset(subset)))

    def texts(self, cfg: Any) -> tuple[list[str], list[str]]:
        """Return translations and references in the order of the set, as the lines D- and T- of the log.

        Subwords are joined by --post-process, then --bpe and --tokenizer undo their work, as fairseq does it.

        Args:
            cfg: the configuration of the generation.

        Returns:
            The references are an empty list where the set has none.
        """
        from fairseq_cli.generate import get_symbols_to_strip_from_output

        words, joined = self.task.target_dictionary, cfg.common_eval.post_process
        dataset = self.task.dataset(cfg.dataset.gen_subset)
        ignored = get_symbols_to_strip_from_output(self._generator) if self.best else set()
        replacements = utils.load_align_dict(cfg.generation.replace_unk)  # for raw data alone
        decoders = [self.task.build_bpe(cfg.bpe), self.task.build_tokenizer(cfg.tokenizer)]

        def decoded(text: str) -> str:
            for decoder in decoders:
                text = text if decoder is None else decoder.decode(text)
            return text

        def hypothesis(number: int) -> str:
            tokens, alignment = self.best[number]
            text = words.string(tokens.int().cpu(), joined, extra_symbols_to_ignore=ignored)
            if replacements is not None:
                source = decoded(dataset.src.get_original_text(number))
                text = utils.replace_unk(text, source, alignment, replacements, words.unk_string())
            return decoded(text)

        def reference(number: int) -> str:
            if replacements is not None:
                return decoded(dataset.tgt.get_original_text(number))
            tokens = utils.strip_pad(self.targets[number], words.pad()).int().cpu()
            return decoded(words.string(tokens, joined, escape_unk=True, extra_symbols_to_ignore=ignored))

        order = self.numbers()
        return list(map(hypothesis, order)), list(map(reference, order)) if self.targets else []
