"""A checkpoint's model with fewer heads, for the scores of a sweep."""

from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import Tensor, nn

from .pruning import CheckpointModel, remove_heads


def model_without(source: CheckpointModel, keep: Tensor, task) -> nn.Module:
    """Return the checkpoint's model without the other heads, as `dsp prune` would write it, to evaluate.

    Args:
        keep: bool [heads the model has now].
    """
    state = remove_heads(source, keep).state
    model = build_model(OmegaConf.create(state["cfg"]["model"]), task, from_checkpoint=True)
    model.load_state_dict(state["model"], strict=True)
    return model.eval()
