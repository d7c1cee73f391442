"""Training something small beside a trained model that stays as it is: what DSEE and Delta-Tuning share.

The base is read once, its sizes become those of the model, its weights are frozen, and what comes of a
training is bound to it by hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Protocol

import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from ...artefacts.base import Base
from ...options.errors import OptionError
from ..heads.feed_forward import NEURONS, check_groups
from ..heads.gated_model import GatedTransformerModel, check_layers_kept
from ..heads.gated_task import GatedTranslationTask
from ..heads.new_training import name_of, starting_checkpoint
from ..training.dictionaries import check_dictionaries
from ..training.option_checks import DashedOptionError, spelling_options
from .base_checkpoint import BaseCheckpoint, read_base


class BoundFile(Protocol):
    """A file that belongs to one base."""

    base: Base


class FrozenBaseModel(GatedTransformerModel):
    """A transformer whose weights stay those of a base; a method adds what is trained, and subclasses it."""

    task_name = ""
    """The task that gives the model its base."""

    @classmethod
    def wants_gates(cls, options) -> bool:
        return False

    @classmethod
    def check_options(cls, options) -> None:
        check_layers_kept(options)
        if options.get(NEURONS) is not None:
            check_groups(options[NEURONS], options)
        for name in ("quant_noise_pq", "quant_noise_scalar"):
            if options.get(name):
                raise OptionError(name, "writes into the weights, which here stay as they are")

    @classmethod
    def check_training(cls, whole, options, task) -> None:
        if not isinstance(task, FrozenBaseTask):
            reason = f"{name_of(whole.task)} has no base for this model to start from, and would train "
            reason += f"nothing but random numbers: use {{}} {cls.task_name} and {{}} FILE"
            raise OptionError("task", reason, "task", "base_checkpoint")
        super().check_training(whole, options, task)


class FrozenBaseTask(GatedTranslationTask):
    """Translation that starts from a base, and trains what a method adds to it by any optimizer.

    A method subclasses it. Its configuration has `base_checkpoint`, and an option of the file that a training
    starts from, or that is put into the model of --path.
    """

    starts_from_base = True

    what = "an update"
    """What is trained, for messages."""

    made = "updated"
    """What is done to the base, for messages."""

    arch = ""
    """The architecture that takes its sizes from the base."""

    model_class: type[FrozenBaseModel] = FrozenBaseModel
    file_option = ""

    note = ""
    """Where a checkpoint's task state has what its file says beside the tensors."""

    def __init__(self, cfg, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._base: Optional[BaseCheckpoint] = None
        self._file: Optional[Any] = None

    def start(self, options: Mapping[str, Any], seed: int, resumes: bool) -> Any:
        """Return the file that a training starts from, made of the base or read.

        Args:
            options: all of the model's. resumes: a checkpoint has what is random in it.
        """
        raise NotImplementedError

    def check_resumed(self, path: str) -> None:
        """Refuse a checkpoint to go on from that is not of this training."""
        raise NotImplementedError

    def options_found(self) -> dict[str, Any]:
        """Return the options that the model has by the file."""
        raise NotImplementedError

    def frozen_tensors(self) -> dict[str, Tensor]:
        """Return the base's weights as the file has left them."""
        return self._base.tensors

    def added_tensors(self) -> dict[str, Tensor]:
        """Return what the file adds to them, or has in their place, by the names of the model."""
        raise NotImplementedError

    def noted(self) -> dict[str, Any]:
        """Return what a checkpoint is to say of the file, in built-in types and tensors."""
        raise NotImplementedError

    def deployed_model(self, options: dict[str, Any]) -> nn.Module:
        """Build the model that the file makes of a base with these options, whose weights will be loaded."""
        raise NotImplementedError

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model: to train, as base and file say; to translate, what the file makes of it.

        Raises:
            ValueError, FileNotFoundError: a base or file that is missing, damaged or does not fit; options
                that exclude each other.
        """
        if from_checkpoint:
            if not getattr(self.cfg, self.file_option):
                return super().build_model(cfg, from_checkpoint)
            options = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else vars(cfg)
            with spelling_options():
                return self.deployed_model(dict(options))
        if not issubclass(ARCH_MODEL_REGISTRY[cfg._name], self.model_class):
            reason = f"{cfg._name}: {self.what.partition(' ')[2]}s are trained on {self.arch}, for instance "
            prefix = self.arch.partition("_")[0]
            raise DashedOptionError("arch", f"{reason}{prefix}_{cfg._name}")
        model = super().build_model(cfg, from_checkpoint)
        with spelling_options():
            self._fill(model)
        return model

    def built_stock(self, cfg) -> nn.Module:
        """Build a model to translate with by its options alone."""
        return super().build_model(cfg, from_checkpoint=True)

    def prepare(self, cfg, model_class, options) -> None:
        whole = cfg._get_root()
        self._check_training(whole)
        self._base = read_base(self.cfg.base_checkpoint, f"is {self.made}")
        check_dictionaries(self._base.task_state, self, f"--base-checkpoint {self._base.path}")
        start = starting_checkpoint(whole.checkpoint)
        self._file = self.start(options, whole.common.seed, start is not None)
        if start is not None:
            self.check_resumed(start)
        self._base.take_sizes(cfg, options, self.arch)
        found = self.options_found()
        # into the configuration itself, so that fairseq saves it with every checkpoint
        with open_dict(cfg):
            cfg.update(found)
        options.update(found)
        super().prepare(cfg, model_class, options)

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into every checkpoint, among it what the file says beside its tensors."""
        return {**super().state_dict(), **({self.note: self.noted()} if self._file else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != self.note})

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
            reason = f"cannot be given: {self.what} starts from {{}}, and goes on from {{}}"
            raise OptionError("continue_once", reason, "base_checkpoint", "save_dir")
        common = whole.common
        if common.fp16 or common.bf16 or common.tpu:
            reason = (
                f"and {{}} round the frozen base, to which {self.what} is bound: leave them out, or take "
            )
            raise OptionError("fp16", reason + "{}", "bf16", "amp")
        if distributed.ddp_backend == "fully_sharded" or distributed.zero_sharding != "none":
            reason = f"fully_sharded and {{}} spread the weights: {self.what} needs its base whole"
            raise OptionError("ddp_backend", reason, "zero_sharding")
        if whole.ema.store_ema or whole.optimization.use_bmuf:
            reason = "and {} average weights, which is nothing for a frozen base: leave them out"
            raise OptionError("store_ema", reason, "use_bmuf")

    def _fill(self, model: nn.Module) -> None:
        """Give a model that was just built the base's weights, as the file has them, and what is trained."""
        frozen = self.frozen_tensors()
        self._base.check_fits(model, frozen)
        try:
            model.load_state_dict({**frozen, **self.added_tensors()}, strict=True)
        except RuntimeError as error:
            reason = f"{self._base.path} is of another architecture ({error})"
            raise OptionError("base_checkpoint", reason) from error
        self._base = None


def identity_of(base: BaseCheckpoint) -> Base:
    """Return which base it is: names, types, shapes and hash of its parameters, tied ones once."""
    return Base.of(base.model())


def check_base(file: BoundFile, tensors: Mapping[str, Tensor], owner: str) -> None:
    """Compare a file's base with a checkpoint's tensors.

    Args:
        owner: what belongs to the base, for messages.

    Raises:
        ValueError: it is another; names the difference.
    """
    if not all(name.startswith(("encoder.", "decoder.")) for name in file.base.parameters):
        raise ValueError("wrong base: the file was made on a Transformers model, not on one of fairseq's")
    whole = in_float(tensors)
    file.base.check(whole, file.base.find(whole, owner), owner)


def check_noted_base(noted: object, base: BaseCheckpoint, path: str) -> Base:
    """Compare the hash that a checkpoint says its base has with that of the base at hand, and return it.

    Raises:
        ValueError: it is of another base.
    """
    identity = identity_of(base)
    if noted != identity.hash:
        there, here = str(noted)[:12], identity.hash[:12]
        raise ValueError(
            f"{path}: wrong base: it is of the one of SHA-256 {there}..., and {base.path} is {here}..."
        )
    return identity


def in_float(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a model in float32 has them: a checkpoint may hold half precision."""
    return {name: part.float() if part.is_floating_point() else part for name, part in tensors.items()}


def check_frozen(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str) -> None:
    """Compare the weights that nothing trains with what they must be, bit for bit.

    Raises:
        ValueError: they differ; names one.
    """
    for name, tensor in expected.items():
        # a tensor of an older name has another one there, and without it no model loads
        if name not in found or name.rsplit(".", 1)[-1] in ("version", "_float_tensor"):
            continue
        if not torch.equal(found[name].to(tensor.dtype), tensor):
            raise ValueError(
                f"{path}: {name} is not what base and file say: it is of another base, or something has "
                "trained what is frozen"
            )


def made_by(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of the training that a checkpoint is of: its updates and its seed."""
    history = (state.get("optimizer_history") or [{}])[-1]
    seed = ((state.get("cfg") or {}).get("common") or {}).get("seed")
    return {"updates": history.get("num_updates"), "training_seed": seed}
