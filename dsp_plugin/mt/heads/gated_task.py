"""fairseq's translation task as every pruning method wants it: batches that a resumed run sees again."""

import logging
from dataclasses import dataclass
from typing import Any, Optional

from fairseq import utils
from fairseq.distributed.utils import get_data_parallel_world_size, is_master
from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks.translation import TranslationConfig
from omegaconf import II, DictConfig, open_dict

from ..checkpoints.checkpoint import load_checkpoint
from ..training.best_checkpoint import forget_best
from ..training.checked_task import CheckedTranslationTask
from ..training.coverage import COVERAGE, Coverage, coverage_of, is_training_pass
from ..training.dictionaries import DICTIONARIES, check_dictionaries, dictionaries_of
from ..training.finished import PATIENCE, finished, patience_now, restore_patience
from ..training.option_checks import spelling_options
from ..training.run_length import Limits, Stand
from .confidence import confidences
from .derived_schedule import Start, all_options, settle_schedule
from .gated_criterion import switchboard_of, unwrapped
from .gated_model import GatedTransformerModel
from .history import note_heads, read_history
from .importance import training_sentences
from .new_training import starting_checkpoint
from .score_start import ScoreStart, copy_scores

logger = logging.getLogger(__name__)


@dataclass
class GatedTranslationConfig(TranslationConfig):
    # read-only views of other options
    save_dir: str = II("checkpoint.save_dir")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    max_update: int = II("optimization.max_update")
    max_epoch: int = II("optimization.max_epoch")
    update_freq: list[int] = II("optimization.update_freq")


class GatedTranslationTask(CheckedTranslationTask):
    """Translation with a model whose heads are pruned, for every fairseq command; a method subclasses it.

    What a training must have is checked by the model, which is built under any task (`new_training`).
    """

    ranks_starts = True

    def __init__(self, cfg: GatedTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._is_master = False  # known once a training starts
        self.is_finished = False  # the training, when it is started once more
        self.score_start: Optional[ScoreStart] = None  # None also once the scores have begun
        self._warned: Optional[tuple[type, dict[str, Any]]] = None  # (model, options), until it is
        self._updates_per_epoch: Optional[int] = None  # once it is known
        self._choice_begins: Optional[int] = None  # the update at which an open phase is over
        self._max_valid_steps: Optional[int] = None
        self._loaded_early: Optional[tuple[str, bool]] = None  # (subset, combined), see `load_dataset`
        self._trained: list[Any] = []  # data sets
        self._coverage: Optional[Coverage] = None  # of the set that is evaluated

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; for a new training, after `prepare`. Raises as `GatedTransformerModel`'s."""
        model_class = ARCH_MODEL_REGISTRY.get(getattr(cfg, "_name", None))
        with spelling_options():  # no decorator: fairseq looks for `from_checkpoint` in the signature
            if not from_checkpoint:
                start = self._resume()
                if model_class is not None and issubclass(model_class, GatedTransformerModel):
                    settle_schedule(self, cfg, model_class, start)
                    options = model_class.with_defaults(all_options(cfg))
                    model_class.check_options(options)
                    self.prepare(cfg, model_class, options)
            return super().build_model(cfg, from_checkpoint)

    def _resume(self) -> Start:
        """Learn where the training stands; at its end, see to it that fairseq makes no further update."""
        # everything on the command line; the Trainer reads the same object
        whole = self.cfg._get_root() if isinstance(self.cfg, DictConfig) else {}
        if "optimization" not in whole:
            return Start()  # no training
        read_history(whole.checkpoint.save_dir)  # a damaged one is refused now, not at the first validation
        self._max_valid_steps = whole.dataset.max_valid_steps
        start, given = starting_checkpoint(whole.checkpoint), whole.checkpoint
        goes_on = start is not None and start != given.finetune_from_model and not given.reset_optimizer
        state = {} if start is None else load_checkpoint(start)
        check_dictionaries(state.get("task_state"), self, str(start))
        found, state = Start(start, state, goes_on), state if goes_on else {}
        restore_patience((state.get("task_state") or {}).get(PATIENCE))
        why = finished(state, whole.optimization, whole.checkpoint)
        if why is not None:
            self.is_finished = True
            logger.info(f"the training in {start} is finished: {why}. Nothing is trained")
            with open_dict(whole):
                whole.optimization.max_epoch = -1  # 0 would mean no limit
        return found

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load one set, unless it is the training set, which `training_batches` has just loaded."""
        if self._loaded_early == (split, combine):
            self._loaded_early = None
            return
        super().load_dataset(split, epoch, combine, **kwargs)

    def training_batches(self, whole, options: dict[str, Any]):
        """Return fairseq's iterator over the training set, before there is a model and a Trainer.

        Args:
            whole: the configuration of the training. options: all of the model's.
        """
        dataset, split, several = whole.dataset, whole.dataset.train_subset, True
        self.load_dataset(split, epoch=1, combine=several, data_selector=None, tpu=whole.common.tpu)
        if len(utils.split_paths(self.cfg.data)) == 1:  # else it is the data of epoch 1 alone
            self._loaded_early = (split, several)
        lengths = tuple(options[f"max_{side}_positions"] for side in ("source", "target"))
        processes = whole.distributed_training.distributed_world_size
        return super().get_batch_iterator(
            self.dataset(split),
            max_tokens=dataset.max_tokens,
            max_sentences=dataset.batch_size,
            max_positions=utils.resolve_max_positions(self.max_positions(), lengths, dataset.max_tokens),
            ignore_invalid_inputs=True,
            required_batch_size_multiple=dataset.required_batch_size_multiple,
            seed=whole.common.seed,
            num_shards=1 if processes == 1 else get_data_parallel_world_size(),
            disable_iterator_cache=True,
        )

    def prepare(self, cfg, model_class, options) -> None:
        """Make ready for a new training; `options` are all of the model's, `cfg` those that were given."""
        whole = cfg._get_root()
        self._is_master = is_master(whole.distributed_training)
        self.score_start = ScoreStart.of(options, whole, shown=self._is_master)
        self._choice_begins = options["pruning_warmup_updates"] or None
        self._warned = (model_class, options) if model_class.wants_gates(options) else None

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """Train on one micro-batch; at the update at which the scores are to begin, begin them before."""
        if update_num == self._choice_begins:
            # the heads that were scored so far are random ones, and the choice may score worse at first
            forget_best()
        if self.score_start is not None and update_num >= self.score_start.update:
            if update_num == self.score_start.update:
                self.score_start.begin(model, self.datasets[self.cfg.train_subset], self, optimizer)
            else:
                logger.info(f"{update_num} updates are made: the scores have begun, and stay as they are")
            self.score_start = None
        self._begin_update(model, optimizer, update_num)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def _begin_update(self, model, optimizer, update_num: int) -> None:
        """Do what is due before an update of gates that go by rounds, with what they need of the data."""
        board = switchboard_of(model)
        rounds = None if board is None else getattr(board.gates, "rounds", None)
        if rounds is None:
            return
        if rounds.length is None:
            rounds.length = self._updates_per_epoch
        board.set_num_updates(update_num)
        if board.pruning and rounds.due(update_num):
            dataset, whole = self.datasets[self.cfg.train_subset], self.cfg._get_root()
            inner = unwrapped(model)
            rounds.note(confidences(inner, dataset, self, training_sentences(whole)))
        if board.begin_update():
            copy_scores(board.gates.scores, optimizer)

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        if self._is_master:
            note_heads(model, self.cfg.save_dir)

    def get_batch_iterator(self, dataset, *args, **kwargs):
        if is_training_pass(kwargs):
            self._trained.append(dataset)
            epoch = kwargs.get("epoch", 1)
            if self.can_reuse_epoch_itr(dataset) and not (
                kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
            ):
                # fairseq then keeps the batches of the epoch that a process starts with, and draws them by
                # its number: a run resumed in a later epoch would have others than the uninterrupted one
                kwargs["epoch"] = 1
            iterator = super().get_batch_iterator(dataset, *args, **kwargs)
            freq = self.cfg.update_freq
            self._updates_per_epoch = max(1, -(-len(iterator) // freq[min(epoch, len(freq)) - 1]))
            self._warn_of_length(len(iterator), epoch)
            return iterator
        # fairseq 0.12.3 drops the last batch of a set whose size is no multiple of
        # --required-batch-size-multiple (8): up to a batch of test sentences would go unscored
        kwargs["required_batch_size_multiple"] = 1
        if any(dataset is trained for trained in self._trained):
            kwargs["disable_iterator_cache"] = True  # the training's own batches are another matter
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        self._cover(dataset, coverage_of(iterator, self._max_valid_steps))
        return iterator

    def _warn_of_length(self, batches_per_epoch: int, epoch: int) -> None:
        """Say once a training what does not fit into its length."""
        if self._warned is None or self.is_finished:
            return
        (model_class, options), self._warned = self._warned, None
        # a reset counts updates from 0 again, but not epochs: the published pipelined run is epoch 61 alone
        stand = Stand(epoch=epoch if self.cfg.reset_optimizer else 1)
        last = Limits.of(self.cfg).last_update(batches_per_epoch, stand)
        for warning in model_class.length_warnings(options, last):
            logger.warning(warning)

    def _cover(self, dataset, coverage: Coverage) -> None:
        """Keep how much of a set is evaluated, for log and checkpoints; say once if it is not the whole."""
        self._coverage = coverage
        name = next((name for name, known in self.datasets.items() if known is dataset), "the input")
        incomplete = self.state.state_dict.setdefault(COVERAGE, {})
        if coverage.whole:
            incomplete.pop(name, None)
        elif incomplete.get(name) != [coverage.covered, coverage.total]:
            incomplete[name] = [coverage.covered, coverage.total]
            logger.warning(
                f"ONLY {coverage.covered} OF {coverage.total} SENTENCES of {name}: every score and output of "
                f"this run is of these alone ({coverage.label(name)})"
            )

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        if self._coverage is not None and not self._coverage.whole and not criterion.training:
            metrics.log_scalar("sentences", self._coverage.covered, priority=900)
            metrics.log_scalar("sentences_of_set", self._coverage.total, priority=900)

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into every checkpoint as its task state; fairseq's own tasks read over it."""
        return {**super().state_dict(), PATIENCE: patience_now(), DICTIONARIES: dictionaries_of(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as the task above does; what a checkpoint says of its own training is none of this task's."""
        ours = (COVERAGE, PATIENCE)
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in ours})
