"""Tokenised examples, flat: a few large arrays in place of millions of small Python lists."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset


class PackedDataset(Dataset):
    """Rows of model inputs, one dict a row, to be padded by `transformers.DataCollatorWithPadding`.

    Add batches of encodings with `extend`, then give columns of one number a row to `set_column`. A row is
    {"input_ids": [row length], "attention_mask": [row length], ..., column: number}.
    """

    def __init__(self) -> None:
        self._flat: dict[str, Any] = {}
        self._ends = array("q", [0])
        self._columns: dict[str, Sequence] = {}

    def extend(self, encodings: Mapping[str, Iterable[Sequence[int]]]) -> None:
        """Add rows; `encodings` maps names, `input_ids` among them, to a sequence a row, equally long."""
        self._extend(encodings)

    def _extend(self, encodings: Mapping[str, Iterable[Sequence[int]]]) -> None:
        for row in encodings["input_ids"]:
            self._ends.append(self._ends[-1] + len(row))
        for name, rows in encodings.items():
            # 4 bytes a token, where a list of int takes 8 to 36
            flat = self._flat.setdefault(name, array("i"))
            for row in rows:
                flat.extend(row)

    def set_column(self, name: str, values: Sequence) -> None:
        """Add one number a row: int for classes and positions, float for scores.

        Raises:
            ValueError: `values` is not as long as the data.
        """
        self._set_column(name, values)

    def _set_column(self, name: str, values: Sequence) -> None:
        if len(values) != len(self):
            raise ValueError(f"{len(values)} values of {name} for {len(self)} rows")
        self._columns[name] = values

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start, end = self._ends[index], self._ends[index + 1]
        row: dict[str, Any] = {name: flat[start:end].tolist() for name, flat in self._flat.items()}
        row.update((name, values[index]) for name, values in self._columns.items())
        return row

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each row, [rows] int64."""
        return np.diff(np.frombuffer(self._ends, dtype=np.int64))

    def largest(self, name: str) -> int:
        """Return the largest number of `input_ids`, `token_type_ids` ... over all rows; -1 without any."""
        flat = self._flat.get(name)
        return int(np.frombuffer(flat, dtype=np.int32).max()) if flat else -1
