"""Is one small model of a family right under gates, after surgery and after loading, or is it refused?

The oracle is a stock copy: where the model calls Transformers' attention functions, the context of each closed head is set to
0 there, by the number of heads seen at that moment; else the columns of the output projection are, by the numbers in the
module. Neither asks the gates or the surgery where a head lies.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple, Type

import dsp_plugin.hf as hf  # isort: skip  (before any model class: it hides a torchaudio that cannot be loaded)
import torch
from small_configs import small_config
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from dsp_plugin.gating import FixedGates, HeadMap, RelaxedSubset, constant_temperature
from dsp_plugin.hf.layouts import attentions_of
from dsp_plugin.hf.random_inputs import random_inputs

RIGHT, REFUSED, WRONG, NOT_BUILT = "right", "refused", "WRONG", "not built"
ROUNDING = 1e-9  # of float64, relative to the largest output
SHARE = 1e-4  # or this share of what closing the heads of a block does, for models that go through single precision
LARGEST = 16_000_000  # weights; above that a configuration is not small
NAMES = re.compile(r".*(Attention|Attn)(?!.*(Mask|Output|Config|Embed))")
OUTPUTS = ("o_proj", "out_proj", "dense", "out_lin", "c_proj", "o", "wo", "proj", "attn_out", "Wo", "../output.dense", "projection")


@dataclass
class Result:
    """What one model class showed.

    Attributes:
        status: of the constants above.
        told: the reason, or the error.
        differences: largest difference to the oracle by what was compared.
        classes: how often each attention class occurs in the model.
        wrappers: attention classes that only hold others.
        notes: what could not be looked at.
    """

    family: str
    model: str
    status: str = NOT_BUILT
    told: str = ""
    heads: int = 0
    effect: float = 0.0
    differences: Dict[str, float] = field(default_factory=dict)
    classes: Dict[str, int] = field(default_factory=dict)
    wrappers: Set[str] = field(default_factory=set)
    notes: List[str] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return max(self.differences.values(), default=0.0)


class Wrong(Exception):
    """An accepted model that is not what it should be."""


def check_family(family: str) -> List[Result]:
    """The results of the model classes of one type that between them have all its attention classes."""
    try:
        config = small_config(family)
        classes = model_classes(config)
    except Exception as error:
        return [Result(family, "", told=_said("configuration", error))]
    if isinstance(classes, str):
        return [Result(family, "", told=classes)]
    return [check_model(family, model_class, copy.deepcopy(config)) for model_class in classes]


def check_model(family: str, model_class: Type[PreTrainedModel], config: PreTrainedConfig) -> Result:
    result = Result(family, model_class.__name__)
    try:
        model = build(model_class, config)
        result.classes = dict(Counter(class_name(type(module)) for _, module in attention_modules(model)))
        result.wrappers = {class_name(type(m)) for m in model.modules() if is_attention(type(m))} - result.classes.keys()
        model, inputs = with_inputs(model)
    except Exception as error:
        if not _refused_at_once(result, model_class, config):
            result.told = _said("build", error)
        return result
    stage = ["head_map_of"]
    try:
        heads = hf.head_map_of(model)
    except ValueError as error:
        result.status, result.told = REFUSED, str(error)
        return result
    except Exception as error:
        result.status, result.told = WRONG, _said(stage[0], error)
        return result
    try:
        _check(model, inputs, heads, result, stage)
        result.status = RIGHT
    except Wrong as error:
        result.status, result.told = WRONG, str(error)
    except ValueError as error:
        late = "is not supported" in str(error) or stage[0] in ("gate_heads", "prune_heads")
        result.status, result.told = (REFUSED if late else WRONG), _said(stage[0], error)
    except Exception as error:
        result.status, result.told = WRONG, _said(stage[0], error)
    return result


def _refused_at_once(result: Result, model_class: Type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """A model that could not be fed may still be one that is refused."""
    try:
        hf.head_map_of(build(model_class, config))
    except ValueError as error:
        if "is not supported" in str(error):
            result.status, result.told = REFUSED, str(error)
            return True
    except Exception:
        pass
    return False


def _check(model: PreTrainedModel, inputs: Dict[str, Tensor], heads: HeadMap, result: Result, stage: List[str]) -> None:
    result.heads = heads.num_heads
    oracle = Oracle(model, heads)
    overlooked = oracle.overlooked()
    if overlooked:
        raise Wrong(f"overlooked: {', '.join(overlooked)}")
    stock = run(model, inputs)
    scale = max(float(part.abs().max()) for part in stock)
    reached = oracle.reached(inputs)
    if len(reached) < len(heads.blocks):
        result.notes.append(f"{len(heads.blocks) - len(reached)} of {len(heads.blocks)} blocks not reached by these inputs")
    if not reached:
        raise Wrong("no block is reached: the inputs are no test")

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
        raise Wrong("no block has an effect: the inputs are no test")
    allowed = max(ROUNDING * scale, SHARE * min(strong))

    def compare(name: str, found: List[Tensor], wanted: List[Tensor]) -> None:
        difference = largest_difference(found, wanted, inputs)
        result.differences[name] = max(difference, result.differences.get(name, 0.0))
        if not difference <= allowed:
            raise Wrong(f"{name}: differs by {difference:.2g} of outputs up to {scale:.2g} (closing a block: {min(strong):.2g})")

    for number, keep in enumerate(masks):
        with oracle.closed(keep):
            wanted = run(oracle.model, inputs)
            steps = cached(oracle.model, inputs)
        stage[0] = "gate_heads"
        gated = copy.deepcopy(model)
        hf.gate_heads(gated, FixedGates(keep))
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
        hf.prune_heads(pruned, keep)
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
    _train(model, inputs, heads, reached, [b for b, e in zip(reached, effects) if e < 1e-7 * scale], result)


def _train(
    model: PreTrainedModel, inputs: Dict[str, Tensor], heads: HeadMap, reached: List[str], weak: List[str], result: Result
) -> None:
    """One step with drawn gates: the scores of every block that is reached get a gradient, finite and not 0."""
    plain = _trainable(copy.deepcopy(model))
    try:
        _loss(plain, inputs).backward()
    except Exception as error:
        result.notes.append(_said("the stock model does not train on these inputs", error))
        return
    gated = copy.deepcopy(model)
    hf.gate_heads(gated, RelaxedSubset(heads, max(1, heads.num_heads // 2), constant_temperature(1.0)))
    _trainable(gated)
    _loss(gated, inputs).backward()
    grad = gated.gating.gates.scores.grad
    if grad is None or not grad.isfinite().all():
        raise Wrong("training: the scores' gradient is missing or not finite")
    for block in set(reached) - set(weak):
        start, stop = heads.range(block)
        if not grad[start:stop].abs().max() > 0:
            raise Wrong(f"training: the scores of {block} get no gradient")


def _trainable(model: PreTrainedModel) -> PreTrainedModel:
    model.train()
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def _loss(model: PreTrainedModel, inputs: Dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    return sum(part.square().mean() for part in floats(model(**inputs)) if part.requires_grad)


# models and inputs


def build(model_class: Type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model with random weights that are large enough for every head to count.

    Raises:
        ValueError: it is not small.
    """
    weights = weights_of(model_class, config)
    if weights > LARGEST:
        raise ValueError(f"not small: {weights / 1e6:.0f} million weights")
    torch.manual_seed(3)
    model = model_class(copy.deepcopy(config))
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if weight.requires_grad and weight.is_floating_point():
                    _fill(module, name, weight)
    model.tie_weights()
    return model.eval()


def _fill(module: nn.Module, name: str, weight: Tensor) -> None:
    if weight.dim() < 2:
        if "norm" in type(module).__name__.lower() and name == "weight":
            weight.mul_(1 + 0.2 * torch.randn_like(weight))
        else:
            weight.add_(0.1 * torch.randn_like(weight))
    elif isinstance(module, nn.Embedding):
        weight.normal_(std=0.5)
    else:
        inputs = weight.shape[0] if isinstance(module, Conv1D) else weight[0].numel() if weight.dim() != 3 else weight.shape[-1]
        weight.normal_(std=1.5 / inputs**0.5)


def weights_of(model_class: Type[PreTrainedModel], config: PreTrainedConfig) -> int:
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in model_class(copy.deepcopy(config)).parameters())
    except Exception:  # some models look at values while they are built
        return 0


def with_inputs(model: PreTrainedModel) -> Tuple[PreTrainedModel, Dict[str, Tensor]]:
    """The model in float64, or in float32 where it does not run in that, and inputs for it."""
    try:
        double = copy.deepcopy(model).double()
        inputs = random_inputs(double, size=3, length=7)
        # a softmax in single precision turns the lowest number of double precision into minus infinity, and rows into NaN
        if not any(part.isnan().any() for part in run(double, inputs)):
            return double, inputs
    except ValueError:
        pass
    return model, random_inputs(model, size=3, length=7)


def model_classes(config: PreTrainedConfig) -> List[Type[PreTrainedModel]] | str:
    """Classes for this configuration that between them have all attention classes of its file; or why there is none."""
    from transformers.models.auto import modeling_auto as auto

    names = (
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING", "MODEL_MAPPING",
    )  # fmt: skip
    found: List[Type[PreTrainedModel]] = []
    for name in names:
        with contextlib.suppress(KeyError, ValueError, AttributeError):
            value = getattr(auto, name)[type(config)]
            found += value if isinstance(value, tuple) else (value,)
    if not found:
        module = inspect.getmodule(type(config)).__name__.replace(".configuration_", ".modeling_")
        found = _family_classes(module, type(config))
    else:
        found += _family_classes(found[-1].__module__, type(config))
    chosen: List[Type[PreTrainedModel]] = []
    seen: Set[str] = set()
    errors: List[str] = []
    for model_class in dict.fromkeys(found):
        try:
            classes = {class_name(type(module)) for _, module in attention_modules(_skeleton(model_class, config))}
        except Exception as error:
            errors.append(_said(model_class.__name__, error))
            continue
        if classes - seen:
            chosen.append(model_class)
            seen |= classes
    if chosen:
        return chosen
    return errors[0] if errors else "no attention in any of its models" if found else "no model class for this configuration"


def _family_classes(module_name: str, config_class: type) -> List[Type[PreTrainedModel]]:
    import importlib

    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return []
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PreTrainedModel) and value.__module__ == module_name
        and getattr(value, "config_class", None) is config_class and "forward" in {n for c in value.__mro__[:-2] for n in vars(c)}
        and not value.__name__.endswith("PreTrainedModel")
    ]  # fmt: skip


def _skeleton(model_class: Type[PreTrainedModel], config: PreTrainedConfig) -> nn.Module:
    try:
        with torch.device("meta"):
            return model_class(copy.deepcopy(config))
    except (RuntimeError, NotImplementedError):
        return model_class(copy.deepcopy(config))


def attention_modules(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Modules that are attention by the name of their class, or call an attention function, and hold no other such module."""
    found = {path: module for path, module in model.named_modules() if is_attention(type(module))}
    for path, module in found.items():
        if any(True for _ in module.parameters()) and not any(other.startswith(path + ".") for other in found if other != path):
            yield path, module


def is_attention(module_class: type) -> bool:
    if issubclass(module_class, PreTrainedModel):
        return False
    return is_named_attention(module_class.__name__) or "ALL_ATTENTION_FUNCTIONS" in _source(module_class)


def is_named_attention(name: str) -> bool:
    return bool(NAMES.match(name))


def class_name(module_class: type) -> str:
    """The folder of its model, and the class: "bert.BertSelfAttention"."""
    parts = module_class.__module__.split(".")
    return f"{parts[2] if parts[:2] == ['transformers', 'models'] else parts[0]}.{module_class.__name__}"


def _source(module_class: type) -> str:
    try:
        return inspect.getsource(module_class.forward)
    except (OSError, TypeError, AttributeError):
        return ""


# the oracle


class Oracle:
    """A stock copy whose heads can be closed.

    Args:
        model: without gates.
        heads: its blocks; only their names, modules and numbers of heads are used.
    """

    def __init__(self, model: PreTrainedModel, heads: HeadMap):
        self.model = copy.deepcopy(model)
        self.heads = heads
        by_name = {attention.block.name: attention.module for attention in attentions_of(self.model)}
        self.modules = [by_name[block.name] for block in heads.blocks]
        self.paths = {module: path for path, module in self.model.named_modules()}

    def overlooked(self) -> List[str]:
        """Attention modules of the model that are in no block."""
        blocks = {self.paths[module] for module in self.modules}
        counted = Counter()
        for path, module in attention_modules(self.model):
            if not any(path == block or path.startswith(block + ".") or block.startswith(path + ".") for block in blocks):
                counted[type(module).__name__] += 1
        return [f"{count} x {name}" for name, count in counted.items()]

    def reached(self, inputs: Dict[str, Tensor]) -> List[str]:
        """Names of the blocks that run with these inputs."""
        called: Set[nn.Module] = set()
        hooks = [module.register_forward_pre_hook(lambda module, *_: called.add(module)) for module in self.modules]
        run(self.model, inputs)
        for hook in hooks:
            hook.remove()
        return [block.name for block, module in zip(self.heads.blocks, self.modules) if module in called]

    @contextlib.contextmanager
    def closed(self, keep: Tensor) -> Iterator[None]:
        """The heads that are not kept [N] are closed inside."""
        flags = {}
        for block, module in zip(self.heads.blocks, self.modules):
            start, stop = self.heads.range(block.name)
            flags[module] = keep[start:stop]
        stock = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ("sdpa",)}
        dispatching = {module for module in self.modules if self._by_function(module)}

        def function(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
            context, weights = stock["sdpa"](module, query, *args, **kwargs)
            if module in dispatching:
                context = context * _query_heads(flags[module], query.shape[1]).to(context)[:, None]
            return context, weights

        columns = [(module, flags[module]) for module in self.modules if module not in dispatching]
        with _zeroed([(self._output(module), kept) for module, kept in columns]):
            ALL_ATTENTION_FUNCTIONS._global_mapping["sdpa"] = function
            try:
                yield
            finally:
                ALL_ATTENTION_FUNCTIONS._global_mapping["sdpa"] = stock["sdpa"]

    def _by_function(self, module: nn.Module) -> bool:
        implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
        return implementation == "sdpa" and "ALL_ATTENTION_FUNCTIONS" in _source(type(module))

    def _output(self, module: nn.Module) -> nn.Module:
        parent = self.model.get_submodule(self.paths[module].rpartition(".")[0])
        for name in OUTPUTS:
            base = parent if name.startswith("../") else module
            with contextlib.suppress(AttributeError):
                found = base.get_submodule(name.removeprefix("../"))
                if isinstance(found, (nn.Linear, Conv1D)):
                    return found
        raise Wrong(f"the check finds no output projection in {type(module).__name__}")


@contextlib.contextmanager
def _zeroed(columns: List[Tuple[nn.Module, Tensor]]) -> Iterator[None]:
    saved = [(projection.weight, projection.weight.detach().clone()) for projection, _ in columns]
    with torch.no_grad():
        for projection, kept in columns:
            inputs = projection.weight.shape[0 if isinstance(projection, Conv1D) else 1]
            flags = kept.repeat_interleave(inputs // len(kept)).to(projection.weight)
            projection.weight.mul_(flags[:, None] if isinstance(projection, Conv1D) else flags)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in saved:
                weight.copy_(values)


def _query_heads(kept: Tensor, heads: int) -> Tensor:
    return kept.repeat_interleave(heads // len(kept))


def uneven_masks(heads: HeadMap) -> List[Tensor]:
    """Bool [N] twice: about half of the heads, another number in every block; one block of each kind has none left."""
    masks = []
    for seed in (7, 8):
        generator = torch.Generator().manual_seed(seed)
        keep = torch.rand(heads.num_heads, generator=generator) < 0.5
        for kind in {block.kind for block in heads.blocks}:
            blocks = [block for block in heads.blocks if block.kind == kind]
            for number, block in enumerate(blocks):
                start, stop = heads.range(block.name)
                keep[start + number % (stop - start)] = True
                keep[stop - 1 - number % (stop - start)] = False
            if len(blocks) > 1:
                start, stop = heads.range(blocks[seed % 2].name)
                keep[start:stop] = False
        if not keep.any():
            keep[-1] = True
        masks.append(keep)
    return masks


# outputs


@torch.no_grad()
def run(model: PreTrainedModel, inputs: Dict[str, Tensor]) -> List[Tensor]:
    torch.manual_seed(0)
    return floats(model(**inputs))


def floats(output: Any) -> List[Tensor]:
    """All tensors of real numbers in an output, but for attention maps and caches."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() and output.numel() else []
    if isinstance(output, Cache):
        return []
    if isinstance(output, dict):
        return [part for name, value in output.items() if "attentions" not in name and "past" not in name for part in floats(value)]
    if isinstance(output, (list, tuple)):
        return [part for value in output for part in floats(value)]
    return []


def largest_difference(found: List[Tensor], wanted: List[Tensor], inputs: Dict[str, Tensor]) -> float:
    if [part.shape for part in found] != [part.shape for part in wanted]:
        raise Wrong(f"outputs of other shapes: {[tuple(p.shape) for p in found]} for {[tuple(p.shape) for p in wanted]}")
    mask = inputs.get("attention_mask")
    largest = 0.0
    for one, two in zip(found, wanted):
        if mask is not None and one.shape[:2] == mask.shape:
            one, two = one[mask.bool()], two[mask.bool()]
        same = (one == two) | (one.isnan() & two.isnan())
        difference = torch.where(same, 0.0, (one - two).abs().double())
        largest = max(largest, float(difference.nan_to_num(nan=float("inf")).max()) if difference.numel() else 0.0)
    return largest


@torch.no_grad()
def cached(model: PreTrainedModel, inputs: Dict[str, Tensor], must: bool = False) -> Optional[List[Tensor]]:
    """Outputs of two steps of one token behind a cache; None where the model does not go on like this."""
    names = inspect.signature(model.forward).parameters
    side = "decoder_" if "decoder_input_ids" in inputs else ""
    ids, mask = inputs.get(f"{side}input_ids"), inputs.get("attention_mask")
    if ids is None or "past_key_values" not in names or ids.shape[1] < 4:
        return None
    try:
        given = {name: value for name, value in inputs.items() if name != f"{side}input_ids"}
        texts = {name: value for name, value in given.items() if value.shape[:2] == ids.shape and not side}
        first = ids.shape[1] - 2
        others = {name: value for name, value in given.items() if name not in texts}
        torch.manual_seed(0)
        output = model(**{f"{side}input_ids": ids[:, :first]}, **{n: v[:, :first] for n, v in texts.items()}, **others, use_cache=True)
        found = []
        for step in range(first, ids.shape[1]):
            if side:
                keep = {n: v for n, v in others.items() if n == "attention_mask"}
                keep["encoder_outputs"] = (output.encoder_last_hidden_state,)
            else:
                keep = {n: v[:, : step + 1] if n == "attention_mask" else v[:, step : step + 1] for n, v in texts.items()}
            past = getattr(output, "past_key_values", None)
            if past is None:
                return None
            output = model(**{f"{side}input_ids": ids[:, step : step + 1]}, **keep, past_key_values=past, use_cache=True)
            found += floats({n: v for n, v in output.items() if n in ("logits", "last_hidden_state")})
        return found
    except Exception:
        if must:
            raise
        return None


def _said(where: str, error: Exception) -> str:
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
