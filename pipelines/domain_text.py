#!/usr/bin/env python3
"""Prepare a domain's text in the subwords of the base, and binarise it; steps that are done are skipped.

domain_text.py NAME HOME        of multi30k and iwslt14, HOME being the domain of the base
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsp_plugin.records.files.whole import write_text
from pipelines.plans.domain_rows import Domain
from pipelines.plans.options import read_settings


def main(name: str, home_name: str) -> None:
    domain, home = Domain.of(name, home_name), Domain.of(home_name, home_name)
    program = f"data-prep/prepare-{name}.sh"
    if domain.text == domain.whole:
        sys.exit(subprocess.call([program]))
    own = [] if name == home_name else ["--codes", str(home.whole / "code")]
    subprocess.run([program, "--text", str(domain.whole), *own, "--text-only"], check=True)
    sentences = read_settings("domains.yaml").sentences if name == "iwslt14" else {}
    for split in ("train", "valid", "test"):
        for lang in ("de", "en"):
            lines = (domain.whole / f"{split}.{lang}").read_text("utf-8").removesuffix("\n").split("\n")
            write_text(
                domain.text / f"{split}.{lang}",
                "".join(line + "\n" for line in lines[: sentences.get(split)]),
            )
    words = [] if name == home_name else ["--dictionaries", str(home.data)]
    binarise = [
        sys.executable,
        "data-prep/binarise.py",
        "--text",
        str(domain.text),
        "--dest",
        str(domain.data),
        *words,
    ]
    sys.exit(subprocess.call(binarise))


if __name__ == "__main__":
    main(*sys.argv[1:])
