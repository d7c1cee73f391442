"""The options of DSEE's programs, and the flags of the published ones that do nothing there either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

from ....dsee.scores import HEAD_MODES, MODES
from ....dsee.supports import METHODS
from ....options.errors import OptionError
from ....options.numbers import Meaning
from ...dsee.targets import ROLES
from ..chassis.arguments import option
from ..chassis.parsing import say

BELOW_1 = Meaning("a share, from 0 to below 1", 0, 1, open_most=True)
_OF_LORA = ("lora_r", "lora_alpha", "dsee_targets", "cls_dropout")
_OF_SPARSE = ("num_sparse", "sparse_method")
# core's name of an option -> ours
_OTHER_NAMES = {"targets": "dsee_targets"}


@dataclass
class UpdateArguments:
    """What is trained instead of all weights."""

    apply_lora: bool = option(
        "train an update of low rank on some matrices and the task head, and freeze the rest; without it all "
        "weights learn",
        False,
    )
    lora_r: Annotated[int, "count"] = option("r, the rank of A and B", 4)
    lora_alpha: Annotated[float, "positive"] = option("the update is scaled by alpha / r", 32.0)
    apply_sparse: bool = option("give each matrix single entries, S2, beside its low rank", False)
    num_sparse: Annotated[int, "count"] = option("entries of S2 in each matrix", 128)
    sparse_method: str = option("where they are: grebsmo, omp or rp", "grebsmo", choices=list(METHODS))
    dsee_targets: str = option(
        "roles of the matrices with an update, joined by commas: some of query, key, value, output",
        "query,value",
    )
    cls_dropout: Annotated[float | None, "dropout"] = option(
        "dropout before the task head; default: the model's own"
    )

    def check(self) -> None:
        """Raise an OptionError for options that nothing would come of."""
        if self.apply_sparse and not self.apply_lora:
            raise OptionError("apply_sparse", "has its entries beside a low rank: give {}, too", "apply_lora")
        for switch, names in (("apply_lora", _OF_LORA), ("apply_sparse", _OF_SPARSE)):
            for name in names if not getattr(self, switch) else ():
                if getattr(self, name) != _default(type(self), name):
                    raise OptionError(name, "does nothing without {}", switch)
        self.roles()

    def roles(self) -> list[str]:
        """Return the targets as a list.

        Raises:
            OptionError: an unknown one, or none.
        """
        found = [word.strip() for word in self.dsee_targets.split(",") if word.strip()]
        unknown = [word for word in found if word not in ROLES]
        if unknown or not found:
            reason = f"{self.dsee_targets!r}: some of {', '.join(ROLES)} belong there, joined by commas"
            raise OptionError("dsee_targets", reason)
        return found

    @property
    def entries(self) -> int:
        """Entries of S2 in each matrix, 0 without it."""
        return self.num_sparse if self.apply_sparse else 0


@dataclass
class StartArguments:
    """What was trained before."""

    dsee_checkpoint: str | None = option(
        "what an earlier stage wrote (task.dsee.safetensors, or its folder), or the folder of a LoRA by PEFT"
    )


@dataclass
class PruneArguments:
    """What is pruned of the frozen weights."""

    pruning_ratio: Annotated[float, BELOW_1] = option(
        "share of the weights without an update (key, dense, pooler) that are set to 0, by magnitude", 0.0
    )
    ad_pruning_ratio: Annotated[float, BELOW_1] = option(
        "share of the weights with an update that are set to 0, by --prune_mode", 0.0
    )
    prune_mode: str = option(
        "score of a weight or head: of the update with S2 (ABS), without it (AB), with the weight (WABS, "
        "WAB), the reciprocal (NABS, NAB), the weight alone (W), or random; for heads ABS or WABS",
        "WABS",
        choices=list(MODES),
    )
    prune_heads_num: Annotated[int | None, "amount"] = option(
        "heads that are taken out of every layer; default: 3 in run_glue_prune_heads.py, else none"
    )
    prune_neurons: Annotated[float, BELOW_1] = option(
        "share of every feed-forward layer's groups of neurons that are taken out", 0.0
    )
    neuron_group: Annotated[int, "count"] = option("neurons in a group", 32)
    gradual_updates: Annotated[int, "amount"] = option(
        "N: the two shares of weights grow over the first N updates of stage III, fast at first; 0: at once",
        0,
    )
    gradual_every: Annotated[int, "count"] = option("updates between two steps of it", 10)
    mask_update: bool = option(
        "the update counts only where weights are left, so that the merged matrices are sparse, too", False
    )

    def check(self) -> None:
        """Raise an OptionError for options that do not go together."""
        if self.prune_heads_num and self.prune_mode not in HEAD_MODES:
            reason = f"{self.prune_mode} ranks no heads: {' or '.join(HEAD_MODES)} does"
            raise OptionError("prune_mode", reason)
        if self.gradual_updates and not self.unstructured:
            raise OptionError("gradual_updates", "lets {} grow, which is 0", "pruning_ratio")

    @property
    def unstructured(self) -> bool:
        """Whether single weights are pruned."""
        return bool(self.pruning_ratio or self.ad_pruning_ratio)

    @property
    def structured(self) -> bool:
        """Whether heads or neurons are taken out."""
        return bool(self.prune_heads_num or self.prune_neurons)

    def figures(self) -> dict[str, Any]:
        """Return what is pruned, as the artefact and the records note it."""
        found: dict[str, Any] = {}
        if self.unstructured:
            found |= {name: getattr(self, name) for name in ("pruning_ratio", "ad_pruning_ratio")}
        if self.prune_heads_num:
            found["prune_heads_num"] = self.prune_heads_num
        if self.prune_neurons:
            found |= {name: getattr(self, name) for name in ("prune_neurons", "neuron_group")}
        if self.unstructured or self.prune_heads_num:
            found["prune_mode"] = self.prune_mode
        if self.gradual_updates:
            found |= {name: getattr(self, name) for name in ("gradual_updates", "gradual_every")}
        if self.mask_update:
            found["mask_update"] = True
        return found


UpdateArguments._argument_group_name = "DSEE, stage I"  # type: ignore[attr-defined]
StartArguments._argument_group_name = "DSEE, what was trained before"  # type: ignore[attr-defined]
PruneArguments._argument_group_name = "DSEE, stage II"  # type: ignore[attr-defined]


def without_idle_flags(argv: Sequence[str]) -> list[str]:
    """Take out --slimming and --l1_loss_*, which do nothing in the published programs; says so of each."""
    kept: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        plain = name[2:].replace("-", "_") if name.startswith("--") else ""
        if plain != "slimming" and not plain.startswith("l1_loss_"):
            kept.append(word)
            continue
        if not equals and rest and not rest[0].startswith("--"):
            rest.pop(0)
        say(f"{name} is ignored: it does nothing in the published program either")
    return kept


@contextmanager
def our_names() -> Iterator[None]:
    """Let an error of the core name an option as the programs spell it."""
    try:
        yield
    except OptionError as error:
        if error.name in _OTHER_NAMES:
            raise OptionError(_OTHER_NAMES[error.name], error.reason, *error.others) from error
        raise


def _default(group: type, name: str) -> Any:
    found = next(field.default for field in fields(group) if field.name == name)
    return None if found is MISSING else found
