"""A LoRA as PEFT stores it: a folder with adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...artefacts.base import find_names
from ...artefacts.content import all_finite
from ...records.files.sealed import parse_json, read_bounded
from ...records.files.whole import new_folder
from .layer import ADAPTER, dsee_layers
from .targets import ROLES, Target, find_targets, shape_of, whole_target

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# options of PEFT's with which a layer is something else than s·B A beside a frozen matrix
_REFUSED = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layer_replication", "use_qalora")
# of later versions
_REFUSED += ("target_parameters", "alora_invocation_tokens", "use_bdlora", "arrow_config", "velora_config")
# others (pissa, olora, eva ...) change the frozen matrices before training
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal")
_READ = ("r", "lora_alpha", "lora_dropout", "use_rslora", "task_type")


@dataclass(frozen=True)
class LoraFolder:
    """A LoRA that was trained elsewhere.

    Attributes:
        folder: where it was read. config: of it, the entries that matter here.
        pairs: (A, B) by the path of the matrix in the model it was trained on.
        others: all other tensors, by the names that the model has for them: a task head.
    """

    folder: Path
    config: LoraConfig
    pairs: dict[str, tuple[Tensor, Tensor]]
    others: dict[str, Tensor]

    @classmethod
    def read(cls, folder: str | os.PathLike) -> LoraFolder:
        """Read a folder of PEFT's.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the adapter is no plain LoRA; says what it is.
        """
        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no LoRA of PEFT's: there is no {name} in it")
        config = _config(folder / CONFIG)
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from None
        found: dict[str, dict[str, Tensor]] = {}
        others = {}
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or not all_finite(tensor):
                raise ValueError(f"{folder / WEIGHTS} holds numbers that are not finite: {name}")
            inner = name.removeprefix(_PREFIX)
            path, mark, part = inner.partition(".lora_")
            if not mark:
                others[inner.replace(f".modules_to_save.{ADAPTER}", "")] = tensor
            elif part in ("A.weight", "B.weight"):
                found.setdefault(path, {})[part[0]] = tensor
            else:
                raise ValueError(f"{folder} is no plain LoRA: it has {name}")
        pairs = {path: (both.get("A"), both.get("B")) for path, both in found.items()}
        for path, (down, up) in pairs.items():
            fits = down is not None and up is not None and down.dim() == up.dim() == 2
            if not fits or len(down) != config.r or up.shape[1] != config.r:
                raise ValueError(f"{folder} is damaged: A and B of {path} are not those of rank {config.r}")
        if not pairs:
            raise ValueError(f"{folder} holds no LoRA: {WEIGHTS} has no A and B")
        return cls(folder, config, pairs, others)

    def targets(self, model: nn.Module) -> list[Target]:
        """Return its matrices as targets of a model.

        In a joint matrix the ranges of query and value are the target where B is zero in all other rows, as
        it is when DSEE has trained it; else the whole matrix.

        Raises:
            ValueError: the model has no such matrix, or one of another shape; names it.
        """
        modules = dict(model.named_modules())
        found = []
        usual = {target.path: target for target in find_targets(model, ("query", "value"))}
        every = find_targets(model, self._roles(model))
        for path, (down, up) in self.pairs.items():
            here = _path_in(path, modules)
            if here is None:
                raise ValueError(f"{self.folder} is a LoRA of another model: there is no {path} in this one")
            target = whole_target(model, here, every)
            shape = shape_of(modules[here])
            if shape != (len(up), down.shape[1]):
                sizes = f"{here} is {shape[0]} x {shape[1]}, not {len(up)} x {down.shape[1]}"
                raise ValueError(f"{self.folder} is a LoRA of another model: {sizes}")
            narrow = usual.get(here)
            if narrow is not None and narrow.parts != target.parts and _zero_outside(up, narrow):
                target = narrow
            found.append(target)
        order = {path: number for number, path in enumerate(modules)}
        return sorted(found, key=lambda target: order[target.path])

    def low_rank(self, path: str) -> tuple[Tensor, Tensor]:
        """Return A and B of a matrix, by its path in the model that `targets` was given."""

        def same(theirs: str) -> bool:
            return path == theirs or path.endswith("." + theirs) or theirs.endswith("." + path)

        return next(pair for theirs, pair in self.pairs.items() if same(theirs))

    def place_task_head(self, model: nn.Module, task_head: Sequence[str]) -> None:
        """Write the other tensors into the model's task head.

        Raises:
            ValueError: the task head has no such parameter, or one of another shape.
        """
        parameters = dict(model.named_parameters())
        for name, tensor in self.others.items():
            if name not in task_head or parameters[name].shape != tensor.shape:
                shape = list(tensor.shape)
                raise ValueError(
                    f"{self.folder} has trained {name} {shape}, which this model's task head has not: name "
                    "it in task_head, or build the model with as many labels"
                )
            parameters[name].data.copy_(tensor)

    def _roles(self, model: nn.Module) -> list[str]:
        """Return the roles that a model shows, for names of what is in its joint matrices."""
        roles = []
        for role in ROLES:
            try:
                find_targets(model, [role])
            except ValueError:
                continue
            roles.append(role)
        return roles


def save_lora(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write A and B of a model with DSEE, and its task head, as PEFT does; S2 and S1 are not in it.

    Raises:
        OSError: the folder cannot be written. ValueError: the model has no update of DSEE's.
    """
    from .state import base_name, dsee_of

    state, layers = dsee_of(model), dsee_layers(model)
    tensors = {}
    for path, layer in layers.items():
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = layer.down.detach().cpu().contiguous().clone()
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = layer.up.detach().cpu().contiguous().clone()
    parameters = dict(model.named_parameters())
    for name in state.task_head:
        tensors[_PREFIX + name] = parameters[name].detach().cpu().contiguous().clone()
    config = model.peft_config[ADAPTER]
    written = LoraConfig(**{name: getattr(config, name) for name in _READ})
    written.fan_in_fan_out, written.bias = config.fan_in_fan_out, "none"
    written.target_modules = set(target_names(model, list(layers)))
    written.modules_to_save = sorted({name.rpartition(".")[0] for name in state.task_head}) or None
    written.base_model_name_or_path, written.inference_mode = base_name(model), True
    with new_folder(folder, CONFIG) as made:
        written.save_pretrained(made)
        save_file(tensors, made / WEIGHTS, {"format": "pt"})


def target_names(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Return the last names of these modules, where PEFT takes them to mean these alone; else the paths."""
    last = sorted({path.rpartition(".")[2] for path in paths})
    layers = dsee_layers(model)
    inside = tuple(f"{path}." for path in layers)
    meant = [
        path
        for path, _ in model.named_modules()
        if path.rpartition(".")[2] in last and not path.startswith(inside)
    ]
    return last if set(meant) == set(paths) else list(paths)


def _config(path: Path) -> LoraConfig:
    """Read what matters of an adapter_config.json."""
    try:
        content = parse_json(read_bounded(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, Mapping) or content.get("peft_type") != "LORA":
        kind = content.get("peft_type") if isinstance(content, Mapping) else None
        raise ValueError(f"{path} is of no LoRA, but of {str(kind)[:40]!r}")
    strange = [name for name in _REFUSED if content.get(name)]
    if content.get("bias", "none") != "none":
        strange.append("bias")
    start = content.get("init_lora_weights", True)
    if not any(start is plain or start == plain for plain in _PLAIN_STARTS):
        strange.append(f"init_lora_weights={str(start)[:40]}")
    if strange:
        raise ValueError(f"{path} is of no plain LoRA: it sets {', '.join(strange)}")
    known = {name: content[name] for name in _READ if content.get(name) is not None}
    rank, alpha, dropout = (known.get(name, other) for name, other in zip(_READ, (8, 8, 0.0)))
    numbers = type(rank) is int and rank > 0 and type(alpha) in (int, float) and alpha > 0
    if not numbers or type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"{path} is damaged: rank {rank!r}, alpha {alpha!r}, dropout {dropout!r}")
    return LoraConfig(**known)


def _path_in(path: str, modules: Mapping[str, nn.Module]) -> str | None:
    """Find the module of this path, where all may have a leading name less, or more."""
    try:
        return find_names([path], modules)[path]
    except ValueError:
        return None


def _zero_outside(up: Tensor, target: Target) -> bool:
    outside = up.clone()
    for part in target.parts:
        outside[part.start : part.stop] = 0
    return not bool(outside.any())
