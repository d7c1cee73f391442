"""Checks of one small model of a family under gates, after surgery and after loading.

The measure is a stock copy whose heads, or groups of neurons, are closed by hand (`family_oracle`).
"""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dsp_plugin.hf as hf  # isort: skip  (before any model class: it hides a torchaudio that cannot be loaded)
import torch
from family_models import attention_modules, build, class_name, is_attention, model_classes, with_inputs
from family_oracle import NeuronOracle, Oracle, uneven_masks
from family_outputs import Wrong, cached, floats, largest_difference, run, said
from small_configs import small_config
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from dsp_plugin.gating import FixedGates, HeadMap, RelaxedSubset, constant_temperature
from dsp_plugin.hf.heads.layouts.locate import NotSupported

RIGHT, REFUSED, WRONG, NOT_BUILT = "right", "refused", "WRONG", "not built"
ROUNDING = 1e-9  # in float64, relative to the largest output
# or, for models that compute in single precision, relative to the effect of closing the heads of a block
SHARE = 1e-4


@dataclass
class Result:
    """The outcome for one model class.

    Attributes:
        status: one of the constants above.
        reason: the reason of the status, or the error.
        effect: smallest effect of closing a block's heads on the outputs.
        differences: name of a comparison -> largest difference to the oracle.
        classes: how often each attention class occurs in the model.
        wrappers: attention classes that only hold others.
        notes: what could not be checked.
    """

    family: str
    model: str
    status: str = NOT_BUILT
    reason: str = ""
    heads: int = 0
    effect: float = 0.0
    differences: dict[str, float] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    wrappers: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return max(self.differences.values(), default=0.0)


class NoTest(Exception):
    """A small model that shows nothing."""


def check_neurons(family: str) -> list[Result]:
    """Check the same model classes with groups of neurons in the place of heads."""
    return check_family(family, neurons=True)


def check_family(family: str, neurons: bool = False) -> list[Result]:
    """Check model classes of one type that between them have all its attention classes."""
    try:
        config = small_config(family)
        classes = model_classes(config)
    except Exception as error:
        return [Result(family, "", reason=said("configuration", error))]
    if isinstance(classes, str):
        return [Result(family, "", reason=classes)]
    results = [check_model(family, one, copy.deepcopy(config), neurons) for one in classes]
    if neurons:
        return results
    return [*results, *_as_decoder(family, config, {name for result in results for name in result.classes})]


def _as_decoder(family: str, config: PreTrainedConfig, seen: set[str]) -> list[Result]:
    """Check an encoder's type as a decoder with cross-attention, where that brings further classes."""
    if "add_cross_attention" not in vars(config) or config.is_encoder_decoder:
        return []
    config.is_decoder = config.add_cross_attention = True
    classes = model_classes(config)
    if isinstance(classes, str):
        return []
    takes = [one for one in classes if "encoder_hidden_states" in inspect.signature(one.forward).parameters]
    results = [check_model(family, model_class, copy.deepcopy(config)) for model_class in takes]
    return [result for result in results if result.classes.keys() - seen]


def check_model(
    family: str, model_class: type[PreTrainedModel], config: PreTrainedConfig, neurons: bool = False
) -> Result:
    """Check one model class; whatever goes wrong is the result's status and reason."""
    result = Result(family, model_class.__name__)
    try:
        model = build(model_class, config)
        result.classes = dict(Counter(class_name(type(module)) for _, module in attention_modules(model)))
        result.wrappers = {
            class_name(type(m)) for m in model.modules() if is_attention(type(m))
        } - result.classes.keys()
        if neurons:  # one row a model: feed-forward blocks have no names in common
            result.classes, result.wrappers = {class_name(model_class): 1}, set()
        model, inputs = with_inputs(model)
        if getattr(config, "add_cross_attention", False) and not config.is_encoder_decoder:
            states = torch.randn(3, 6, config.hidden_size, generator=torch.Generator().manual_seed(2))
            inputs["encoder_hidden_states"] = states.to(next(model.parameters()).dtype)
    except Exception as error:
        if not _refused_at_once(result, model_class, config):
            result.reason = said("build", error)
        return result
    stage = ["head_map_of"]
    try:
        units = {"neurons": _group(model), "heads": False} if neurons else {}
        heads = hf.head_map_of(model, **units)
    except ValueError as error:
        result.status, result.reason = REFUSED, str(error)
        return result
    except Exception as error:
        result.status, result.reason = WRONG, said(stage[0], error)
        return result
    try:
        _check(model, inputs, heads, units, result, stage)
        result.status = RIGHT
    except Wrong as error:
        result.status, result.reason = WRONG, str(error)
    except NoTest as error:
        result.status, result.reason = NOT_BUILT, str(error)
    except ValueError as error:
        before = stage[0] in ("gate_heads", "prune_heads")  # anything is written
        result.status, result.reason = (REFUSED if before else WRONG), said(stage[0], error)
    except Exception as error:
        result.status, result.reason = WRONG, said(stage[0], error)
    return result


def _refused_at_once(result: Result, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Return whether a model that could not be fed is refused; note it in the result."""
    try:
        hf.head_map_of(build(model_class, config))
    except NotSupported as error:
        result.status, result.reason = REFUSED, str(error)
        return True
    except Exception:
        pass
    return False


def _group(model: PreTrainedModel) -> int:
    """Return a size of groups that divides the neurons of every block."""
    for size in (8, 4, 2):
        try:
            hf.head_map_of(model, size)
        except NotSupported:
            raise
        except ValueError:
            continue
        return size
    return 1


def _check(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    heads: HeadMap,
    units: dict[str, Any],
    result: Result,
    stage: list[str],
) -> None:
    result.heads = heads.num_heads
    oracle = NeuronOracle(model, heads) if units else Oracle(model, heads)
    overlooked = oracle.overlooked()
    if overlooked:
        raise Wrong(f"overlooked: {', '.join(overlooked)}")
    stock = run(model, inputs)
    scale = max(float(part.abs().max()) for part in stock)
    reached = oracle.reached(inputs)
    if len(reached) < len(heads.blocks):
        result.notes.append(
            f"{len(heads.blocks) - len(reached)} of {len(heads.blocks)} blocks not reached by these inputs"
        )
    if not reached:
        raise NoTest("no attention block is reached by random inputs")

    masks = uneven_masks(heads)
    effects = []
    for block in reached:
        start, stop = heads.range(block)
        keep = torch.ones(heads.num_heads, dtype=torch.bool)
        keep[start:stop] = False
        with oracle.closed(keep):
            effects.append(largest_difference(stock, run(oracle.model, inputs), inputs))
    result.effect = min(effects)
    if result.effect < 1e-7 * scale:
        result.notes.append(f"{sum(e < 1e-7 * scale for e in effects)} blocks without effect on the outputs")
    strong = [effect for effect in effects if effect >= 1e-7 * scale]
    if not strong:
        raise NoTest("with random weights no attention block has an effect on the outputs")
    allowed = max(ROUNDING * scale, SHARE * min(strong))

    def compare(name: str, found: list[Tensor], wanted: list[Tensor]) -> None:
        difference = largest_difference(found, wanted, inputs)
        result.differences[name] = max(difference, result.differences.get(name, 0.0))
        if not difference <= allowed:
            raise Wrong(
                f"{name}: differs by {difference:.2g} of outputs up to {scale:.2g} (closing a block: "
                f"{min(strong):.2g})"
            )

    for number, keep in enumerate(masks):
        with oracle.closed(keep):
            wanted = run(oracle.model, inputs)
            steps = cached(oracle.model, inputs)
        stage[0] = "gate_heads"
        gated = copy.deepcopy(model)
        hf.gate_heads(gated, FixedGates(keep), **units)
        gated.eval()
        stage[0] = "the gated model"
        compare("gated", run(gated, inputs), wanted)
        if steps is not None:
            stage[0] = "a step of the gated model with its cache"
            compare("gated, cache", cached(gated, inputs, must=True), steps)
        if number:
            continue
        stage[0] = "prune_heads"
        pruned = copy.deepcopy(model)
        hf.prune_heads(pruned, keep, **units)
        stage[0] = "the pruned model"
        compare("pruned", run(pruned, inputs), wanted)
        if steps is not None:
            stage[0] = "a step of the pruned model with its cache"
            compare("pruned, cache", cached(pruned, inputs, must=True), steps)
        with tempfile.TemporaryDirectory() as folder:
            stage[0] = "save_pruned"
            hf.save_pruned(pruned, Path(folder) / "pruned")
            stage[0] = "load_pruned"
            loaded = hf.load_pruned(Path(folder) / "pruned", dtype=model.dtype).eval()
        stage[0] = "the reloaded model"
        compare("reloaded", run(loaded, inputs), wanted)
        if steps is not None:
            stage[0] = "a step of the reloaded model with its cache"
            compare("reloaded, cache", cached(loaded, inputs, must=True), steps)
    stage[0] = "training under gradient checkpointing"
    weak = [b for b, e in zip(reached, effects) if e < 1e-7 * scale]
    _train(model, inputs, heads, units, reached, weak, result)


def _train(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    heads: HeadMap,
    units: dict[str, Any],
    reached: list[str],
    weak: list[str],
    result: Result,
) -> None:
    """Check that one step with drawn gates gives the scores of every block reached a finite gradient."""
    stock = _trainable(copy.deepcopy(model))
    try:
        _loss(stock, inputs).backward()
    except Exception as error:
        result.notes.append(said("the stock model does not train on these inputs", error))
        return
    gated = copy.deepcopy(model)
    gates = RelaxedSubset(heads, max(1, heads.num_heads // 2), constant_temperature(1.0))
    hf.gate_heads(gated, gates, **units)
    _trainable(gated)
    _loss(gated, inputs).backward()
    grad = gated.gating.gates.scores.grad
    if grad is not None and not grad.isfinite().all() and not _finite(stock):
        result.notes.append("the stock model's own gradients are not finite on these inputs")
        return
    if grad is None or not grad.isfinite().all():
        raise Wrong("training: the scores' gradient is missing or not finite")
    for block in set(reached) - set(weak):
        start, stop = heads.range(block)
        if not grad[start:stop].abs().max() > 0:
            raise Wrong(f"training: the scores of {block} get no gradient")


def _finite(model: PreTrainedModel) -> bool:
    """Return whether all gradients of a model are numbers."""
    return all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def _trainable(model: PreTrainedModel) -> PreTrainedModel:
    model.train()
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def _loss(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    return sum(part.square().mean() for part in floats(model(**inputs)) if part.requires_grad)
