"""Stage II, unstructured: S1 on the frozen matrices, in the two global groups of the paper.

Pruned weights are exactly 0 and stay so: nothing trains the frozen matrices. The update under them is not
masked in training, as published: see `merging`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D

from ...dsee.scores import check_mode, weight_scores
from ...dsee.weight_masks import PackedMask, check_ratio, cubic_ratio, prune_group
from ...options.errors import OptionError
from .layer import DseeLinear, dsee_layers
from .state import Dsee, dsee_of
from .targets import as_matrix


def prune_weights(
    model: nn.Module,
    pruning_ratio: float = 0.2,
    ad_pruning_ratio: float = 0.2,
    mode: str = "ABS",
    seed: int = 0,
) -> dict[str, int]:
    """Set weights of the frozen matrices to 0, in place, and note which: S1.

    Two groups are ranked, each over all its matrices at once. The weights that have an update (query and
    value) go by `mode`; those of all other linear layers of the base model (key, dense, pooler) by magnitude.
    Embeddings and the task head are left alone. Called again with a larger share it goes on: what is pruned
    does not come back.

    Args:
        model: with an update, trained (a score by B A says nothing as long as B is 0).
        pruning_ratio: share of the weights without an update that is gone afterwards.
        ad_pruning_ratio: the same of the weights with one.
        mode: W, AB, ABS, WAB, WABS, NAB, NABS or random.
        seed: for `random`.

    Returns:
        {"pruned": weights that are 0 now, "weights": those of both groups}

    Raises:
        OptionError: a share outside [0, 1) or smaller than what is pruned already, or an unknown mode.
        ValueError: the model has no update, or one that nothing has trained, and is to be scored by it alone;
            a score is not a number.
    """
    check_mode(mode)
    check_ratio(pruning_ratio, "pruning_ratio")
    check_ratio(ad_pruning_ratio, "ad_pruning_ratio")
    state, layers = dsee_of(model), dsee_layers(model)
    generator = torch.Generator().manual_seed(seed)
    by_size: dict[tuple[str, int, int], Tensor] = {}
    by_mode: dict[tuple[str, int, int], Tensor] = {}
    matrices = dict(prunable(model, state))
    for path, module in matrices.items():
        rows = _weight(module).shape[0]
        inside, outside = _ranges(state, path, rows)
        scores = weight_scores(layers[path].matrix(), mode, generator) if inside else None
        by_mode |= {(path, start, stop): scores[start:stop] for start, stop in inside}
        by_size |= {(path, start, stop): _weight(module)[start:stop].abs() for start, stop in outside}
    if any(layer.merged for layer in layers.values()):
        raise ValueError("PEFT has merged the update into its matrices: unmerge it before they are pruned")
    if ad_pruning_ratio and mode.removeprefix("N") in ("AB", "ABS"):
        check_trained(layers, sparse=mode.endswith("S"))
    gone = {path: ~_mask(state, path, module) for path, module in matrices.items()}
    before = {key: gone[key[0]][key[1] : key[2]] for key in (*by_size, *by_mode)}
    left = prune_group(by_size, pruning_ratio, before, "pruning_ratio")
    left |= prune_group(by_mode, ad_pruning_ratio, before, "ad_pruning_ratio")
    masks = {}
    for path, module in matrices.items():
        mask = torch.cat([left[key] for key in sorted(left) if key[0] == path])  # ranges of [m, n]
        masks[f"{path}.weight"] = PackedMask.of(as_matrix(_plain(module), mask))
    set_masks(model, masks)
    sizes = [mask.size - mask.kept for mask in masks.values()]
    return {"pruned": sum(sizes), "weights": sum(mask.size for mask in masks.values())}


def set_masks(model: nn.Module, masks: dict[str, PackedMask]) -> None:
    """Apply masks to the frozen weights of these names, and note them as S1. Full ones are not kept."""
    modules = dict(model.named_modules())
    for name, mask in masks.items():
        mask.apply_(_plain(modules[name.removesuffix(".weight")]).weight)
    state = dsee_of(model)
    state.masks = {name: mask for name, mask in masks.items() if mask.kept < mask.size}
    if state.masks_updates:
        place_masks(model, True)


def place_masks(model: nn.Module, masked: bool) -> None:
    """Let every layer have the part of S1 that its update counts under, or none."""
    state = dsee_of(model)
    state.masks_updates = masked
    for path, layer in dsee_layers(model).items():
        mask = state.masks.get(f"{path}.weight") if masked else None
        layer.dsee_mask = None if mask is None else matrix_mask(layer.base_layer, mask)


def matrix_mask(module: nn.Module, mask: PackedMask) -> PackedMask:
    """Return a mask that lies as a weight does as one of [m, n]."""
    flags = mask.mask()
    turned = as_matrix(module, flags)
    return mask if turned is flags else PackedMask.of(turned)


@torch.no_grad()
def check_zeros(model: nn.Module) -> None:
    """Raise a ValueError where a pruned weight is not exactly 0 any more; names its matrix."""
    modules = dict(model.named_modules())
    for name, mask in dsee_of(model).masks.items():
        weight = _plain(modules[name.removesuffix(".weight")]).weight
        if bool(weight[~mask.mask(weight.device)].any()):
            raise ValueError(f"{name} has weights that were pruned and are not 0: something has trained them")


def pruned_shares(model: nn.Module) -> tuple[float, float]:
    """Return the shares of weights that S1 has taken: of those without an update, and of those with one."""
    state, counts = dsee_of(model), {True: [0, 0], False: [0, 0]}
    for path, module in prunable(model, state):
        left = _mask(state, path, module)
        for inside, ranges in zip((True, False), _ranges(state, path, len(left))):
            for start, stop in ranges:
                counts[inside][0] += int((~left[start:stop]).sum())
                counts[inside][1] += left[start:stop].numel()
    outside, within = (gone / max(total, 1) for gone, total in (counts[False], counts[True]))
    return outside, within


def zeros_of(model: nn.Module) -> dict[str, PackedMask]:
    """Return what is not 0 of the frozen matrices, or 0 by S1: a base can have zeros of its own."""
    found, masks = {}, dsee_of(model).masks
    for path, module in prunable(model, dsee_of(model)):
        weight = _plain(module).weight
        mask = masks.get(f"{path}.weight")
        other = weight != 0 if mask is None else (weight != 0) | ~mask.mask(weight.device)
        found[f"{path}.weight"] = PackedMask.of(other)
    return found


def masks_of_zeros(model: nn.Module, own: Mapping[str, PackedMask]) -> None:
    """Take zeros of the frozen matrices into S1, where a checkpoint of pruned weights was loaded.

    Args:
        own: `zeros_of` the model before the checkpoint was loaded: these zeros are no pruned weights.
    """
    found, masks = {}, dsee_of(model).masks
    for path, module in prunable(model, dsee_of(model)):
        name, weight = f"{path}.weight", _plain(module).weight
        left = (weight != 0) | ~own[name].mask(weight.device)
        if name in masks:  # of a file, which says it
            left &= masks[name].mask(weight.device)
        found[name] = PackedMask.of(left)
    set_masks(model, found)


class GradualPruning(TrainerCallback):
    """Prunes weights during a Trainer's training, by a cubic schedule: fast at first, to both shares at last.

    It begins with what is pruned already.

    Args:
        model: with an update; this is made before a training is resumed.
        pruning_ratio, ad_pruning_ratio, mode, seed: see `prune_weights`.
        first, last: the updates between which the shares grow. every: updates between two steps of it.
    """

    def __init__(
        self,
        model: nn.Module,
        pruning_ratio: float,
        ad_pruning_ratio: float,
        mode: str,
        first: int,
        last: int,
        every: int = 1,
        seed: int = 0,
    ):
        check_mode(mode)
        self.starts, self.own = pruned_shares(model), zeros_of(model)
        names = ("pruning_ratio", "ad_pruning_ratio")
        for name, ratio, start in zip(names, (pruning_ratio, ad_pruning_ratio), self.starts):
            check_ratio(ratio, name)
            if start > ratio:
                raise OptionError(name, f"is {ratio}, and {start:.4g} of these weights are pruned already")
            cubic_ratio(0, first, last, ratio, start)  # whether it can be
        self.model, self.ratios = model, (pruning_ratio, ad_pruning_ratio)
        self.mode, self.seed, self.span, self.every = mode, seed, (first, last), every

    def prune(self, update: int) -> None:
        """Bring the masks to what they are after so many updates."""
        shares = [cubic_ratio(update, *self.span, *one) for one in zip(self.ratios, self.starts)]
        prune_weights(self.model, *shares, self.mode, self.seed)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:  # resumed: the checkpoint has the zeros
            masks_of_zeros(self.model, self.own)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first, last = self.span
        done = state.global_step
        if first < done < last and (done - first) % self.every == 0 or done == max(last, 1):
            self.prune(done)


def check_trained(layers: Mapping[str, DseeLinear], sparse: bool = True) -> None:
    """Raise a ValueError where all updates are zero, as before training: nothing can be ranked by them.

    Args:
        sparse: S2 counts; else B A alone.
    """
    with torch.no_grad():
        trained = any(bool(one.up.any()) and bool(one.down.any()) for one in layers.values())
        trained = trained or sparse and any(bool(one.dsee_values.any()) for one in layers.values())
    if not trained:
        raise ValueError(
            "the update is zero, because nothing has trained it: it ranks no weights and no heads"
        )


def prunable(model: nn.Module, state: Dsee) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, module) for the linear layers whose weights S1 may take: a layer with an update, or plain.

    They are those of the base model, by name: embeddings and what lies in them, the task head, and weights
    that something else shares are left out.
    """
    names: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                names[id(parameter)] = names.get(id(parameter), 0) + 1
    layers = dsee_layers(model)
    inside = tuple(f"{path}." for path in layers)
    # what turns the last layer into words is an embedding, too, tied or not
    words = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    seen = set() if words is None else {id(words)}
    for path, module in model.named_modules():
        if path.startswith(inside) or not isinstance(module, (nn.Linear, Conv1D, DseeLinear)):
            continue
        weight = f"{path}.weight"
        embedding = any(step.lower().startswith("embed") for step in path.split("."))
        own = weight in state.base.parameters and names[id(_plain(module).weight)] == 1
        if own and not embedding and id(module) not in seen:
            seen.add(id(module))
            yield path, module


def _plain(module: nn.Module) -> nn.Module:
    return module.base_layer if isinstance(module, DseeLinear) else module


def _weight(module: nn.Module) -> Tensor:
    """Return the frozen weight as [m, n]."""
    plain = _plain(module)
    return as_matrix(plain, plain.weight.detach())


def _mask(state: Dsee, path: str, module: nn.Module) -> Tensor:
    """Return S1 of a matrix as [m, n], True for what is left."""
    weight = _weight(module)
    known = state.masks.get(f"{path}.weight")
    if known is None:
        return torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    return as_matrix(_plain(module), known.mask(weight.device))


def _ranges(state: Dsee, path: str, rows: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the ranges of output features that have an update, and those between them."""
    target = next((target for target in state.targets if target.path == path), None)
    inside = [] if target is None else [(part.start, part.stop) for part in target.parts]
    ends = [0, *(end for pair in inside for end in pair), rows]
    outside = [(ends[n], ends[n + 1]) for n in range(0, len(ends), 2) if ends[n] < ends[n + 1]]
    return inside, outside
