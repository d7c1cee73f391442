"""The help of the programs in scripts/glue, squad, dsee and delta: at once, short, and true."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsp_plugin.cli.short_help import DATA, METHODS, PROGRAMS, TRAINER, groups_of, read_options

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("glue", "squad", "dsee", "delta")
    for path in (ROOT / "scripts" / folder).glob("run*.py")
) + ["scripts/delta/pretrain_mlm.py"]
HEAVY = (
    "import sys, runpy; sys.argv = [{script!r}, {word!r}]\ntry:\n    runpy.run_path({script!r}, "
    "run_name='__main__')\n"
    "finally:\n    print('heavy:', sorted({{'torch', 'transformers', 'fairseq'}} & set(sys.modules)))"
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_short_at_first_and_imports_nothing_long(script):
    code = HEAVY.format(script=str(ROOT / script), word="--help")
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    usage = found.partition("\n\n")[0].splitlines()
    assert len(usage) == 1 and usage[0].startswith("usage: ") and "--output_dir" in usage[0]
    assert found.rstrip().endswith("heavy: []")
    assert "--help-all" in found and len(found.splitlines()) < 140 and max(map(len, found.splitlines())) < 170


@pytest.mark.parametrize(
    "group", sorted({group for data in DATA for method in METHODS for group in groups_of(data, method)})
)
def test_what_is_read_off_the_source_is_what_the_program_has(group):
    pytest.importorskip("transformers")
    file, _, name = group.partition(":")
    heading, options = read_options(PROGRAMS / file, name)
    found = getattr(
        importlib.import_module(f"dsp_plugin.hf.programs.{file.removesuffix('.py').replace('/', '.')}"), name
    )
    fields = {field.name: field for field in dataclasses.fields(found) if field.init}
    told = {option.name: option for option in options}
    assert told.keys() == fields.keys()
    assert heading == found._argument_group_name
    for key, field in fields.items():
        assert told[key].help and told[key].help == field.metadata["help"]
        choices = field.metadata.get("choices") or ()
        unsaid = [choice for choice in choices if not re.search(rf"\b{choice}\b", told[key].help)]
        assert not unsaid, f"{key}: the short help does not say {unsaid}"
        assert told[key].required == (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )


def test_the_trainers_options_are_its_own():
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {name for names, _ in TRAINER for name in names.split(", ")} <= known
