"""Tables of costs in a folder, so that a machine measures a shape of model once.

A file's name is a hash of all that the costs depend on: machine, torch, number of threads, shape, model. What
is in it says the same in words, and when it was measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records.files.sealed import read_json, write_json
from .cost_tables import CostTable


def default_folder() -> Path:
    """Return where tables are kept unless a user says otherwise: in the user's folder of caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(caches) / "dsp_plugin" / "costs"


class CostFile:
    """The file of one table.

    Args:
        folder: of all tables.
        settings: all that the costs depend on; JSON.
    """

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any]):
        self.settings = json.loads(json.dumps(dict(settings)))
        name = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]
        self.path = Path(folder) / f"costs-{name}.json"

    def read(self) -> tuple[CostTable, str] | None:
        """Return the table and the date of its measuring; None where there is none, or a damaged one."""
        try:
            content = read_json(self.path)
            if content["settings"] != self.settings:
                return None
            return CostTable.of(content["table"]), str(content["measured"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, table: CostTable) -> None:
        """Keep a table, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        content = {"measured": time.strftime("%Y-%m-%d"), "settings": self.settings, "table": table.to_dict()}
        write_json(self.path, json.dumps(content, indent=1) + "\n")
