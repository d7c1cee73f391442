"""A fairseq checkpoint as a job of pruning to a speed."""

import json
import os
import warnings
from pathlib import Path
from typing import Any, Optional

import torch
from torch import nn

from ....choosing.host import COSTS
from ....choosing.search import Attempt, Worth
from ....choosing.wish import Wish
from ....gating import random_ranking
from ....options.errors import OptionError
from ....options.faults import one_line
from ....records.environment import portable_path
from ....records.files.sealed import write_json
from ....records.files.whole import replacing
from ....records.record import Metric, Record, save_record
from ....reports.pictures.units import units_png
from ...checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ...choosing.choosable import choosable
from ...choosing.host import DEFAULT_SHAPE, cost_settings, fast_model, host_of
from ...choosing.worth import fisher_of, grams_of
from ...heads.importance import MAX_TOKENS, SentenceRanking, batches_of, head_importance, magnitudes
from ...surgery.equality import certificate_of, masked_model, model_of, target_log_probs, text_pairs
from ...surgery.fewer_heads import model_without
from ...training.data_checks import data_fingerprint
from ...training.dictionaries import check_dictionaries
from ...translate.scoring import score_model
from ...translate.translate import translation_task

# of the calibration sentences, those whose activations are looked at to rescale survivors
RESCALED_ON = 512
COMPARED_ON = 16
SEARCH = {"beam": 5, "max_len_a": 1.2, "max_len_b": 10}


class CheckpointJob:
    """A trained translation model of a checkpoint; see `choosing.wish.Job`.

    Args:
        path: of the checkpoint.
        wish: what is asked for.
        calibration: folder of binarised data with a train set.
        score: folder of binarised data with a valid set; None: nothing is scored.
        device: where it is to run.

    Raises:
        OptionError, ValueError, OSError: the checkpoint is none whose units are known, or the data are not
            its own.
    """

    def __init__(
        self, path: str, wish: Wish, calibration: str, score: Optional[str] = None, device: str = "cpu"
    ):
        self.wish, self.path = wish, path
        self.shape = wish.shape or DEFAULT_SHAPE
        if len(self.shape) != 3:
            text = "x".join(map(str, self.shape))
            reason = f"{text}: of a checkpoint three numbers, sentences, tokens and beam"
            raise OptionError("shape", reason)
        self.state = load_checkpoint(path)
        self.units = choosable(self.state, wish.neurons, wish.heads)
        self.task = self._task("calibration", calibration, "train")
        self.scored = None if score is None else self._task("score", score, "valid")
        self.host = host_of(self.units, self.task, self.shape, device, wish.clock)
        self.name = portable_path(path)
        self.settings = cost_settings(self.host, wish.cost, self.shape)
        self.data = "" if score is None else data_fingerprint(score)
        self.main_metric = "" if score is None else "BLEU"

    def worth(self) -> Worth:
        wish, head_map = self.wish, self.units.head_map
        dataset = self.task.dataset("train")
        everything = torch.ones(self.units.source.head_map.num_heads, dtype=torch.bool)
        model = model_without(self.units.source, everything, self.task).float().to(self.host.device)
        batches = batches_of(dataset, self.task, self._ranking(wish.examples))
        few = batches_of(dataset, self.task, self._ranking(min(RESCALED_ON, wish.examples)))
        grams = grams_of(model, head_map, dataset, few)
        if wish.score_by == "fisher":
            found = fisher_of(model, head_map, self.units.places, dataset, batches)
            return Worth(found.value(), found.blocks(), grams)
        if wish.score_by == "importance":
            scores = head_importance(model, dataset, batches, log_format="none").value()
        elif wish.score_by == "magnitude":
            scores = magnitudes(model)
        else:
            scores = random_ranking(len(everything), wish.seed).double()
        return Worth(scores[self.units.places], None, grams)

    def score(self, model: nn.Module) -> list[Metric]:
        if self.scored is None:
            return []
        words = self.scored.target_dictionary
        found = score_model(model, self.scored, "valid", joined(words.symbols), **SEARCH)
        return [Metric("BLEU", found["value"], signature=found["signature"], subset="valid")]

    def checked(self, attempt: Attempt) -> nn.Module:
        """Return the model of an attempt, compared with the masked checkpoint token by token."""
        scaled = self.units.scaled(attempt.keep, attempt.factors)
        keep = self.units.whole_mask(attempt.keep)
        pruned = self.units.without(attempt.keep, attempt.factors)
        pairs = text_pairs(self.task.dataset("train"), COMPARED_ON)
        models = masked_model(scaled, keep, self.task), model_of(pruned.state, self.task)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about the masks that stock fairseq gives it
            scores = [target_log_probs(model, self.task, pairs) for model in models]
        certificate_of(*scores, "train").require("the pruned checkpoint")
        return fast_model(
            self.units, attempt.keep, attempt.factors, self.task, self.shape[2], self.host.device
        )

    def counts(self, model: nn.Module) -> dict[str, float]:
        return {name: self.host.counts[name](model) for name in COSTS if name in self.host.counts}

    def write(self, attempt: Attempt, model: nn.Module, out: str, record: Record) -> None:
        """Write the checkpoint, and beside it OUT.results.json, OUT.mask.json and OUT.units.png."""
        head_map = self.units.source.head_map.to_dict()
        keep = self.units.whole_mask(attempt.keep).tolist()
        stem = str(Path(out).with_suffix(""))
        with replacing(out) as file:
            save_checkpoint(self.units.without(attempt.keep, attempt.factors).state, str(file))
            # first what stands beside it: there is no checkpoint without them
            save_record(record, f"{stem}.results.json")
            write_json(f"{stem}.mask.json", json.dumps({**head_map, "keep": keep}) + "\n")
            units_png(head_map, keep, f"{stem}.units.png", f"{self.name}: units kept")

    def _ranking(self, examples: int) -> SentenceRanking:
        return SentenceRanking(samples=examples, seed=self.wish.seed, max_tokens=MAX_TOKENS)

    def _task(self, option: str, data: str, subset: str) -> Any:
        """Load the task of a data folder, and one of its sets."""
        trained = self.units.source.cfg.get("task") or {}
        try:
            if not os.path.isdir(data.split(os.pathsep)[0]):
                raise ValueError("a folder of binarised data belongs there")
            task = translation_task(data, None, trained.get("source_lang"), trained.get("target_lang"))
            task.load_dataset(subset)
            check_dictionaries(self.state.get("task_state"), task, self.path)
            sides = {"encoder": task.source_dictionary, "decoder": task.target_dictionary}
            for side, words in sides.items():
                rows = self.units.source.tensors[f"{side}.embed_tokens.weight"].shape[0]
                if rows != len(words):
                    found = f"{len(words)} words, and the checkpoint's {side} {rows}"
                    raise ValueError(f"its dictionary has {found}: it is of other data")
        except Exception as error:  # fairseq raises bare ones, too
            line = one_line(error) if type(error) is not Exception else str(error)
            raise OptionError(option, f"{data}: {line}") from error
        return task


def joined(symbols: list[str]) -> Optional[str]:
    """Return how subwords of a dictionary are joined, as fairseq's --post-process; None for whole words."""
    if any(word.endswith("@@") for word in symbols):
        return "subword_nmt"
    return "sentencepiece" if any(word.startswith("\u2581") for word in symbols) else None
