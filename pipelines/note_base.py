#!/usr/bin/env python3
"""Note which base the runs of domains.smk begin with, once it is trained; refuse it beside others' records.

python pipelines/note_base.py home=multi30k [KEY=VALUE ...]        as for domains.smk
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.plans.domains import DomainsPlan

if __name__ == "__main__":
    try:
        DomainsPlan(dict(word.split("=", 1) for word in sys.argv[1:])).note_base()
    except (ValueError, OSError) as error:
        sys.exit(f"note_base.py: error: {error}")
