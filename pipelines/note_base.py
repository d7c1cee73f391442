#!/usr/bin/env python3
"""Note which base the runs of domains.smk begin with, once it is trained; refuse it beside others' records.

  python pipelines/note_base.py home=multi30k [KEY=VALUE ...]            as for domains.smk
  python pipelines/note_base.py --check home=multi30k [KEY=VALUE ...]    refuse it, or note nothing

A base is known by its weights: the file of one that was trained alike again holds other times.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.plans.domains import DomainsPlan


def main(words: list[str]) -> None:
    checks = words[:1] == ["--check"]
    plan = DomainsPlan(dict(word.split("=", 1) for word in words[checks:]))
    from dsp_plugin.mt.surgery.base_checkpoint import read_base
    from dsp_plugin.mt.surgery.frozen_base import identity_of

    content = f"sha256:{identity_of(read_base(str(plan.base), 'is finetuned')).hash}"
    plan.noted.check_base(plan.base, content)
    if not checks:
        plan.noted.write(content)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
