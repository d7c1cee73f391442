"""Translation with a sparse diff on fairseq: the model that a diff is trained on, and the task."""

import logging
from dataclasses import dataclass, field
from typing import Optional

from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY

from ...options.errors import OptionError
from ..checkpoints.flat_config import FlatTransformerConfig
from ..heads.feed_forward import NEURONS, check_groups
from ..heads.gated_model import GatedTransformerModel, check_layers_kept
from ..heads.gated_task import GatedTranslationConfig, GatedTranslationTask
from ..heads.new_training import name_of
from ..training.dictionaries import check_dictionaries
from ..training.option_checks import DashedOptionError, spelling_options
from .base import (
    BaseCheckpoint,
    apply_when_loaded,
    check_pack,
    read_base,
    read_pack,
    start_from,
    starts_elsewhere,
)
from .optimizers import DiffAdam, FixMaskAdam, SparseAdam, needs_mask

logger = logging.getLogger(__name__)


@dataclass
class DiffTransformerConfig(FlatTransformerConfig):
    kept_heads: Optional[str] = field(
        default=None,
        metadata={
            "help": "record of head removal (JSON); read from the base, so there is no need to give it"
        },
    )
    neurons: Optional[int] = field(
        default=None, metadata={"help": "neurons in a group of that record; read from the base, too"}
    )


class DiffTransformerModel(GatedTransformerModel):
    """The transformer without gates or diff: the diff's optimizer writes base + diff into the weights.

    `--arch diff_transformer` takes its sizes from --base-checkpoint; `diff_` and the name of any stock
    transformer architecture, or of one of the plugin's, asks for these sizes, and the base must have them.
    """

    method = "diff"

    @classmethod
    def wants_gates(cls, options) -> bool:
        return False

    @classmethod
    def check_options(cls, options) -> None:
        check_layers_kept(options)
        if options.get(NEURONS) is not None:
            check_groups(options[NEURONS], options)

    @classmethod
    def check_training(cls, whole, options, task) -> None:
        if not getattr(task, "starts_from_base", False):
            reason = f"{name_of(whole.task)} has no base for this model to start from, and would train it "
            reason += "from random weights: use {} diff_translation and {} FILE"
            raise OptionError("task", reason, "task", "base_checkpoint")
        super().check_training(whole, options, task)


@dataclass
class DiffTranslationConfig(GatedTranslationConfig):
    base_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "training: the checkpoint of the trained model that the diff is against"},
    )
    mask_pack: Optional[str] = field(
        default=None,
        metadata={"help": "training with --optimizer fixmask_adam: the pack whose positions are finetuned"},
    )
    diff_pack: Optional[str] = field(
        default=None,
        metadata={"help": "translating: the pack to put into the model of --path, which must be its base"},
    )


class DiffTranslationTask(GatedTranslationTask):
    """Translation that starts from a base.

    Training: by --optimizer diff_adam the diff is learnt, by fixmask_adam the positions of --mask-pack are
    finetuned, by any other all weights (the baseline). Checkpoints hold the model with the diff in it, so
    they translate like any other.
    """

    starts_from_base = True

    def __init__(self, cfg: DiffTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.diff_pack = read_pack(cfg.diff_pack, "--diff-pack") if cfg.diff_pack else None
        self._base: Optional[BaseCheckpoint] = None

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model: to train, as the base; to translate, --diff-pack goes in once it is loaded.

        Raises:
            ValueError, FileNotFoundError: a base, mask or pack that is missing, damaged or does not fit;
                options that exclude each other.
        """
        if from_checkpoint:
            model = super().build_model(cfg, from_checkpoint)
            if self.diff_pack is not None:
                apply_when_loaded(model, self.diff_pack, self.cfg.diff_pack)
            return model
        if not issubclass(ARCH_MODEL_REGISTRY[cfg._name], DiffTransformerModel):
            reason = f"{cfg._name}: diffs are trained on diff_transformer, for instance diff_{cfg._name}"
            raise DashedOptionError("arch", reason)
        model = super().build_model(cfg, from_checkpoint)
        with spelling_options():
            self._base.load_into(model)
        mask = None
        if self.cfg.mask_pack:
            pack = read_pack(self.cfg.mask_pack, "--mask-pack")
            check_pack(pack, model, self.cfg.mask_pack, "--mask-pack", f"--base-checkpoint {self._base.path}")
            mask = pack.diff
        start_from(model, mask)
        self._base = None
        return model

    def prepare(self, cfg, model_class, options) -> None:
        self._check_training(cfg._get_root())
        self._base = read_base(self.cfg.base_checkpoint)
        check_dictionaries(self._base.task_state, self, f"--base-checkpoint {self._base.path}")
        self._base.take_sizes(cfg, options, "diff_transformer")
        super().prepare(cfg, model_class, options)

    def optimizer_step(self, optimizer, model, update_num):
        inner = getattr(optimizer, "fp32_optimizer", optimizer)  # --amp wraps it
        if inner is not optimizer and isinstance(inner, SparseAdam):
            # fairseq unscales `optimizer.optimizer` and steps `optimizer.fp32_optimizer`. The scaler, which
            # knows optimizers by identity, would divide by its scale a second time: Adam hides that, a
            # penalty and a clipping norm do not
            optimizer.scaler.step(optimizer.optimizer)
            optimizer.scaler.update()
        else:
            super().optimizer_step(optimizer, model, update_num)
        if isinstance(inner, DiffAdam):
            for name, value in inner.optimizer.metrics().items():
                if name in ("w_norm", "alpha_norm", "expected_density"):
                    metrics.log_scalar(name, value, priority=420, round=7)

    def _check_training(self, whole) -> None:
        """Refuse options that exclude each other. `whole` is the whole configuration."""
        if self.cfg.diff_pack:
            reason = "is for translating; {} names the pack whose positions are finetuned"
            raise OptionError("diff_pack", reason, "mask_pack")
        for option in ("finetune_from_model", "continue_once"):
            if whole.checkpoint.get(option):
                raise starts_elsewhere(option)
        given = whole.get("optimizer")
        name = given.get("_name") if given is not None else None
        optimizer = OPTIMIZER_REGISTRY.get(name)
        if self.cfg.mask_pack and optimizer is not FixMaskAdam:
            reason = f"is finetuned by {{}} fixmask_adam, not {name}"
            raise OptionError("mask_pack", reason, "optimizer")
        if optimizer not in (DiffAdam, FixMaskAdam):
            logger.info(f"--optimizer {name}: all weights are finetuned (diff_adam trains a sparse diff)")
            return
        optimizer.check(given)
        if optimizer is FixMaskAdam and not self.cfg.mask_pack:
            raise needs_mask()
        if whole.checkpoint.reset_optimizer or whole.checkpoint.no_save_optimizer_state:
            reason = "and {}: the diff is the optimizer's state and would be lost; "
            reason += "name another {} to start over"
            raise OptionError("reset_optimizer", reason, "no_save_optimizer_state", "save_dir")
        common, distributed = whole.common, whole.distributed_training
        if common.fp16 or common.bf16 or common.tpu:
            reason = f"{name} trains in float32: leave {{}} and {{}} out, or take {{}}"
            raise OptionError("optimizer", reason, "fp16", "bf16", "amp")
        if distributed.ddp_backend == "fully_sharded" or distributed.zero_sharding != "none":
            reason = "fully_sharded and {} spread the weights: a diff needs them whole"
            raise OptionError("ddp_backend", reason, "zero_sharding")
        if whole.ema.store_ema or whole.optimization.use_bmuf:
            reason = f"and {{}} average weights, which makes no sparse diff: not with {name}"
            raise OptionError("store_ema", reason, "use_bmuf")
