"""The base of a diff on fairseq: a translation model in a checkpoint, and a model that starts from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import Tensor, nn

from ...artefacts.base import tensors_of
from ...diffs import DiffPack, DiffVector, SparseDiff
from ...options.errors import OptionError
from ..checkpoints.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

# options of a transformer that change how it is trained, and neither its weights nor what it computes with
# them
_OF_TRAINING = set(
    """
    dropout attention_dropout activation_dropout adaptive_softmax_dropout relu_dropout encoder_layerdrop
    decoder_layerdrop checkpoint_activations offload_activations min_params_to_wrap quant_noise_pq
    quant_noise_pq_block_size quant_noise_scalar export
    """.split()
)


@dataclass
class BaseCheckpoint:
    """A trained model that diffs are made against.

    Attributes:
        path: the checkpoint file.
        options: of its model, as `diff_transformer` takes them, `kept_heads` among them.
        tensors: its weights by the names of today.
        task_state: what its task has saved.
    """

    path: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    task_state: dict[str, Any] = field(default_factory=dict)

    def sizes(self) -> dict[str, Any]:
        """Return the options that a model on this base must share: all but those of training."""
        return {
            name: value
            for name, value in self.options.items()
            if name not in _OF_TRAINING and name != "_name"
        }

    def model(self) -> nn.Module:
        """Return the model itself, built without its data; float32, its parameters asking for gradients."""
        from ..surgery.equality import model_of, placeholder_task

        state = {"cfg": {"model": self.options}, "model": self.tensors}
        return model_of(state, placeholder_task(self.tensors)).requires_grad_(True)

    def load_into(self, model: nn.Module) -> None:
        """Give a model that was just built the base's weights.

        Raises:
            ValueError: the model is of another architecture, or of data with another dictionary.
        """
        ours = model.state_dict()
        for name, tensor in self.tensors.items():
            if name in ours and ours[name].shape != tensor.shape:
                there, here = list(tensor.shape), list(ours[name].shape)
                why = "another architecture"
                if name.endswith("embed_tokens.weight") and there[1:] == here[1:]:
                    remedy = "binarise with the base's: fairseq-preprocess --srcdict, --tgtdict"
                    why = f"data with another dictionary ({remedy})"
                reason = f"{self.path} is of {why}: {name} is {there} there, {here} here"
                raise OptionError("base_checkpoint", reason)
        try:
            model.load_state_dict(dict(self.tensors), strict=True)
        except RuntimeError as error:
            reason = f"{self.path} is of another architecture ({error})"
            raise OptionError("base_checkpoint", reason) from error


def read_base(path: Optional[str]) -> BaseCheckpoint:
    """Read and check the checkpoint of --base-checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: none is named; a damaged or hostile file, another kind of model, or one with head gates
            still on it.
    """
    from ..heads.checkpoint_heads import SCORES
    from ..surgery.pruning import prepare

    if not path:
        raise OptionError("base_checkpoint", "FILE: name the trained model that the diff is against")
    try:
        source = prepare(load_checkpoint(path))
    except ValueError as error:
        raise OptionError("base_checkpoint", f"{path}: {error}") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"--base-checkpoint {path}: no such file") from None
    if SCORES in source.tensors:
        reason = f"{path} has gates on its heads, which a diff knows nothing of: take its dead heads out "
        raise OptionError("base_checkpoint", f"{reason}first (dsp prune {path} --out pruned.pt)")
    return BaseCheckpoint(path, source.options, source.tensors, source.state.get("task_state") or {})


def starts_elsewhere(option: str) -> OptionError:
    """Make the error for an option that would let a diff start from another model than its base."""
    reason = "cannot be given: a diff starts from {}, and goes on from {}"
    return OptionError(option, reason, "base_checkpoint", "save_dir")


@dataclass
class DiffStart:
    """All that an optimizer needs to train a diff of a model; it hangs on the parameters that it is given.

    Attributes:
        model: as it was built.
        base: the base's weights by name, tied ones once.
        mask: where there is one, the diff whose positions alone are trained.
        vector: the diff in training, once there is an optimizer.
    """

    model: nn.Module
    base: dict[str, Tensor]
    mask: Optional[SparseDiff] = None
    vector: Optional[DiffVector] = None


def start_from(model: nn.Module, mask: Optional[SparseDiff] = None) -> DiffStart:
    """Take down a model's weights as they are now as its base; optimizers of diffs find them (`start_of`).

    With a mask, parameters without a kept position stop asking for gradients: before the model is wrapped for
    several processes, which wait for the gradients of all that ask.
    """
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start = DiffStart(model, base, mask)
    for name, parameter in model.named_parameters():
        parameter.diff_start = start
        if mask is not None:
            parameter.requires_grad_(name in mask.entries and mask.entries[name][0].numel() > 0)
    return start


def start_of(parameters: Iterable[Tensor], optimizer: str) -> DiffStart:
    """Return the start that `start_from` has left on parameters.

    Raises:
        ValueError: there is none.
    """
    start = next((p.diff_start for p in parameters if hasattr(p, "diff_start")), None)
    if start is None:
        reason = f"{optimizer} needs {{}} diff_translation and {{}} FILE"
        raise OptionError("optimizer", reason, "task", "base_checkpoint")
    return start


def read_pack(path: str, option: str) -> DiffPack:
    """Read the pack that an option names.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, one of a newer format; names the option.
    """
    try:
        return DiffPack.load(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{option} {path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error  # it names the file


def check_pack(
    pack: DiffPack, model: nn.Module | Mapping[str, Tensor], path: str, option: str, base: str
) -> None:
    """Compare a pack's base with a model.

    Raises:
        ValueError: it is another; names the option and the base.
    """
    tensors = tensors_of(model)
    try:
        pack.base.check(tensors, pack.base.find(tensors))
    except ValueError as error:
        raise ValueError(f"{option} {path} does not fit {base}: {error}") from error


def apply_when_loaded(model: nn.Module, pack: DiffPack, path: str) -> None:
    """Put a pack into a model as soon as its weights have been loaded.

    Raises, from `load_state_dict`:
        ValueError: they are not those of the pack's base; they stay as they were loaded.
    """

    def apply(*_) -> None:
        check_pack(pack, model, path, "--diff-pack", "the model of --path")
        pack.apply(model, check=False)
        logger.info(f"--diff-pack {path}: {pack.count} of {pack.base.total} weights changed")

    model.register_load_state_dict_post_hook(apply)
