"""Translation by DSEE on fairseq: the model that an update is trained in, and the task."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor, nn

from ...dsee.artefact import DseeFile
from ...dsee.supports import METHODS, check_support
from ...dsee.update import check_rank
from ...options.errors import OptionError
from ...options.faults import naming
from ..checkpoints.checkpoint import load_checkpoint, model_options
from ..checkpoints.flat_config import FlatTransformerConfig
from ..heads.feed_forward import NEURONS
from ..heads.gated_task import GatedTranslationConfig
from ..surgery.frozen_base import FrozenBaseModel, FrozenBaseTask, check_frozen
from ..training.option_checks import spelling_options
from .deployed import alpha_of, frozen_of
from .files import STATE, check_file, check_given, noted, read_file
from .layer import MARK, place_updates, resize_updates, roles_in, roles_of, update_tensors
from .merging import merge_when_loaded, options_after
from .starting import DEFAULTS, NewUpdate

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


class DseeTransformerModel(FrozenBaseModel):
    """The transformer with updates beside frozen projections of its attention, and nothing else to train.

    `--arch dsee_transformer` takes its sizes from the base; `dsee_` and the name of any stock transformer
    architecture, or of one of the plugin's, asks for these sizes, and the base must have them.
    """

    method, task_name = "dsee", TASK

    @classmethod
    def label(cls, options) -> str:
        return "dsee" if options.get("num_sparse") else "lora"

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        filled = NewUpdate.of(options, seed=0)
        wide = (1 << 24, 1 << 24)  # the base says how wide its matrices are
        check_rank(wide, filled.lora_r, filled.lora_alpha)
        check_support(wide, filled.num_sparse, filled.sparse_method)
        roles_of(filled.dsee_targets)

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


class DseeTranslationTask(FrozenBaseTask):
    """Translation that starts from a base, and trains an update of it by any optimizer and criterion.

    Checkpoints hold the base as pruning has left it and the update beside it, so they translate like any
    other.
    """

    what, made = "an update", "updated"
    arch, model_class = ARCH, DseeTransformerModel
    file_option, note = "dsee_checkpoint", STATE

    def start(self, options, seed: int, resumes: bool) -> DseeFile:
        if not self.cfg.dsee_checkpoint:
            return NewUpdate.of(options, seed).file(self._base, search=not resumes)
        file = read_file(self.cfg.dsee_checkpoint)
        check_file(file, self._base, self.cfg.dsee_checkpoint)
        check_given(file, options, self.cfg.dsee_checkpoint)
        return file

    def noted(self) -> dict[str, Any]:
        return noted(self._file)

    def check_resumed(self, path: str) -> None:
        """Refuse a checkpoint to go on from that is of another update, base or pruning."""
        state = load_checkpoint(path)
        if not any(MARK in name for name in state["model"]):
            reason = f"{path} holds no update: a training starts from {{}}, and goes on from {{}}"
            raise OptionError("restore_file", reason, "base_checkpoint", "save_dir")
        there, here = model_options(state), self.options_found()
        for name in DEFAULTS:
            if there.get(name) is not None and there[name] != here[name]:
                reason = f"{here[name]}: {path}, from which this training goes on, has {there[name]}"
                raise OptionError(name, reason + ": name another {}", "save_dir")
        check_frozen(state["model"], frozen_of(self._base.source, self._file).tensors, path)

    def options_found(self) -> dict[str, Any]:
        rank, alpha = alpha_of(self._file)
        config = self._file.config
        frozen = frozen_of(self._base.source, self._file).options
        found = {"lora_r": rank, "lora_alpha": alpha, "num_sparse": _entries(self._file)}
        found["sparse_method"] = config.get("sparse_method", DEFAULTS["sparse_method"])
        found["dsee_targets"] = ",".join(roles_in(self._file.updates))
        return {**found, "kept_heads": frozen.get("kept_heads"), NEURONS: frozen.get(NEURONS)}

    def frozen_tensors(self) -> dict[str, Tensor]:
        return frozen_of(self._base.source, self._file).tensors

    def added_tensors(self) -> dict[str, Tensor]:
        return update_tensors(self._file.updates)

    def deployed_model(self, options: dict[str, Any]) -> nn.Module:
        """Build the model that --dsee-checkpoint makes of a base; the base's weights are loaded into it."""
        file, path = read_file(self.cfg.dsee_checkpoint), self.cfg.dsee_checkpoint
        if issubclass(ARCH_MODEL_REGISTRY.get(options.get("_name"), nn.Module), DseeTransformerModel):
            raise OptionError("dsee_checkpoint", f"{path}: the model of {{}} has an update already", "path")
        with naming("dsee_checkpoint", path):
            merged = OmegaConf.create(options_after(options, file))
        model = self.built_stock(merged)
        merge_when_loaded(model, file, path, options)
        return model


def _entries(file: DseeFile) -> int:
    found = file.config.get("num_sparse")
    return found if isinstance(found, int) else max(len(one.values) for one in file.updates.values())
