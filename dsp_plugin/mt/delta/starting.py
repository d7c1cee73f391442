"""The methods of a stage before anything has trained them, beside those that earlier stages have trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from torch import Tensor

from ...delta import stages
from ...delta.artefact import DeltaFile
from ...delta.modules import Adapter, check_adapter
from ...delta.parts import Part
from ...dsee.update import check_rank
from ...options.errors import OptionError
from ...records.record import portable_path
from ..dsee.layer import roles_of
from ..dsee.starting import NewUpdate
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.frozen_base import identity_of, in_float
from .layer import METHODS, NAMES, adapter_sizes, biases_in, bottleneck

DEFAULTS = {
    "adapter": "houlsby",
    "adapter_reduction": 16,
    "lora_r": 16,
    "lora_alpha": 32.0,
    "lora_targets": "query,value",
}
"""The options of the methods, by those of the model."""

OPTIONS_OF = {"adapter": ("adapter", "adapter_reduction"), "lora": ("lora_r", "lora_alpha", "lora_targets")}
"""Which of them a method has."""

_ELSEWHERE = {
    "prompt": "is of Transformers alone: prompts and templates need a model that fills masks",
    "diff": "has a task of its own on fairseq, diff_translation",
    "dsee": "has a task of its own on fairseq, dsee_translation",
}


def check_methods(text: Optional[str], before: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Read the methods of --delta-methods, joined by commas, in the order of `METHODS`.

    Args:
        before: those of earlier stages.

    Raises:
        OptionError: none, an unknown one, one that fairseq does not have, one that is there twice.
    """
    words = [word.strip() for word in (text or "").split(",")]
    for word in words:
        if word in _ELSEWHERE:
            raise OptionError("delta_methods", f"{word} {_ELSEWHERE[word]}; here are {', '.join(METHODS)}")
        if word and word not in METHODS:
            raise OptionError("delta_methods", f"must be of {', '.join(METHODS)}, got {word}")
    if not any(words):
        raise OptionError("delta_methods", f"names no method: give some of {', '.join(METHODS)}")
    return stages.check_methods(",".join(words), before, "delta_methods")


@dataclass(frozen=True)
class NewDelta:
    """What a stage is to train.

    Attributes:
        methods: of the stage. before: of earlier ones.
        adapter, adapter_reduction, lora_r, lora_alpha, lora_targets: as the options of these names.
        seed: of all that is random.
    """

    methods: tuple[str, ...]
    before: tuple[str, ...]
    adapter: str
    adapter_reduction: int
    lora_r: int
    lora_alpha: float
    lora_targets: str
    seed: int

    @classmethod
    def of(cls, options: Mapping[str, Any], seed: int = 0) -> NewDelta:
        """Read the options of a model; what was not given is at its default. Errors as `check_methods`."""
        before = tuple(name for name in (options.get("delta_before") or "").split(",") if name)
        strange = {*before} - {*METHODS}
        if strange:
            raise OptionError("delta_before", f"names {sorted(strange)[0]}, and is read from {{}}", "delta")
        given = {name: options.get(name) for name in DEFAULTS}
        filled = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
        return cls(check_methods(options.get("delta_methods"), before), before, **filled, seed=seed)

    @property
    def all_methods(self) -> tuple[str, ...]:
        """Those of earlier stages, too."""
        return tuple(name for name in METHODS if name in (*self.before, *self.methods))

    @property
    def roles(self) -> list[str]:
        """The roles of the matrices that LoRA stands beside."""
        return roles_of(self.lora_targets, "lora_targets")

    def check(self, options: Mapping[str, Any]) -> None:
        """Look at the numbers and names of all methods.

        Args:
            options: of the model, its widths among them.

        Raises:
            OptionError: naming the option.
        """
        check_adapter(self.adapter)
        for side in ("encoder", "decoder") if "adapter" in self.all_methods else ():
            bottleneck(int(options[f"{side}_embed_dim"]), self.adapter_reduction)
        check_rank((1 << 24, 1 << 24), self.lora_r, self.lora_alpha)  # the base says how wide a matrix is
        self.roles  # noqa: B018

    def file(self, base: BaseCheckpoint, earlier: Optional[DeltaFile] = None) -> DeltaFile:
        """Make what the stage begins with: biases as the base has them, adapters nearly the identity, of LoRA
        A random and B zero; and the parts of earlier stages.

        Args:
            earlier: what they have trained, of this base.

        Raises:
            OptionError: a rank above a matrix' width; the base has no head left for LoRA to stand beside.
        """
        identity = identity_of(base) if earlier is None else earlier.base
        parts = dict(earlier.parts) if earlier is not None else {}
        number = max((part.stage for part in parts.values()), default=0) + 1
        for method in self.methods:
            if method == "bias":
                whole = in_float(base.tensors)
                tensors = {name: whole[name].clone() for name in biases_in(identity)}
                parts[method] = Part(number, {}, tensors)
            elif method == "adapter":
                parts[method] = self._adapters(base, number)
            else:
                parts[method] = self._lora(base, number)
        config = {"host": "fairseq", "base_model": portable_path(base.path)}
        if earlier is not None:
            return replace(earlier, parts=parts, config={**earlier.config, **config})
        return DeltaFile(identity, parts, config=config)

    def _adapters(self, base: BaseCheckpoint, stage: int) -> Part:
        sizes = adapter_sizes(blocks_of(base), self.adapter, self.adapter_reduction, base.options)
        generator, tensors = torch.Generator().manual_seed(self.seed), {}
        for place, (width, inner) in sizes.items():
            state = Adapter(width, inner, generator).state_dict()
            tensors |= {f"{place}.{name}": state[name] for name in NAMES}
        settings = {"adapter": self.adapter, "reduction": self.adapter_reduction, "seed": self.seed}
        return Part(stage, settings, tensors)

    def _lora(self, base: BaseCheckpoint, stage: int) -> Part:
        roles = self.roles
        plain = NewUpdate(self.lora_r, self.lora_alpha, 0, "rp", ",".join(roles), self.seed)
        tensors: dict[str, Tensor] = {}
        for name, update in plain.updates(base, search=False).items():
            tensors |= {f"{name}.down": update.down, f"{name}.up": update.up}
        settings = {
            "rank": self.lora_r,
            "alpha": float(self.lora_alpha),
            "targets": roles,
            "scale": float(self.lora_alpha / self.lora_r),
            "seed": self.seed,
        }
        return Part(stage, settings, tensors)


def blocks_of(base: BaseCheckpoint) -> list[str]:
    """Return the names of a base's attention blocks, those without heads among them."""
    return [block.name for block in base.source.head_map.blocks if not block.neurons]


def options_of(file: DeltaFile) -> dict[str, Any]:
    """Return the options of a model's methods by a file.

    Raises:
        ValueError: its settings say nothing of them.
    """
    found: dict[str, Any] = {}
    settings = {method: part.settings for method, part in file.parts.items()}
    try:
        if "adapter" in settings:
            one = settings["adapter"]
            found |= {"adapter": one["adapter"], "adapter_reduction": one["reduction"]}
        if "lora" in settings:
            one = settings["lora"]
            found |= {"lora_r": one["rank"], "lora_alpha": one["alpha"]}
            found["lora_targets"] = ",".join(one["targets"])
            if one["alpha"] / one["rank"] != one["scale"]:
                raise ValueError("the scale of its LoRA is not alpha / rank")
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"its settings do not say how it was made ({error})") from error
    last = max(part.stage for part in file.parts.values())
    for name, chosen in (("delta_methods", True), ("delta_before", False)):
        named = [m for m in METHODS if m in file.parts and (file.parts[m].stage == last) is chosen]
        found[name] = ",".join(named) or None
    return found
