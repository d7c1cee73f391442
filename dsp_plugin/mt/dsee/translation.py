"""Translation by DSEE on fairseq: the model that an update is trained in, and the task."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf, open_dict
from torch import nn

from ...dsee.artefact import DseeFile
from ...dsee.supports import METHODS, check_support
from ...dsee.update import check_rank
from ...options.errors import OptionError
from ...options.faults import naming
from ..checkpoints.checkpoint import load_checkpoint, model_options
from ..checkpoints.flat_config import FlatTransformerConfig
from ..heads.feed_forward import NEURONS, check_groups
from ..heads.gated_model import GatedTransformerModel, check_layers_kept
from ..heads.gated_task import GatedTranslationConfig, GatedTranslationTask
from ..heads.new_training import name_of, starting_checkpoint
from ..surgery.base_checkpoint import BaseCheckpoint, read_base
from ..training.dictionaries import check_dictionaries
from ..training.option_checks import DashedOptionError, spelling_options
from .deployed import alpha_of, frozen_of
from .files import STATE, check_file, check_frozen, check_given, noted, read_file
from .layer import MARK, place_updates, resize_updates, roles_in, roles_of, update_tensors
from .merging import merge_when_loaded, options_after
from .starting import DEFAULTS, NewUpdate

logger = logging.getLogger(__name__)

ARCH, TASK = "dsee_transformer", "dsee_translation"


@dataclass
class DseeTransformerConfig(FlatTransformerConfig):
    lora_r: Optional[int] = field(
        default=None, metadata={"help": "r, the rank of A and B (default: 16, or the file's)"}
    )
    lora_alpha: Optional[float] = field(
        default=None, metadata={"help": "the update is scaled by alpha / r (default: 32, or the file's)"}
    )
    num_sparse: Optional[int] = field(
        default=None,
        metadata={"help": "entries of S2 in each matrix; 0 for LoRA alone (default: 64, or the file's)"},
    )
    sparse_method: Optional[str] = field(
        default=None,
        metadata={"help": f"where they are: {', '.join(METHODS)} (default: grebsmo, or the file's)"},
    )
    dsee_targets: Optional[str] = field(
        default=None,
        metadata={
            "help": "roles of the matrices with an update, joined by commas: some of query, key, value, "
            "output (default: query,value, or the file's)"
        },
    )
    kept_heads: Optional[str] = field(
        default=None,
        metadata={
            "help": "record of head removal (JSON); read from the base and the file, so there is no need to "
            "give it"
        },
    )
    neurons: Optional[int] = field(
        default=None, metadata={"help": "neurons in a group of that record; read from them, too"}
    )


class DseeTransformerModel(GatedTransformerModel):
    """The transformer with updates beside frozen projections of its attention, and nothing else to train.

    `--arch dsee_transformer` takes its sizes from the base; `dsee_` and the name of any stock transformer
    architecture, or of one of the plugin's, asks for these sizes, and the base must have them.
    """

    method = "dsee"

    @classmethod
    def wants_gates(cls, options) -> bool:
        return False

    @classmethod
    def label(cls, options) -> str:
        return "dsee" if options.get("num_sparse") else "lora"

    @classmethod
    def check_options(cls, options) -> None:
        check_layers_kept(options)
        if options.get(NEURONS) is not None:
            check_groups(options[NEURONS], options)
        filled = NewUpdate.of(options, seed=0)
        wide = (1 << 24, 1 << 24)  # the base says how wide its matrices are
        check_rank(wide, filled.lora_r, filled.lora_alpha)
        check_support(wide, filled.num_sparse, filled.sparse_method)
        roles_of(filled.dsee_targets)
        for name in ("quant_noise_pq", "quant_noise_scalar"):
            if options.get(name):
                raise OptionError(name, "writes into the weights, which here stay as they are")

    @classmethod
    def check_training(cls, whole, options, task) -> None:
        if not isinstance(task, DseeTranslationTask):
            reason = f"{name_of(whole.task)} has no base for this model to start from, and would train "
            reason += f"nothing but random numbers: use {{}} {TASK} and {{}} FILE"
            raise OptionError("task", reason, "task", "base_checkpoint")
        super().check_training(whole, options, task)

    @classmethod
    def build_model(cls, cfg, task):
        """Build as the stock model, with room for the updates; their weights are the task's or a file's."""
        model = super().build_model(cfg, task)
        with spelling_options():
            options = cls.as_given(OmegaConf.to_container(cfg, resolve=True))
            update = NewUpdate.of(options, seed=0)
            scale = update.lora_alpha / update.lora_r
            place_updates(model, update.lora_r, scale, update.num_sparse, roles_of(update.dsee_targets))
        return model

    def upgrade_state_dict_named(self, state_dict, name):
        """Make room for as many entries of S2 as a checkpoint has."""
        super().upgrade_state_dict_named(state_dict, name)
        resize_updates(self, state_dict)


@dataclass
class DseeTranslationConfig(GatedTranslationConfig):
    base_checkpoint: Optional[str] = field(
        default=None,
        metadata={
            "help": "training: the checkpoint of the trained model that is updated (--finetune-from-model "
            "FILE is the same)"
        },
    )
    dsee_checkpoint: Optional[str] = field(
        default=None,
        metadata={
            "help": "training: what an earlier stage wrote, to go on from; translating: the file to put into "
            "the model of --path, which must be its base"
        },
    )


class DseeTranslationTask(GatedTranslationTask):
    """Translation that starts from a base, and trains an update of it by any optimizer and criterion.

    Checkpoints hold the base as pruning has left it and the update beside it, so they translate like any
    other.
    """

    starts_from_base = True

    def __init__(self, cfg: DseeTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._base: Optional[BaseCheckpoint] = None
        self._file: Optional[DseeFile] = None

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model: to train, as base and file say; to translate, what --dsee-checkpoint makes of it.

        Raises:
            ValueError, FileNotFoundError: a base or file that is missing, damaged or does not fit; options
                that exclude each other.
        """
        if from_checkpoint:
            if not self.cfg.dsee_checkpoint:
                return super().build_model(cfg, from_checkpoint)
            with spelling_options():
                return self._merged_model(cfg)
        if not issubclass(ARCH_MODEL_REGISTRY[cfg._name], DseeTransformerModel):
            reason = f"{cfg._name}: updates are trained on {ARCH}, for instance dsee_{cfg._name}"
            raise DashedOptionError("arch", reason)
        model = super().build_model(cfg, from_checkpoint)
        with spelling_options():
            self._fill(model)
        return model

    def prepare(self, cfg, model_class, options) -> None:
        whole = cfg._get_root()
        self._check_training(whole)
        self._base = read_base(self.cfg.base_checkpoint, "is updated")
        check_dictionaries(self._base.task_state, self, f"--base-checkpoint {self._base.path}")
        start = starting_checkpoint(whole.checkpoint)
        if self.cfg.dsee_checkpoint:
            self._file = read_file(self.cfg.dsee_checkpoint)
            check_file(self._file, self._base, self.cfg.dsee_checkpoint)
            check_given(self._file, options, self.cfg.dsee_checkpoint)
        else:
            update = NewUpdate.of(options, whole.common.seed)
            self._file = update.file(self._base, search=start is None)
        if start is not None:
            self._check_start(start)
        self._base.take_sizes(cfg, options, ARCH)
        found = self._found()
        # into the configuration itself, so that fairseq saves it with every checkpoint
        with open_dict(cfg):
            cfg.update(found)
        options.update(found)
        super().prepare(cfg, model_class, options)

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into every checkpoint, among it what the file says beside the updates."""
        return {**super().state_dict(), **({STATE: noted(self._file)} if self._file else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != STATE})

    def _check_training(self, whole) -> None:
        """Refuse options that exclude each other. `whole` is the whole configuration."""
        checkpoint, distributed = whole.checkpoint, whole.distributed_training
        if checkpoint.finetune_from_model:
            if self.cfg.base_checkpoint not in (None, checkpoint.finetune_from_model):
                raise OptionError("finetune_from_model", "and {} name two bases", "base_checkpoint")
            # the base is read here: fairseq would load it as the state of this training
            with open_dict(whole):
                self.cfg.base_checkpoint = checkpoint.finetune_from_model
                checkpoint.finetune_from_model = None
        if checkpoint.get("continue_once"):
            reason = "cannot be given: an update starts from {}, and goes on from {}"
            raise OptionError("continue_once", reason, "base_checkpoint", "save_dir")
        common = whole.common
        if common.fp16 or common.bf16 or common.tpu:
            reason = "and {} round the frozen base, to which the update is bound: leave them out, or take {}"
            raise OptionError("fp16", reason, "bf16", "amp")
        if distributed.ddp_backend == "fully_sharded" or distributed.zero_sharding != "none":
            reason = "fully_sharded and {} spread the weights: an update needs its base whole"
            raise OptionError("ddp_backend", reason, "zero_sharding")
        if whole.ema.store_ema or whole.optimization.use_bmuf:
            reason = "and {} average weights, which is nothing for a frozen base: leave them out"
            raise OptionError("store_ema", reason, "use_bmuf")

    def _check_start(self, start: str) -> None:
        """Refuse a checkpoint to go on from that is of another update, base or pruning."""
        state = load_checkpoint(start)
        if not any(MARK in name for name in state["model"]):
            reason = f"{start} holds no update: a training starts from {{}}, and goes on from {{}}"
            raise OptionError("restore_file", reason, "base_checkpoint", "save_dir")
        there, here = model_options(state), self._found()
        for name in DEFAULTS:
            if there.get(name) is not None and there[name] != here[name]:
                reason = f"{here[name]}: {start}, from which this training goes on, has {there[name]}"
                raise OptionError(name, reason + ": name another {}", "save_dir")
        check_frozen(state["model"], frozen_of(self._base.source, self._file).tensors, start)

    def _found(self) -> dict[str, Any]:
        """Return the options that the model has by the file that it starts from."""
        rank, alpha = alpha_of(self._file)
        config = self._file.config
        frozen = frozen_of(self._base.source, self._file).options
        found = {"lora_r": rank, "lora_alpha": alpha, "num_sparse": _entries(self._file)}
        found["sparse_method"] = config.get("sparse_method", DEFAULTS["sparse_method"])
        found["dsee_targets"] = ",".join(roles_in(self._file.updates))
        return {**found, "kept_heads": frozen.get("kept_heads"), NEURONS: frozen.get(NEURONS)}

    def _fill(self, model: nn.Module) -> None:
        """Give a model that was just built the base's weights, pruned, and the update."""
        frozen = frozen_of(self._base.source, self._file)
        self._base.check_fits(model, frozen.tensors)
        tensors = {**frozen.tensors, **update_tensors(self._file.updates)}
        try:
            model.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            reason = f"{self._base.path} is of another architecture ({error})"
            raise OptionError("base_checkpoint", reason) from error
        self._base = None

    def _merged_model(self, cfg) -> nn.Module:
        """Build the model that --dsee-checkpoint makes of a base; the base's weights are loaded into it."""
        file, path = read_file(self.cfg.dsee_checkpoint), self.cfg.dsee_checkpoint
        options = vars(cfg) if not OmegaConf.is_config(cfg) else OmegaConf.to_container(cfg, resolve=True)
        if issubclass(ARCH_MODEL_REGISTRY.get(options.get("_name"), nn.Module), DseeTransformerModel):
            raise OptionError("dsee_checkpoint", f"{path}: the model of {{}} has an update already", "path")
        with naming("dsee_checkpoint", path):
            merged = OmegaConf.create(options_after(options, file))
        model = super().build_model(merged, from_checkpoint=True)
        merge_when_loaded(model, file, path, options)
        return model


def _entries(file: DseeFile) -> int:
    found = file.config.get("num_sparse")
    return found if isinstance(found, int) else max(len(one.values) for one in file.updates.values())
