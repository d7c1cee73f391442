"""README and docs/: short enough, no dead link or path, Python blocks that run or say why not."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import importlib
import re
import shlex
from pathlib import Path

import pytest
from page_commands import BLOCK, PAGES, ROOT

# (page, first words of a Python block): why no test runs it as it stands
NOT_RUN = {
    ("diff-pruning.md", "from dsp_plugin.hf.diffs.training"): "needs a Trainer's arguments: "
    "test_diff_training.py",
    ("glue.md", "from transformers import AutoTokenizer"): "needs a data set: tests/unit/hf/test_glue.py",
    ("hf.md", "class SentencePair"): "a pretrained BERT: tests/system/test_hf_sentence_pairs.py trains such "
    "a one",
    ("hf.md", "from dsp_plugin.hf.heads.training"): "a training: tests/system/test_hf_learns.py",
    ("hf.md", "from dsp_plugin.hf.heads.importance"): "a data set: tests/unit/hf/test_hf_michel.py",
}
RUN_ELSEWHERE = {
    "adding-a-method.md": "tests/integration/test_worked_example.py",
    ("diff-pruning.md", "from dsp_plugin.diffs import"): "tests/unit/docs/test_diff_docs.py",
    ("dsee.md", "from transformers import"): "tests/unit/docs/test_dsee_docs.py",
    ("delta-methods.md", "from transformers import"): "tests/unit/docs/test_delta_methods_docs.py",
    ("prune-to-speed.md", "from dsp_plugin.choosing"): "tests/unit/docs/test_speed_docs.py",
    ("hf.md", "import torch"): "below",
    ("hf.md", "from dsp_plugin.hf import gate_heads, head_map_of"): "below",
    ("hf.md", "from dsp_plugin.gating import best_of_blocks"): "below",
    ("diff-packs.md", "from dsp_plugin.diffs.serving.bank"): "below",
    ("diff-packs.md", "bank = DiffBank(model)"): "below",
}


def pages_blocks(language: str) -> list[tuple[Path, str]]:
    return [
        (p, code) for p in PAGES for found, code in BLOCK.findall(p.read_text("utf-8")) if found == language
    ]


def block_of(page: str, start: str) -> str:
    (code,) = [code for path, code in pages_blocks("python") if path.name == page and code.startswith(start)]
    return code


def test_the_readme_is_short_and_has_a_picture():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).is_file()


def test_every_make_target_that_is_named_has_a_rule():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())
    for page in PAGES:
        text = page.read_text("utf-8")
        named |= set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE))
    for target in named:
        assert re.search(rf"^{target}:.*\n\t|^{target}: \S", makefile, re.MULTILINE), f"make {target}"


def test_modules_of_the_api_pages_are_there():
    named = [
        name
        for page in PAGES
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(named) > 20
    for name in named:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


def table_rows(text: str, first: str) -> list[list[dict[str, str]]]:
    """Read the rows of every table whose first column is named so, each {column: cell}."""
    tables = []
    for lines in re.findall(rf"^\| *{first} *\|.*\n(?:\|.*\n?)+", text, re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()
        ]
        tables.append([dict(zip(head, row, strict=True)) for row in rows])
    return tables


def test_figures_are_those_of_the_tables():
    results, benchmarks = (
        (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("results", "benchmarks")
    )
    whole = table_rows((ROOT / "results" / "multi30k" / "table.md").read_text("utf-8"), "setting")[0]
    shown = table_rows(results, "setting")
    assert len(shown) == 2
    for table in shown:  # some of the columns, and the rows that have all of them
        rows = [{column: row[column] for column in table[0]} for row in whole]
        assert table == [row for row in rows if "not measured" not in row.values()]
    rows = re.findall(
        r"^\|.*\|$", (ROOT / "README.md").read_text("utf-8").partition("## Results")[2], re.MULTILINE
    )
    for _, _, before, after, _, _ in (row.split("|") for row in rows[2:8]):
        for figure in (before.strip(), after.strip()):
            assert figure == "1" or re.search(rf"(?<=[ |]){figure}(?=[ ,|])", results + benchmarks), figure


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target
    places = r"`((?:dsp_plugin|scripts|tests|docs|pipelines|benchmarks|data-prep|results)/[\w./-]+\.\w+)"
    for path in re.findall(places, text):
        made = path.startswith("results/") and not (ROOT / path).exists()
        assert made or (ROOT / path).exists() or path in example_files(), path
    for path in re.findall(r"`((?:[\w-]+/)+[\w*.-]+\.(?:py|cpp|smk|sh|yaml))`", text):
        places = (ROOT, ROOT / "dsp_plugin", page.parent)
        assert path in example_files() or any(list(place.glob(path)) for place in places), path


def example_files() -> set[str]:
    text = (ROOT / "docs" / "adding-a-method.md").read_text("utf-8")
    return set(re.findall(r"^\*\*`([\w/.]+)`\*\*", text, re.MULTILINE))


def test_every_python_block_is_run_or_says_why_not():
    for page, code in pages_blocks("python"):
        rows = [*NOT_RUN, *(row for row in RUN_ELSEWHERE if isinstance(row, tuple))]
        assert page.name in RUN_ELSEWHERE or any(
            page.name == name and code.startswith(start) for name, start in rows
        ), f"{page}: {code[:60]}"


@pytest.mark.parametrize("page,code", pages_blocks("python"), ids=lambda value: getattr(value, "name", None))
def test_names_in_python_blocks_can_be_imported(page, code):
    if page.name == "adding-a-method.md":
        pytest.skip("its modules are made by test_worked_example.py")
    for module, names in re.findall(
        r"^from (dsp_plugin[\w.]*) import \(?([^)\n]+|[^)]+)\)?$", code, re.MULTILINE
    ):
        found = importlib.import_module(module)
        for name in names.replace("\n", " ").split(","):
            assert not name.strip() or hasattr(found, name.strip()), f"{module}.{name}"


def test_the_first_example_on_transformers(tmp_path, monkeypatch):
    from hf_models import tiny_model
    from transformers import AutoModelForSequenceClassification

    model = tiny_model("bert")
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    from dsp_plugin.gating import RelaxedSubset

    # nothing trains in a test of the page
    monkeypatch.setattr(RelaxedSubset, "decided", property(lambda self: True))
    exec(block_of("hf.md", "import torch").replace("heads, 36,", "heads, 3,"), {})
    assert (tmp_path / "pruned" / "config.json").is_file()


def test_the_example_of_a_schedule_that_is_worked_out(tmp_path, monkeypatch):
    from hf_data import arguments, padded, sentences
    from hf_models import tiny_model

    from dsp_plugin.gating.methods import recipe
    from dsp_plugin.hf import switchboard_of

    monkeypatch.setattr(recipe, "LEAST_UPDATES", 6)
    model, code = tiny_model("bert"), block_of("hf.md", "from dsp_plugin.hf import gate_heads, head_map_of")
    names = {"model": model, "args": arguments(tmp_path, max_steps=6), "train_data": sentences(16)}
    exec(code.replace("num_of_heads=36", "num_of_heads=3"), {**names, "collate": padded})
    gates = switchboard_of(model).gates
    assert int(gates.keep().sum()) == 3 and gates.decided


def test_the_example_of_neurons():
    from hf_data import padded, sentences
    from hf_models import tiny_model

    from dsp_plugin.hf import head_map_of

    model = tiny_model("bert")
    code = block_of("hf.md", "from dsp_plugin.gating import best_of_blocks")
    for wide, small in (("neurons=32", "neurons=4"), (": 9,", ": 3,"), (": 58", ": 6")):
        assert wide in code
        code = code.replace(wide, small)
    exec(code, {"model": model, "train_data": sentences(8), "collate": padded})
    assert [block.num_heads for block in head_map_of(model, 4).blocks] == [3, 3, 6, 6]


def test_the_examples_of_packs(tmp_path, monkeypatch):
    import torch
    from diff_models import HEAD, tiny

    from dsp_plugin.diffs import SparseDiff

    monkeypatch.chdir(tmp_path)
    model = tiny()
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if not n.startswith("classifier")}
    name = next(iter(shapes))
    diff = SparseDiff({name: (torch.tensor([1, 3]), torch.tensor([0.5, -0.5]))}, shapes)
    head = {n: p.detach().clone() for n, p in model.named_parameters() if n.startswith("classifier")}
    before = {n: p.clone() for n, p in model.state_dict().items()}
    names = {"model": model, "diff": diff, "task_head": head, "config": {}}
    exec(block_of("diff-packs.md", "from dsp_plugin.diffs.serving.bank"), names)
    assert HEAD and all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    words = torch.randint(0, 5, (3, 4))
    code = block_of("diff-packs.md", "bank = DiffBank(model)").splitlines()
    exec("\n".join(code[:-1]), {**names, "cola": names["pack"], "mnli": names["pack"]})
    assert shlex.split(code[-1])[0] == "logits" and words.shape == (3, 4)


def test_the_picture_is_made_of_records(tmp_path):
    import runpy

    import numpy
    from PIL import Image

    made = runpy.run_path(str(ROOT / "scripts" / "picture.py"))
    results = ROOT / "results" / "multi30k" / "small"
    made["draw"](results, tmp_path / "picture.png")
    drawn, shown = (
        numpy.asarray(Image.open(path).convert("RGB"), dtype=float)
        for path in (tmp_path / "picture.png", ROOT / "docs" / "picture.png")
    )
    # the same to a few pixels: another version of the fonts' renderer shades edges differently
    assert drawn.shape == shown.shape and abs(drawn - shown).mean() < 1
    assert made["figure_of"](results / "unpruned-seed1", "test", "BLEU") == pytest.approx(38.60, abs=0.005)
    with pytest.raises((OSError, ValueError)):
        made["draw"](tmp_path, tmp_path / "other.png")
