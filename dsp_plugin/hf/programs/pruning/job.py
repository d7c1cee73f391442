"""A Transformers folder as a job of pruning to a speed."""

from __future__ import annotations

import json
import random
import tempfile

from transformers import PreTrainedModel, Trainer, TrainingArguments

from ....choosing.host import COSTS
from ....choosing.search import Attempt, Worth
from ....choosing.wish import Wish
from ....gating import random_ranking
from ....options.errors import OptionError
from ....records.environment import portable_path
from ....records.files.sealed import write_json
from ....records.files.sealed_folder import holds_model
from ....records.files.whole import new_folder
from ....records.record import Metric, Record, save_record
from ....reports.pictures.units import units_png
from ...folders.pruned_folders import save_pruned
from ...heads.choosing.host import DEFAULT_SHAPE, cost_settings, host_of
from ...heads.choosing.smaller import without_units
from ...heads.choosing.worth import fisher_of, grams_of
from ...heads.importance import magnitudes, measured_importance
from ...trainer.mean_loss import declare_mean_loss
from .tasks import Opened

BATCH = 32
# of the calibration examples, those whose activations are looked at to rescale survivors
RESCALED_ON = 512


class FolderJob:
    """A trained model of a Transformers folder; see `choosing.wish.Job`.

    Args:
        opened: the model, on the CPU, and its data.
        wish: what is asked for.
        device: where it is to run.
        progress: show bars.

    Raises:
        OptionError, ValueError: see `host_of`.
    """

    def __init__(self, opened: Opened, wish: Wish, device: str = "cpu", progress: bool = False):
        self.opened, self.wish, self.progress = opened, wish, progress
        self.shape = wish.shape or DEFAULT_SHAPE
        if len(self.shape) != 2:
            text = "x".join(map(str, self.shape))
            raise OptionError("shape", f"{text}: of a Transformers model two numbers, examples and tokens")
        model = opened.model.to(device)
        self.host = host_of(model, self.shape, wish.neurons, wish.heads, wish.clock)
        self.name = portable_path(opened.folder.rstrip("/"))
        self.settings = cost_settings(model, self.host, wish.cost, self.shape)
        task = opened.scored
        self.data = "" if task is None else task.data_fingerprint()
        self.main_metric = "" if task is None else task.main_metric

    def worth(self) -> Worth:
        model, wish, task = self.opened.model, self.wish, self.opened.calibration
        chosen = self._chosen(wish.examples)
        common = dict(neurons=wish.neurons, heads=wish.heads)
        data = (task.train, task.collate)
        rescaled = random.Random(wish.seed).sample(chosen, min(RESCALED_ON, len(chosen)))
        grams = grams_of(model, *data, rescaled, BATCH, progress=self.progress, **common)
        if wish.score_by == "fisher":
            found = fisher_of(model, *data, chosen, BATCH, progress=self.progress, **common)
            return Worth(found.value(), found.blocks(), grams)
        if wish.score_by == "importance":
            scores = measured_importance(
                model, *data, BATCH, progress=self.progress, chosen=chosen, **common
            ).value()
        elif wish.score_by == "magnitude":
            scores = magnitudes(model, **common)
        else:
            scores = random_ranking(self.host.head_map.num_heads, wish.seed).double()
        return Worth(scores, None, grams)

    def score(self, model: PreTrainedModel) -> list[Metric]:
        task = self.opened.scored
        if task is None:
            return []
        with tempfile.TemporaryDirectory() as scratch:
            args = TrainingArguments(
                output_dir=scratch,
                per_device_eval_batch_size=BATCH,
                use_cpu=self.host.device == "cpu",
                disable_tqdm=True,
                report_to="none",
            )
            declare_mean_loss(model)
            trainer = Trainer(
                model=model,
                args=args,
                data_collator=task.collate,
                processing_class=self.opened.tokenizer,
                preprocess_logits_for_metrics=task.reduce_logits,
            )
            found = []
            for split, data in task.dev.items():
                trainer.compute_metrics = task.compute_metrics(split)
                values = trainer.predict(data, metric_key_prefix="eval").metrics
                found += [
                    task.measured(name, values[f"eval_{name}"], split)
                    for name in sorted(task.metrics, key=lambda name: name != task.main_metric)
                    if f"eval_{name}" in values
                ]
        return found

    def checked(self, attempt: Attempt) -> PreTrainedModel:
        wish = self.wish
        return without_units(self.opened.model, attempt.keep, attempt.factors, wish.neurons, wish.heads)

    def write(self, attempt: Attempt, model: PreTrainedModel, out: str, record: Record) -> None:
        head_map = self.host.head_map
        before = self.host.counts["parameters"](self.opened.model)
        keep = attempt.keep.tolist()
        mask = {**head_map.to_dict(), "keep": keep}
        with new_folder(out, None, lambda name: not holds_model(name)) as folder:
            save_pruned(model.cpu(), folder, before, self.opened.tokenizer)
            write_json(folder / "mask.json", json.dumps(mask) + "\n")
            save_record(record, folder)
            units_png(head_map.to_dict(), keep, folder / "units.png", f"{self.name}: units kept")

    def counts(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the costs of a model that can be counted."""
        return {name: self.host.counts[name](model) for name in COSTS if name in self.host.counts}

    def _chosen(self, examples: int) -> list[int]:
        count = len(self.opened.calibration.train)
        return sorted(random.Random(self.wish.seed).sample(range(count), min(examples, count)))
