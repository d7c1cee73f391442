"""The certificate of an export: how far its outputs are from those of the masked model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .files.sealed import read_json, write_json
from .files.sealed_folder import check_sealed, seal_folder, sha256

NAME = "certificate.json"
_WEIGHTS = (".safetensors", ".onnx", ".onnx.data", ".bin", ".pt")


class ExportError(ValueError):
    """An export whose outputs are not those of the model it was made from."""


@dataclass(frozen=True)
class Certificate:
    """The outcome of comparing two models.

    Attributes:
        largest_difference: of two outputs, absolute, over all tokens compared.
        largest_output: the largest absolute output of the first model, to judge it by.
        tolerance: what `largest_difference` may be.
        tokens: how many tokens were compared, padding left out.
        sequences: how many sequences they are in.
        outputs: names of the outputs compared.
        dtype: precision the models ran in.
        data: what the batches were, in words.
        extra: what else was compared, such as translations.
    """

    largest_difference: float
    largest_output: float
    tolerance: float
    tokens: int
    sequences: int
    outputs: Sequence[str]
    dtype: str
    data: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return self.largest_difference <= self.tolerance  # NaN is not

    def require(self, what: str) -> None:
        """Raise an ExportError unless the outputs are equal; `what` was exported."""
        if not self.equal:
            raise ExportError(
                f"{what} is not equal to the masked model: its outputs differ by up to "
                f"{self.largest_difference:.3g} on "
                f"{self.tokens} tokens ({self.data}), {self.tolerance:.3g} is allowed; nothing was written"
            )

    def sentence(self) -> str:
        """Tell the outcome in one line."""
        return (
            f"largest difference to the masked model: {self.largest_difference:.2e} (outputs up to "
            f"{self.largest_output:.3g}) over {self.tokens:,} tokens in {self.sequences:,} sequences of "
            f"{self.data}"
        )


def write_certificate(
    certificate: Certificate, export: str | os.PathLike, final: str | os.PathLike | None = None
) -> Path:
    """Write the certificate with its weights' SHA-256; a folder is sealed, so it comes last.

    Args:
        export: the folder of an export, in which it is called certificate.json, or a file, beside which it is
            called `FILE.certificate.json`.
        final: where the file will be, beside which the certificate goes; None where it is there already.

    Raises:
        OSError: it cannot be written.
    """
    export = Path(export)
    files = (
        [export]
        if export.is_file()
        else [path for path in sorted(export.iterdir()) if path.name.endswith(_WEIGHTS)]
    )
    path = export / NAME if export.is_dir() else Path(f"{final or export}.{NAME}")
    weights = {Path(final or file).name: sha256(file) for file in files}
    write_json(
        path,
        json.dumps({"equal": certificate.equal, **asdict(certificate), "sha256": weights}, indent=2) + "\n",
    )
    if export.is_dir():
        seal_folder(export)
    return path


def read_certificate(export: str | os.PathLike) -> Certificate:
    """Read the certificate of an export that is still what was compared.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it, or a file of the export, is damaged or another one.
    """
    export = Path(export)
    if export.is_dir():
        check_sealed(export)
    path = export / NAME if export.is_dir() else export.with_name(f"{export.name}.{NAME}")
    content = read_json(path)
    try:
        weights = content["sha256"]
        certificate = Certificate(**{entry.name: content[entry.name] for entry in fields(Certificate)})
        names = {Path(name).name: checksum for name, checksum in weights.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no certificate of an export ({error})") from None
    folder = export if export.is_dir() else export.parent
    for name, checksum in names.items():
        if sha256(folder / name) != checksum:
            raise ValueError(f"{folder / name} is damaged, or not the export that {path} speaks of")
    return certificate
