"""fairseq's translation task with the checks that every pruning method wants before any long work starts."""

import logging
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Dict, List, Optional

from fairseq.dataclass.utils import merge_with_parent
from fairseq.distributed.utils import is_master
from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODEL_NAME
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II, DictConfig, open_dict

from ..optim.dsp_adam import DSPAdam
from .checkpoints import check_same_sizes, load_checkpoint, model_options
from .coverage import COVERAGE, Coverage, coverage_of, is_training_pass
from .finished import PATIENCE, finished, patience_now, restore_patience
from .gated_model import GatedTransformerModel
from .history import note_heads
from .option_checks import check_options

logger = logging.getLogger(__name__)


@dataclass
class GatedTranslationConfig(TranslationConfig):
    # read-only views of other options, so that their combination can be checked at start-up
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    max_update: int = II("optimization.max_update")
    max_epoch: int = II("optimization.max_epoch")
    update_freq: List[int] = II("optimization.update_freq")
    tpu: bool = II("common.tpu")
    fp16: bool = II("common.fp16")
    fp16_no_flatten_grads: bool = II("common.fp16_no_flatten_grads")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    ddp_backend: str = II("distributed_training.ddp_backend")


class GatedTranslationTask(TranslationTask):
    """Translation with a model whose heads are pruned. Works with every fairseq command; a method subclasses it."""

    def __init__(self, cfg: GatedTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._has_scores = False
        self._is_master = False  # known once a training starts
        self.is_finished = False  # the training, when it is started once more
        self._max_valid_steps: Optional[int] = None
        self._trained: List[Any] = []  # data sets
        self._coverage: Optional[Coverage] = None  # of the set that is evaluated

    @classmethod
    def setup_task(cls, cfg, from_checkpoint=False, **kwargs):
        """Set the task up, after a look at all numbers of the whole configuration (see `option_checks`)."""
        if not from_checkpoint:
            check_options(cfg._get_root())
        return super().setup_task(cfg, **kwargs)

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; on a new training, after checking what it is to start from and in which precision.

        Raises:
            ValueError: pipelined pruning with no trained model to prune; a checkpoint to start from that is missing,
                damaged, hostile or of another architecture; an optimizer or a precision that the head scores do not stand.
        """
        model_class = ARCH_MODEL_REGISTRY.get(getattr(cfg, "_name", None))
        if not from_checkpoint:
            self._resume()
            if model_class is not None and issubclass(model_class, GatedTransformerModel):
                # a YAML file gives only what differs from the defaults
                options = merge_with_parent(MODEL_DATACLASS_REGISTRY[MODEL_NAME[cfg._name]](), cfg)
                self.prepare(cfg, model_class, options)
        return super().build_model(cfg, from_checkpoint)

    def _resume(self) -> None:
        """Learn where the training stands; where it is at its end, see to it that fairseq makes no further update."""
        # everything on the command line; the Trainer reads the same object
        whole = self.cfg._get_root() if isinstance(self.cfg, DictConfig) else {}
        if "optimization" not in whole:
            return  # no training
        self._max_valid_steps = whole.dataset.max_valid_steps
        start = self._starting_checkpoint()
        goes_on = start is not None and start != self.cfg.finetune_from_model and not self.cfg.reset_optimizer
        state = load_checkpoint(start) if goes_on else {}
        restore_patience((state.get("task_state") or {}).get(PATIENCE))
        why = finished(state, whole.optimization, whole.checkpoint)
        if why is not None:
            self.is_finished = True
            logger.info(f"the training in {start} is finished: {why}. Nothing is trained")
            with open_dict(whole):
                whole.optimization.max_epoch = -1  # 0 would mean no limit

    def prepare(self, cfg, model_class, options) -> None:
        """Check a new training; `options` are all of the model's, `cfg` those that were given. Errors as `build_model`."""
        model_class.check_options(options)
        self._has_scores = model_class.learns_scores(options)
        for warning in model_class.warnings(options):
            logger.warning(warning)
        whole = cfg._get_root()  # everything on the command line; the Trainer reads the same object
        self._is_master = is_master(whole.distributed_training)
        self._check_optimizer(whole.get("optimizer"))
        self._check_precision()
        start = self._starting_checkpoint()
        if model_class.freezes_weights(options) and start is None:
            raise ValueError(
                "pipelined pruning (no --joint-pruning) needs a trained model: name it with --restore-file or "
                f"--finetune-from-model (no file {self._wanted_checkpoint()})"
            )
        if start is not None:
            trained = model_options(load_checkpoint(start))
            check_same_sizes(start, trained, options)
            # of several processes fairseq lets one read it and send it to the others, as a pickle that weights-only
            # loading refuses
            with open_dict(whole):
                whole.checkpoint.load_checkpoint_on_all_dp_ranks = True
            if trained.get("kept_heads") and not options.kept_heads:
                logger.info(f"{start} has had heads removed: building the same smaller model")
                # into the configuration itself, so that fairseq saves it with every checkpoint
                with open_dict(cfg):
                    cfg.kept_heads = trained["kept_heads"]

    def _check_optimizer(self, optimizer) -> None:
        """Scores need an optimizer that leaves their learning rate alone; fairseq builds it long after the model."""
        name = optimizer and optimizer.get("_name")
        if self._has_scores and name and not issubclass(OPTIMIZER_REGISTRY[name], DSPAdam):
            raise ValueError(
                f"--optimizer {name} would give the head scores the model's learning rate instead of --pruning-lr: "
                "use --optimizer dsp_adam, which takes the same options as --optimizer adam"
            )

    def _check_precision(self) -> None:
        """Say at once what would fail, or mix scores and weights, only after the data has been loaded."""
        if self.cfg.tpu and find_spec("torch_xla") is None:
            raise ValueError(
                "--bf16 means a TPU to fairseq-train, and torch_xla is not installed: use --amp, or --fp16 with "
                "--fp16-no-flatten-grads (fairseq-hydra-train with common.bf16=true needs no TPU)"
            )
        if not self._has_scores:
            return
        if self.cfg.fp16 and not (self.cfg.fp16_no_flatten_grads or self.cfg.memory_efficient_fp16):
            raise ValueError(
                "--fp16 joins all parameters into one, which cannot give the head scores a learning rate of their own: "
                "add --fp16-no-flatten-grads"
            )
        if self.cfg.ddp_backend == "fully_sharded":
            raise ValueError(
                "--ddp-backend fully_sharded joins parameters, head scores among them: use the default --ddp-backend"
            )

    def begin_valid_epoch(self, epoch, model):
        super().begin_valid_epoch(epoch, model)
        if self._is_master:
            note_heads(model, self.cfg.save_dir)

    def get_batch_iterator(self, dataset, *args, **kwargs):
        if is_training_pass(kwargs):
            self._trained.append(dataset)
            if self.can_reuse_epoch_itr(dataset) and not (
                kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
            ):
                # fairseq then keeps the batches of the epoch that a process starts with, and draws them by its number: a
                # run resumed in a later epoch would have others than the uninterrupted one
                kwargs["epoch"] = 1
            return super().get_batch_iterator(dataset, *args, **kwargs)
        # fairseq 0.12.3 drops the last batch of a set whose size is no multiple of
        # --required-batch-size-multiple (8): up to a batch of test sentences would go unscored
        kwargs["required_batch_size_multiple"] = 1
        if any(dataset is trained for trained in self._trained):
            kwargs["disable_iterator_cache"] = True  # the training's own batches are another matter
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        self._cover(dataset, coverage_of(iterator, self._max_valid_steps))
        return iterator

    def _cover(self, dataset, coverage: Coverage) -> None:
        """Keep how much of a set is evaluated, for the log and the checkpoints; say once that it is not the whole set."""
        self._coverage = coverage
        name = next((name for name, known in self.datasets.items() if known is dataset), "the input")
        told = self.state.state_dict.setdefault(COVERAGE, {})
        if coverage.whole:
            told.pop(name, None)
        elif told.get(name) != [coverage.covered, coverage.total]:
            told[name] = [coverage.covered, coverage.total]
            logger.warning(
                f"ONLY {coverage.covered} OF {coverage.total} SENTENCES of {name}: every score and output of this run is of "
                f"these alone ({coverage.label(name)})"
            )

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        if self._coverage is not None and not self._coverage.whole and not criterion.training:
            metrics.log_scalar("sentences", self._coverage.covered, priority=900)
            metrics.log_scalar("sentences_of_set", self._coverage.total, priority=900)

    def state_dict(self) -> Dict[str, Any]:
        """What goes into every checkpoint as its task state; fairseq's own tasks read over it."""
        return {**super().state_dict(), PATIENCE: patience_now()}

    def _wanted_checkpoint(self) -> str:
        if self.cfg.restore_file != "checkpoint_last.pt":
            return self.cfg.restore_file
        last = os.path.join(self.cfg.save_dir, "checkpoint_last.pt")
        if self.cfg.finetune_from_model and not os.path.exists(last):
            return self.cfg.finetune_from_model
        return last

    def _starting_checkpoint(self) -> Optional[str]:
        """The checkpoint fairseq will restore, by its own rules; None if there is none.

        Raises:
            ValueError: a --restore-file that does not exist; fairseq would silently train from scratch.
        """
        path = self._wanted_checkpoint()
        if os.path.exists(path):
            return path
        if path == self.cfg.restore_file:
            raise ValueError(f"--restore-file {path}: no such file (a relative path starts at {os.getcwd()})")
        return None
