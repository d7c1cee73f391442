"""A trained translation model in a checkpoint that others are made of: diffs and updates start from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import open_dict
from torch import Tensor, nn

from ...options.errors import OptionError
from ..checkpoints.checkpoint import check_same_sizes, load_checkpoint
from ..heads.checkpoint_heads import SCORES
from ..heads.feed_forward import NEURONS
from .equality import model_of, placeholder_task
from .pruning import CheckpointModel, prepare

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
    """A trained model that something is made against.

    Attributes:
        path: the checkpoint file.
        source: the checkpoint, ready to have heads taken out.
    """

    path: str
    source: CheckpointModel

    @property
    def options(self) -> dict[str, Any]:
        """Those of its model, as `dsp_transformer` takes them, `kept_heads` among them."""
        return self.source.options

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by the names of today."""
        return self.source.tensors

    @property
    def task_state(self) -> dict[str, Any]:
        """What its task has saved."""
        return self.source.state.get("task_state") or {}

    def sizes(self) -> dict[str, Any]:
        """Return the options that a model on this base must share: all but those of training."""
        return {
            name: value
            for name, value in self.options.items()
            if name not in _OF_TRAINING and name != "_name"
        }

    def model(self) -> nn.Module:
        """Return the model itself, built without its data; float32, its parameters asking for gradients."""
        state = {"cfg": {"model": self.options}, "model": self.tensors}
        return model_of(state, placeholder_task(self.tensors)).requires_grad_(True)

    def check_fits(self, model: nn.Module, tensors: Optional[Mapping[str, Tensor]] = None) -> None:
        """Compare the shapes of a model's weights with the base's, where both have a name.

        Args:
            tensors: what pruning has left of the base's; None for all.

        Raises:
            OptionError: the model is of another architecture, or of data with another dictionary.
        """
        ours = model.state_dict()
        for name, tensor in (self.tensors if tensors is None else tensors).items():
            if name in ours and ours[name].shape != tensor.shape:
                there, here = list(tensor.shape), list(ours[name].shape)
                why = "another architecture"
                if name.endswith("embed_tokens.weight") and there[1:] == here[1:]:
                    remedy = "binarise with the base's: fairseq-preprocess --srcdict, --tgtdict"
                    why = f"data with another dictionary ({remedy})"
                reason = f"{self.path} is of {why}: {name} is {there} there, {here} here"
                raise OptionError("base_checkpoint", reason)

    def load_into(self, model: nn.Module) -> None:
        """Give a model that was just built the base's weights. Errors as `check_fits`."""
        self.check_fits(model)
        try:
            model.load_state_dict(dict(self.tensors), strict=True)
        except RuntimeError as error:
            reason = f"{self.path} is of another architecture ({error})"
            raise OptionError("base_checkpoint", reason) from error

    def take_sizes(self, cfg: Any, options: dict[str, Any], own_arch: str) -> None:
        """Write the base's sizes into the configuration of a model that is to start from it.

        Args:
            cfg: the configuration itself, so that fairseq saves them with every checkpoint. options: all of
                the model's, changed alike.
            own_arch: the name of the architecture that takes all of them; of any other the base must have its
                sizes.

        Raises:
            ValueError: it has others.
        """
        known = MODEL_DATACLASS_REGISTRY[own_arch].__dataclass_fields__  # and no options of gates
        sizes = {name: value for name, value in self.sizes().items() if name in known}
        if cfg._name != own_arch:
            check_same_sizes(self.path, sizes, options)
            sizes = {name: sizes.get(name) for name in ("kept_heads", NEURONS)}
        with open_dict(cfg):
            cfg.update(sizes)
        options.update(sizes)


def read_base(path: Optional[str], what: str = "the diff is against") -> BaseCheckpoint:
    """Read and check the checkpoint of --base-checkpoint.

    Args:
        what: is made of the model, to stand behind "the trained model that".

    Raises:
        FileNotFoundError: no such file.
        ValueError: none is named; a damaged or hostile file, another kind of model, or one with head gates
            still on it.
    """
    if not path:
        raise OptionError("base_checkpoint", f"FILE: name the trained model that {what}")
    try:
        source = prepare(load_checkpoint(path))
    except ValueError as error:
        raise OptionError("base_checkpoint", f"{path}: {error}") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"--base-checkpoint {path}: no such file") from None
    if SCORES in source.tensors:
        reason = f"{path} has gates on its heads, which are to be settled first: take its dead heads out "
        raise OptionError("base_checkpoint", f"{reason}(dsp prune {path} --out pruned.pt)")
    return BaseCheckpoint(path, source)
