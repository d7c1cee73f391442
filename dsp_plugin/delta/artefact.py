"""DeltaFile: what several methods add to a base for a task, as one small file that is bound to that base.

    metadata "dsp_delta"   JSON: format_version, checksum, base_hash, template, mapping, config
    tensor   "index"       see artefacts/bound_file.py; beside the base's parameters: parts [[method, stage,
                           settings], ...] in the order of the methods
    tensors  "METHOD.NAME" those of each part, see parts.py
    tensors  "head.NAME"   the dense task head

Matrices are named as the base's weights are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..artefacts.base import Base
from ..artefacts.bound_file import FileKind, Stored, index_tensor, read_index, stored
from ..artefacts.content import check_config, check_depth, check_name, check_task_head
from ..options.terminal import printable
from .parts import Part
from .stages import METHODS, in_order

FORMAT_VERSION = 1
OWNER = "the delta file"  # in messages on a base that is another one
MAX_TEXT = 10_000


@dataclass(frozen=True)
class DeltaFile(Stored):
    """Everything a task's methods add to its base.

    Attributes:
        base: names, dtypes, shapes and hash of the base.
        parts: by method.
        task_head: full tensors by name, trained dense.
        template: that the task was learnt with; None for none.
        mapping: label -> word; None for none.
        config: plain JSON; `model_config` in it as in diff packs.
    """

    kind: ClassVar[FileKind] = FileKind("dsp_delta", "delta file", FORMAT_VERSION)

    base: Base
    parts: dict[str, Part]
    task_head: dict[str, Tensor] = field(default_factory=dict)
    template: str | None = None
    mapping: dict[str, str] | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise a ValueError for what no reader takes."""
        if not self.parts:
            raise ValueError("there is nothing to store: no method is there")
        for method, part in self.parts.items():
            if method not in METHODS:
                raise ValueError(f"it has a method {method!r}, this dsp_plugin knows {', '.join(METHODS)}")
            part.check(method, self.base)
        if self.template is not None and not _is_text(self.template):
            raise ValueError("its template is no text")
        if self.mapping is not None:
            pairs = self.mapping.items() if isinstance(self.mapping, dict) else [(None, None)]
            if not all(_is_text(label) and _is_text(word) for label, word in pairs):
                raise ValueError("its mapping is not {label: word}")
        check_task_head(self.task_head, self.base)
        check_config(self.config)

    def to_bytes(self) -> bytes:
        """Return what `save` writes, the same bytes for the same content."""
        self.check()
        tensors = {f"head.{name}": stored(part) for name, part in self.task_head.items()}
        order = in_order(self.parts)
        for method in order:
            for name, tensor in self.parts[method].tensors.items():
                tensors[f"{method}.{name}"] = stored(tensor)
        parts = [[method, self.parts[method].stage, self.parts[method].settings] for method in order]
        tensors["index"] = index_tensor(self.base, {"parts": parts})
        about = {"base_hash": self.base.hash, "template": self.template, "mapping": self.mapping}
        return self.kind.to_bytes(tensors, {**about, "config": self.config})

    @classmethod
    def of_content(cls, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> DeltaFile:
        return _content(tensors, about)

    def check_template(self, template: str | None, mapping: Mapping[str, str] | None) -> None:
        """Compare a template and a mapping with those of the file; None is not compared.

        Raises:
            ValueError: the task was learnt with another one.
        """
        for what, theirs, mine in (("template", self.template, template), ("mapping", self.mapping, mapping)):
            if mine is None:
                continue
            if (dict(mine) if what == "mapping" else mine) != theirs:
                there = "none" if theirs is None else repr(theirs)
                raise ValueError(f"wrong {what}: {OWNER} was made with {there}, not with {mine!r}")

    @property
    def count(self) -> int:
        """The number of trained numbers, the task head's among them."""
        own = sum(part.count for part in self.parts.values())
        return own + sum(part.numel() for part in self.task_head.values())


def _content(tensors: dict[str, Tensor], about: Mapping[str, Any]) -> DeltaFile:
    base, index = read_index(tensors.pop("index"), about["base_hash"])
    announced = index["parts"]
    if not isinstance(announced, list):
        raise ValueError("its parts are no list")
    parts: dict[str, Part] = {}
    for entry in announced:
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], str):
            raise ValueError("a part of it is not [method, stage, settings]")
        method, stage, settings = entry
        check_name(method)
        if method in parts:
            raise ValueError(f"it has two parts of {method!r}")
        check_depth(settings, f"the settings of {method}")
        own = sorted(name for name in tensors if name.startswith(f"{method}."))
        found = {name[len(method) + 1 :]: tensors.pop(name) for name in own}
        parts[method] = Part(stage, settings, found)
    task_head = {name[len("head.") :]: tensors.pop(name) for name in sorted(tensors) if name[:5] == "head."}
    if tensors:
        raise ValueError(f"it has a tensor {next(iter(tensors))!r}")
    template, mapping = about["template"], about["mapping"]
    result = DeltaFile(base, parts, task_head, template, mapping, about["config"])
    result.check()
    return result


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= MAX_TEXT and printable(text, "") == text
