"""Which base a diff belongs to: the names, types, shapes and bytes of its parameters, as one SHA-256.

Leading names: a model with a task head calls its body's parameters `bert.encoder...`, the bare base
`encoder...`. `find_names` looks through that, so that a pack of the one finds its base in the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# a LayerNorm's parameters in checkpoints from before 2020, which Transformers renames on loading
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@dataclass(frozen=True)
class Names:
    """The names that parameters have in another model.

    Attributes:
        called: name here → name there.
        here, there: the leading names in which the two models differ; at least one of them is empty.
    """

    called: dict[str, str]
    here: str = ""
    there: str = ""

    def __getitem__(self, name: str) -> str:
        return self.called[name]

    def translate(self, name: str) -> str:
        """Return what any name here would be there."""
        return self.there + name[len(self.here) :] if name.startswith(self.here) else name


@dataclass(frozen=True)
class Base:
    """The identity of a base.

    Attributes:
        parameters: name → (dtype such as `float32`, shape), the task head left out, tied weights once.
        hash: `base_hash` of them, hexadecimal.
        tied: name → the other names of the same parameter, for those that have some.
    """

    parameters: dict[str, tuple[str, tuple[int, ...]]]
    hash: str
    tied: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module | Mapping[str, Tensor], task_head: Iterable[str] = ()) -> Base:
        """Work out the identity of a module or of a dictionary of weights.

        Args:
            model: of a module its parameters count, not its buffers; of a dictionary all floating tensors.
            task_head: names of its parameters, or of the modules that hold them; left out.

        Raises:
            ValueError: a name in `task_head` is not in the model, or nothing is left without the task head.
        """
        tensors = tensors_of(model)
        in_task_head = set(task_head_names(tensors, task_head))
        names: dict[object, list[str]] = {}
        for name, tensor in tensors.items():
            if name not in in_task_head and (isinstance(model, nn.Module) or tensor.is_floating_point()):
                names.setdefault(_storage(tensor), []).append(name)
        if not names:
            raise ValueError("the model has no parameters beside its task head")
        first = {same[0]: tensors[same[0]] for same in names.values()}
        parameters = {name: (dtype_name(first[name]), tuple(first[name].shape)) for name in sorted(first)}
        tied = {same[0]: tuple(same[1:]) for same in names.values() if len(same) > 1}
        return cls(parameters, base_hash(first), tied)

    @property
    def total(self) -> int:
        """The number of weights."""
        return sum(torch.Size(shape).numel() for _, shape in self.parameters.values())

    def find(self, tensors: Mapping[str, Tensor], owner: str = "the diff") -> Names:
        """Look up what this base's parameters are called in `tensors`.

        Args:
            owner: what belongs to this base, for messages.

        Raises:
            ValueError: some are missing or have another shape; names them.
        """
        found = find_names(self.parameters, tensors, self.tied, owner)
        for name, (_, shape) in self.parameters.items():
            there = list(tensors[found[name]].shape)
            if there != list(shape):
                wrong = f"{found[name]} has the shape {there}, {owner} was made on {list(shape)}"
                raise ValueError(f"wrong base: {wrong}")
        return found

    def check(self, tensors: Mapping[str, Tensor], found: Names, owner: str = "the diff") -> None:
        """Compare types and bytes; `found` is what `find` gave, `owner` as there.

        Raises:
            ValueError: `tensors` are not this base.
        """
        for name, (dtype, _) in self.parameters.items():
            there = dtype_name(tensors[found[name]])
            if there != dtype:
                raise ValueError(f"wrong base: {found[name]} is {there}, {owner} was made on {dtype}")
        there = base_hash({name: tensors[found[name]] for name in self.parameters})
        if there != self.hash:
            raise ValueError(
                f"wrong base: names and shapes fit, but the weights are others "
                f"(SHA-256 {there[:12]}..., {owner} was made on {self.hash[:12]}...)"
            )


def base_hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hexadecimal) over the names in sorted order, each with its dtype, shape and bytes.

    A tensor counts under every name in `state`: leave out the task head and second names of tied weights.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        digest.update(f"{name} {dtype_name(tensor)} {list(tensor.shape)}\n".encode())
        # any shape -> [bytes]
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tensors_of(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a module's parameters under all their names, or the dictionary itself."""
    if isinstance(model, nn.Module):
        return dict(model.named_parameters(remove_duplicate=False))
    return model


def task_head_names(names: Iterable[str], task_head: Iterable[str]) -> list[str]:
    """Return the parameters among `names` that `task_head`, names of parameters or of modules, stands for.

    Raises:
        ValueError: an entry of `task_head` stands for none.
    """
    names, found = list(names), []
    for entry in task_head:
        mine = [name for name in names if name == entry or name.startswith(entry + ".")]
        if not mine:
            raise ValueError(
                f"the task head cannot be found: the model has no parameter '{entry}' and no module of that "
                "name"
            )
        found += mine
    return sorted(set(found))


def find_names(
    wanted: Iterable[str],
    there: Mapping[str, object],
    tied: Mapping[str, tuple[str, ...]] = {},
    owner: str = "the diff",
) -> Names:
    """Look the wanted names up in `there`, where all may have a leading name less, or more.

    Raises:
        ValueError: some of them are not there under any common leading name; names them.
    """
    wanted = list(wanted)
    for leading_here, leading_there in _renamings(wanted, there):
        names = Names({}, leading_here, leading_there)
        for name in wanted:
            for known in (name, *tied.get(name, ())):
                called = next((spelt for spelt in _spellings(names.translate(known)) if spelt in there), None)
                if called is not None:
                    names.called[name] = called
                    break
            else:
                break  # one is missing: not under this name
        if len(names.called) == len(wanted):
            return names
    missing = [name for name in wanted if name not in there]
    some = ", ".join(missing[:3]) + (" ..." if missing[3:] else "")
    raise ValueError(f"wrong base: it lacks {len(missing)} of {owner}'s {len(wanted)} parameters: {some}")


def dtype_name(tensor: Tensor) -> str:
    """Return a tensor's dtype as files write it, such as `float32`."""
    return str(tensor.dtype).replace("torch.", "")


def _renamings(wanted: list[str], there: Mapping[str, object]) -> list[tuple[str, str]]:
    """List pairs (leading name here, leading name there) to try, the most likely first."""
    first = wanted[0] if wanted else ""
    leading = first.split(".")[0] + "."
    tried = [("", "")]
    if all(name.startswith(leading) for name in wanted):
        tried.append((leading, ""))
    for spelt in _spellings(first):
        tried += [("", name[: -len(spelt)]) for name in there if name.endswith("." + spelt)]
    return tried


def _spellings(name: str) -> list[str]:
    return [name] + [name[: -len(new)] + old for new, old in _OLD_NAMES.items() if name.endswith(new)]


def _storage(tensor: Tensor) -> object:
    """Return what is equal for two names of one tensor, as `torch.load` and tied modules have them."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def task_head_places(
    task_head: Mapping[str, Tensor], tensors: Mapping[str, Tensor], owner: str
) -> dict[str, str]:
    """Find the names that a model has for a file's task head: {name in the file: name in the model}.

    Args:
        task_head: the file's. tensors: the model's.
        owner: whose it is, for messages: "the pack".

    Raises:
        ValueError: the model has none, or one of another shape.
    """
    try:
        called = find_names(task_head, tensors)
    except ValueError:
        missing = ", ".join(name for name in task_head if name not in tensors)
        raise ValueError(f"the model has no place for {owner}'s task head: it lacks {missing}") from None
    for name, tensor in task_head.items():
        if tensors[called[name]].shape != tensor.shape:
            here, there = list(tensors[called[name]].shape), list(tensor.shape)
            raise ValueError(
                f"the model's task head {called[name]} has the shape {here}, {owner}'s {there}: build the "
                "model with as many labels"
            )
    return called
