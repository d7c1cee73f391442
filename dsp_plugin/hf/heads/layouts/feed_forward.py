"""Location of a Transformers model's feed-forward blocks: maps up, one function a neuron, one map down.

A block is found by the names of its projections (`families`) in the layers that hold attention. It is taken
only if its forward does what surgery needs: nothing else depends on the number of neurons, and each of them
goes its own way from the projections up to the one down, which a run of the block shows (`neuron_probe`).
Every matrix in those layers must belong to an attention or to a feed-forward block: else neurons would be
overlooked (experts), and the model is refused.

Notation: F neurons, C width of the model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from ....gating import AttentionBlock
from .families import FEED_FORWARDS, FeedForwardNames, sliced_weights
from .fixed_sizes import NotKnown
from .locate import block_name, refusal
from .neuron_probe import goes_flat
from .projections import Attention, FeedForward, Projection, Size, name_in
from .sources import source_of
from .wrappers import projection_reason

_WIDTH = re.compile(r"intermediate|ffn|inner|d_ff|feed_forward|hidden_dim|split_size|4h")
_CHECKED = re.compile(r"isinstance\(self\.\w+\.weight, [^()]*\)")  # T5 looks whether it is quantised


@dataclass(frozen=True)
class Found:
    """A feed-forward block before its neurons are grouped.

    Attributes:
        name: path of its down projection, as a HeadMap has it.
        kind: `encoder-ffn` or `decoder-ffn`.
        inputs, output: its projections up and down.
        parts: 2 where up and gate lie in one matrix.
        sizes: (module, name, multiple of F) of the integers that follow the number of neurons.
        flat: see `FeedForward`.
    """

    name: str
    kind: str
    inputs: tuple[nn.Module, ...]
    output: nn.Module
    parts: int
    sizes: tuple[tuple[nn.Module, str, int], ...]
    flat: bool

    @property
    def neurons(self) -> int:
        """F, the number of neurons that the block has now."""
        return Projection(self.output, False, 1).features

    def grouped(self, size: int) -> FeedForward:
        """Return the block in groups of `size` neurons."""
        block = AttentionBlock(self.name, self.neurons // size, self.kind, size)
        up = (Projection(part, True, size, self.parts) for part in self.inputs)
        sizes = tuple(Size(module, name, times * size) for module, name, times in self.sizes)
        return FeedForward(block, self.output, (*up, Projection(self.output, False, size)), sizes, self.flat)


def feed_forwards_of(root: nn.Module, attentions: Sequence[Attention]) -> list[Found]:
    """Return the feed-forward blocks of the layers that hold these attention blocks, in their order.

    Raises:
        NotSupported: one cannot be understood, or a layer has weights of no block; names them.
    """
    paths = {id(module): path for path, module in root.named_modules()}
    inside = {id(part) for a in attentions for part in (*a.module.modules(), a.output.module)}
    found: list[Found] = []
    for path, (kind, layers) in _stacks(root, attentions, paths).items():
        before = len(found)
        for layer in layers:
            known = {id(p) for a in attentions for part in a.projections for p in part.module.parameters()}
            known |= {id(p) for part in layer.modules() if id(part) in inside for p in part.parameters()}
            for part in layer.modules():
                names = None if id(part) in inside else _names(part)
                if names is not None:
                    found.append(_block(root, paths, part, names, kind, inside))
                    matrices = (*found[-1].inputs, found[-1].output)
                    known |= {id(p) for matrix in matrices for p in matrix.parameters()}
            _check_whole(root, paths[id(layer)], layer, known)
        if len(found) == before:
            raise refusal(root, f"its layers {path or 'in it'} have no feed-forward block of a known layout")
    return found


def _stacks(
    root: nn.Module, attentions: Sequence[Attention], paths: Mapping[int, str]
) -> dict[str, tuple[str, list[nn.Module]]]:
    """Return {path of a list of layers: (kind of its feed-forward blocks, the layers)}.

    The list is the outermost one around an attention block in the innermost Transformers model around it. A
    layer beside those with attention belongs to it, too.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for attention in attentions:
        steps = paths[id(attention.module)].split(".")
        around = [root.get_submodule(".".join(steps[:count])) for count in range(len(steps))]
        start = max((n for n, part in enumerate(around) if isinstance(part, PreTrainedModel)), default=0)
        lists = (n for n in range(start, len(steps)) if isinstance(around[n], nn.ModuleList))
        count = next(lists, len(steps) - 1)
        kinds[".".join(steps[:count])].add(attention.block.kind.partition("-")[0])
    found = {}
    for path, sides in kinds.items():
        stack = root.get_submodule(path)
        layers = list(stack) if isinstance(stack, nn.ModuleList) else [stack]
        found[path] = "decoder-ffn" if "decoder" in sides else "encoder-ffn", layers
    return found


def _names(module: nn.Module) -> FeedForwardNames | None:
    for names in FEED_FORWARDS:
        parts = (_part(module, name) for name in (*names.inputs, names.output))
        if all(getattr(part, "weight", None) is not None for part in parts):
            return names
    return None


def _part(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _block(
    root: nn.Module,
    paths: Mapping[int, str],
    home: nn.Module,
    names: FeedForwardNames,
    kind: str,
    attention: set[int],
) -> Found:
    inputs = tuple(home.get_submodule(name) for name in names.inputs)
    output = home.get_submodule(names.output)
    where = f"its feed-forward block {paths[id(output)]} ({type(home).__name__})"
    try:
        for part in (*inputs, output):
            # quantised by torch.ao it is a method
            if not isinstance(part.weight, Tensor) or part.weight.dim() != 2:
                raise NotKnown(f"has a projection that {projection_reason(part) or 'is no matrix'}")
        neurons = Projection(output, False, 1).features
        widths = [Projection(part, True, 1).features for part in inputs]
        if any(width != names.parts * neurons for width in widths):
            raise NotKnown(f"has projections up to {widths} features, and one down from {neurons}")
        sizes = tuple(_sizes(home, (*inputs, output), neurons, attention))
        flat = goes_flat(home, names, inputs, output)
    except NotKnown as error:
        raise refusal(root, f"{where} {error}") from None
    except Exception as error:  # a class that was never tried here may raise anything
        raise refusal(root, f"{where} cannot be looked at ({type(error).__name__}: {error})") from error
    name = block_name(root, paths[id(output)])
    return Found(name, kind, inputs, output, names.parts, sizes, flat)


def _sizes(
    home: nn.Module, projections: tuple[nn.Module, ...], neurons: int, attention: set[int]
) -> Iterator[tuple[nn.Module, str, int]]:
    """Yield the integers that forwards read and that follow the number of neurons: (module, name, multiple).

    Raises:
        NotKnown: something else follows it, or may.
    """
    own = {id(part) for projection in projections for part in projection.modules()}
    width = Projection(projections[0], False, 1).features
    for path, part in home.named_modules():
        if id(part) in own or id(part) in attention:
            continue
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        wide = [name for name, tensor in tensors if neurons != width and neurons in tensor.shape]
        if wide and neurons > 1:
            where = ".".join(filter(None, (path, wide[0])))
            raise NotKnown(f"has a tensor with a number for each neuron beside its projections: {where}")
        if type(part).__module__.startswith("torch."):
            continue
        source = source_of(type(part))
        if source is None:
            raise NotKnown(f"has no source that can be read ({type(part).__name__})")
        _check_called(part, projections, source.text)
        for chain in sorted(source.reads):
            value = part
            for name in chain:
                value = getattr(value, name, None)
            if isinstance(value, bool) or not isinstance(value, int):
                continue
            named = bool(_WIDTH.search(chain[-1])) and "chunk" not in chain[-1]
            if neurons == 0:
                if named and value == 0:
                    yield part, chain[-1], 1
            elif value in (neurons, 2 * neurons) and (named or neurons not in (1, 2, width)):
                if not named or len(chain) > 1:
                    raise NotKnown(
                        f"reads {'.'.join(chain)} = {value} in its forward, which may follow the number of "
                        "neurons in a way not known here"
                    )
                yield part, chain[-1], value // neurons


def _check_called(part: nn.Module, projections: tuple[nn.Module, ...], text: str) -> None:
    """Refuse a forward that uses the weights of a projection without calling it: no gate would be asked."""
    for projection in projections:
        name = name_in(part, projection)
        if name is None or hasattr(part, "slow_but_exact") and sliced_weights(part) is None:
            continue
        uses = rf"self\.{name}\.(weight|bias)\b(?!\.(dtype|device|is_cuda))"
        if re.search(uses, _CHECKED.sub("", text)):
            raise NotKnown(f"uses the weights of {name} without calling it, so that no gate is asked")


def _check_whole(root: nn.Module, path: str, layer: nn.Module, known: set[int]) -> None:
    others = [name for name, p in layer.named_parameters() if p.dim() > 1 and id(p) not in known]
    if others:
        raise refusal(
            root,
            f"its layer {path} ({type(layer).__name__}) has weights of no attention or feed-forward block "
            f"known here ({', '.join(others[:3])}), so that neurons would be overlooked",
        )
