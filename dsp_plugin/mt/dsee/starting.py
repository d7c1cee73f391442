"""Stage I begins: the update of a base that nothing has trained yet, as a file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...dsee.artefact import DseeFile, Update
from ...dsee.supports import check_support, find_support
from ...dsee.update import SPREAD, check_rank
from ...options.errors import OptionError
from ...records.record import portable_path
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.frozen_base import identity_of, in_float
from .layer import roles_of, weights_of

DEFAULTS = {
    "lora_r": 16,
    "lora_alpha": 32.0,
    "num_sparse": 64,
    "sparse_method": "grebsmo",
    "dsee_targets": "query,value",
}
"""The options of a new update, by those of the model."""


@dataclass(frozen=True)
class NewUpdate:
    """What the update of every matrix is to be.

    Attributes:
        lora_r, lora_alpha, num_sparse, sparse_method, dsee_targets: as the options of these names. seed: of A
            and of the supports.
    """

    lora_r: int
    lora_alpha: float
    num_sparse: int
    sparse_method: str
    dsee_targets: str
    seed: int

    @classmethod
    def of(cls, options: Mapping[str, Any], seed: int) -> NewUpdate:
        """Read the options of a model; what was not given is at its default."""
        given = {name: options.get(name) for name in DEFAULTS}
        filled = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
        return cls(**filled, seed=seed)

    def matrices(self, base: BaseCheckpoint) -> dict[str, Tensor]:
        """Return the base's matrices that have an update, by name.

        Raises:
            OptionError: there are none, or one is too small for the rank or the entries.
        """
        blocks = [one for one in base.source.head_map.blocks if not one.neurons and one.num_heads]
        names = weights_of([block.name for block in blocks], roles_of(self.dsee_targets))
        found = {name: base.tensors[name] for name in names}
        if not found:
            raise OptionError("base_checkpoint", f"{base.path} has no attention head left to update")
        for weight in found.values():
            shape = tuple(weight.shape)
            check_rank(shape, self.lora_r, self.lora_alpha)
            check_support(shape, self.num_sparse, self.sparse_method)
        return in_float(found)

    def updates(self, base: BaseCheckpoint, search: bool = True) -> dict[str, Update]:
        """Make the update of every matrix, by name: A random, B and S2 zeros.

        Args:
            search: look for the places of S2, which a training that goes on has in its checkpoint.

        Raises:
            OptionError: as `matrices`. ValueError: a matrix holds values that are not finite.
        """
        generator, updates = torch.Generator().manual_seed(self.seed), {}
        for number, (name, weight) in enumerate(self.matrices(base).items()):
            outputs, inputs = weight.shape
            positions = torch.arange(self.num_sparse)
            if search:
                # other random numbers for every matrix
                seed = (self.seed << 20) + number
                positions = find_support(weight, self.num_sparse, self.sparse_method, seed)
            down = torch.randn(self.lora_r, inputs, generator=generator) * SPREAD
            values = torch.zeros(self.num_sparse)
            scale = self.lora_alpha / self.lora_r
            updates[name] = Update(down, torch.zeros(outputs, self.lora_r), positions, values, scale)
        return updates

    def file(self, base: BaseCheckpoint, search: bool = True) -> DseeFile:
        """Make what stage I begins with. Arguments and errors as `updates`."""
        updates = self.updates(base, search)
        config = {
            "method": "dsee",
            "host": "fairseq",
            "base_model": portable_path(base.path),
            "num_sparse": self.num_sparse,
            "sparse_method": self.sparse_method,
            "targets": roles_of(self.dsee_targets),
            "seed": self.seed,
            "lora": {"r": self.lora_r, "lora_alpha": self.lora_alpha},
            "stage": "I",
        }
        return DseeFile(identity_of(base), updates, config=config)
