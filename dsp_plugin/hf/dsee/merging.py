"""The end of an update: one matrix of it and the frozen one, dense or under the mask.

While it is trained a matrix is W0 ⊙ S1 + ΔW: ΔW has low rank and is dense, so that its product with x fills
the places that S1 has emptied. `merge_dsee(model)` gives a model of the same outputs, with dense matrices in
the places of the targets; all others are as sparse as before. `merge_dsee(model, masked=True)` gives
(W0 + ΔW) ⊙ S1, which is sparse, and another model. Which one it will be can be seen before, and trained for:
`mask_updates(model)` lets every layer compute with ΔW ⊙ S1, whose outputs are those of the masked merge. It
makes one matrix of a target's size at a time, which training without it never does.
"""

from __future__ import annotations

from torch import nn

from ...dsee.merge import merged_weight
from .layer import dsee_layers
from .state import dsee_of, take_off
from .targets import as_matrix
from .weights import matrix_mask, place_masks


def mask_updates(model: nn.Module, masked: bool = True) -> None:
    """Let the updates of a model count only where S1 has left weights, or everywhere again.

    Args:
        masked: False to go back to W0 ⊙ S1 + ΔW. What is pruned afterwards counts, too.

    Raises:
        ValueError: no weights are pruned.
    """
    if masked and not dsee_of(model).masks:
        raise ValueError("no weights are pruned: there is no mask that updates could count under")
    place_masks(model, masked)


def merge_dsee(model: nn.Module, masked: bool | None = None) -> nn.Module:
    """Write the updates into the frozen matrices, in place, and take PEFT's layers off.

    What is left is a plain model of its class, which `save_pretrained` (after surgery `save_pruned`) writes
    and any program loads. Its parameters can be trained again.

    Args:
        masked: False for W0 ⊙ S1 + ΔW, whose outputs are the model's; True for (W0 + ΔW) ⊙ S1, which stays
            sparse. None for what the model computes now: see `mask_updates`.

    Returns:
        the model

    Raises:
        ValueError: the model has no update, or PEFT has merged it already.
    """
    state, layers = dsee_of(model), dsee_layers(model)
    if any(layer.merged for layer in layers.values()):
        raise ValueError("PEFT has merged the update into its matrices already: unmerge it first")
    for path, layer in layers.items():
        mask = state.masks.get(f"{path}.weight")
        mask = None if mask is None else matrix_mask(layer.base_layer, mask)
        under = layer.dsee_mask is not None if masked is None else masked
        weight = merged_weight(layer.matrix(), mask, under)
        layer.base_layer.weight.data.copy_(as_matrix(layer.base_layer, weight))
    take_off(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
