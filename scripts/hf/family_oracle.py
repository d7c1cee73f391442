"""A stock copy of a model whose heads (or neurons) are closed by hand, as the measure of gates and surgery.

Where the model calls Transformers' attention functions, the context of each closed head is set to 0 there, by
the number of heads seen at that moment; else the columns of the output projection are, by the numbers in the
module. Neither asks the gates or the surgery where a head lies.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dsp_plugin.hf  # noqa: F401  (before any model class: it hides a torchaudio that cannot be loaded)  isort: skip
import torch
from family_models import attention_modules, source
from family_outputs import Wrong, run
from small_configs import WIDE
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from dsp_plugin.gating import HeadMap
from dsp_plugin.hf.heads.layouts.locate import attentions_of

# names of output projections; `..` is the module around the attention module
OUTPUTS = "o_proj out_proj dense out_lin c_proj o wo proj attn_out Wo ../output.dense projection".split()


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

    def overlooked(self) -> list[str]:
        """Count the attention modules of the model that are in no block, by class."""
        blocks = {self.paths[module] for module in self.modules}
        counted = Counter()
        for path, module in attention_modules(self.model):
            if not any(
                path == block or path.startswith(block + ".") or block.startswith(path + ".")
                for block in blocks
            ):
                counted[type(module).__name__] += 1
        return [f"{count} x {name}" for name, count in counted.items()]

    def reached(self, inputs: dict[str, Tensor]) -> list[str]:
        """Return the names of the blocks that run with these inputs."""
        called: set[nn.Module] = set()
        hooks = [
            module.register_forward_pre_hook(lambda module, *_: called.add(module)) for module in self.modules
        ]
        run(self.model, inputs)
        for hook in hooks:
            hook.remove()
        return [block.name for block, module in zip(self.heads.blocks, self.modules) if module in called]

    @contextlib.contextmanager
    def closed(self, keep: Tensor) -> Iterator[None]:
        """Close the heads whose flag in `keep` [N] is False, inside the block of the statement."""
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
        with _zeroed([(self._output(module), keep) for module, keep in columns]):
            ALL_ATTENTION_FUNCTIONS._global_mapping["sdpa"] = function
            try:
                yield
            finally:
                ALL_ATTENTION_FUNCTIONS._global_mapping["sdpa"] = stock["sdpa"]

    def _by_function(self, module: nn.Module) -> bool:
        implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
        return implementation == "sdpa" and "ALL_ATTENTION_FUNCTIONS" in source(type(module))

    def _output(self, module: nn.Module) -> nn.Module:
        parent = self.model.get_submodule(self.paths[module].rpartition(".")[0])
        for name in OUTPUTS:
            base = parent if name.startswith("../") else module
            with contextlib.suppress(AttributeError):
                found = base.get_submodule(name.removeprefix("../"))
                if isinstance(found, (nn.Linear, Conv1D)):
                    return found
        raise Wrong(f"the check finds no output projection in {type(module).__name__}")


class NeuronOracle:
    """A stock copy whose groups of neurons can be closed, by the columns of its projections down.

    Args:
        model: without gates.
        heads: its feed-forward blocks; only their names (paths of modules) and numbers of groups are used.
    """

    def __init__(self, model: PreTrainedModel, heads: HeadMap):
        self.model = copy.deepcopy(model)
        self.heads = heads
        prefix = getattr(model, "base_model_prefix", "")
        modules = dict(self.model.named_modules())
        self.modules = [modules.get(b.name) or modules[f"{prefix}.{b.name}"] for b in heads.blocks]

    def overlooked(self) -> list[str]:
        """Name the matrices in the same layers that are as wide as a block has neurons, and in no block.

        The small configurations have this number for feed-forward blocks alone.
        """
        stacks = {
            path.partition(".0.")[0] + "."
            for path, part in self.model.named_modules()
            if part in self.modules
        }
        widths = {block.num_heads * block.neurons for block in self.heads.blocks} & {WIDE}
        downs = {id(module) for module in self.modules}
        named = [(path, part) for path, part in self.model.named_modules() if _matrix(part)]
        own = {path.rpartition(".")[0] for path, part in named if id(part) in downs}
        own |= {path.rpartition(".")[0] for path in own if path.endswith("output")}  # BERT's
        return [
            f"{path}.{name}"
            for path, part in self.model.named_modules()
            for name, weight in part.named_parameters(recurse=False)
            if weight.dim() > 1
            and path.startswith(tuple(stacks))
            and widths & set(weight.shape)
            and not any(path == one or path.startswith(one + ".") for one in own)
        ]

    def reached(self, inputs: dict[str, Tensor]) -> list[str]:
        """Return the names of the blocks that run with these inputs."""
        called: set[nn.Module] = set()
        hooks = [
            module.register_forward_pre_hook(lambda module, *_: called.add(module)) for module in self.modules
        ]
        run(self.model, inputs)
        for hook in hooks:
            hook.remove()
        return [block.name for block, module in zip(self.heads.blocks, self.modules) if module in called]

    @contextlib.contextmanager
    def closed(self, keep: Tensor) -> Iterator[None]:
        """Close the groups whose flag in `keep` [N] is False, inside the block of the statement."""
        with _zeroed(list(zip(self.modules, self.heads.split(keep)))):
            yield


def _matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2


@contextlib.contextmanager
def _zeroed(columns: list[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    saved = [(projection.weight, projection.weight.detach().clone()) for projection, _ in columns]
    with torch.no_grad():
        for projection, keep in columns:
            inputs = projection.weight.shape[0 if isinstance(projection, Conv1D) else 1]
            flags = keep.repeat_interleave(inputs // len(keep)).to(projection.weight)  # [h] -> [h * d]
            projection.weight.mul_(flags[:, None] if isinstance(projection, Conv1D) else flags)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in saved:
                weight.copy_(values)


def _query_heads(keep: Tensor, heads: int) -> Tensor:
    return keep.repeat_interleave(heads // len(keep))  # [key/value heads] -> [query heads]


def uneven_masks(heads: HeadMap) -> list[Tensor]:
    """Return two masks [N] with half of the heads: uneven numbers, and a block of each kind with none."""
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
