"""Nothing in this repository writes a file in place: a kill, a full disk or a second process would leave half
of one.

Every file goes through `records.files.whole`: `write_text`, or a library's own writer inside `replacing` or
`new_folder`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(
    path
    for room in ("dsp_plugin", "scripts", "data-prep", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
)

WRITERS = {
    "save",
    "save_file",
    "savefig",
    "save_pretrained",
    "to_csv",
    "to_json",
    "tofile",
    "savetxt",
    "savez",
    "copyfile",
    "copy",
    "copy2",
    "copytree",
    "move",
    "write_text",
    "write_bytes",
}
# in their bodies what is written has no final name yet
WHOLE = {
    "replacing",
    "new_folder",
    "scratch",
    "in_one_step",
    "TemporaryDirectory",
    "TemporaryFile",
    "NamedTemporaryFile",
    "whole_file",
}
MODULES = {"save": {"torch", "np", "numpy"}, "copy": {"shutil"}, "copy2": {"shutil"}, "move": {"shutil"}}

# (file, name of the function): why it may write directly
ALLOWED = {
    ("dsp_plugin/records/files/whole.py", "link_entry"): "into the temporary folder of new_folder",
    ("dsp_plugin/records/files/whole.py", "link"): "into the temporary folder of new_folder",
    ("dsp_plugin/hf/folders/module_files.py", "write_state"): "into the temporary folder of new_folder",
    ("dsp_plugin/hf/export/onnx_export.py", "finish_export"): "into the temporary folder of new_folder",
    ("dsp_plugin/artefacts/checksum.py", "seal"): "puts the checksum into the temporary file of replacing",
    (
        "dsp_plugin/hf/dsee/checkpoints.py",
        "_save",
    ): "a checkpoint, which counts once the Trainer's state is there",
    (
        "dsp_plugin/hf/delta/checkpoints.py",
        "_save",
    ): "a checkpoint, which counts once the Trainer's state is there",
    ("dsp_plugin/hf/programs/dsee/stage.py", "save"): "the tokenizer, as the Trainer writes it; then sealed",
    ("dsp_plugin/hf/programs/delta/stage.py", "save"): "the tokenizer, as the Trainer writes it; then sealed",
    ("benchmarks/diff_memory.py", "reset_peak"): "a switch of the kernel below /proc",
    ("benchmarks/diff_pack.py", "shira_bytes_a_value"): "into the benchmark's temporary folder",
}


def writers(source: str) -> Iterator[tuple[str, str, int]]:
    """(name of the function, of the call, line) of what writes a file under its final name."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := writes(node)) and not is_whole(node, parents):
            yield function_of(node, parents), name, node.lineno


def writes(call: ast.Call) -> str | None:
    name, owner = called(call), owner_of(call)
    if name == "open" and owner != "os":  # os.open takes flags
        modes = [
            a
            for a in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
            if isinstance(a, ast.Constant)
        ]
        # "a" is for logs, to which nothing but lines is added
        return (
            "open"
            if any(isinstance(m.value, str) and set(m.value) & set("wx+") and len(m.value) < 4 for m in modes)
            else None
        )
    if name == "dump" and owner in ("json", "pickle"):
        return f"{owner}.dump"
    if name not in WRITERS or (name in MODULES and owner not in MODULES[name]):
        return None
    if name == "write_text" and owner == "":  # ours
        return None
    return name


def is_whole(call: ast.Call, parents: dict) -> bool:
    """Whether it is in the body of one of WHOLE."""
    node: ast.AST = call
    while node in parents:
        node = parents[node]
        if isinstance(node, (ast.With, ast.AsyncWith)):
            if any(
                called(inner) in WHOLE
                for item in node.items
                for inner in ast.walk(item)
                if isinstance(inner, ast.Call)
            ):
                return True
    return False


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def owner_of(call: ast.Call) -> str | None:
    """What a method is called on, "" for a function."""
    if isinstance(call.func, ast.Name):
        return ""
    return getattr(call.func.value, "id", None) if isinstance(call.func, ast.Attribute) else None


def function_of(node: ast.AST, parents: dict) -> str:
    while node in parents:
        node = parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return node.name
    return ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_writes_nothing_in_place(path):
    name = path.relative_to(ROOT).as_posix()
    found = [
        (place, call, line)
        for place, call, line in writers(path.read_text("utf-8"))
        if (name, place) not in ALLOWED
    ]
    assert not found, f"{name} writes in place: {found}"


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "open(path, mode='wb')",
        "path.open('w')",
        "gzip.open(path, 'wt')",
        "open(path, 'x')",
        "open(path, 'r+b')",
        "torch.save(state, path)",
        "np.save(path, x)",
        "save_file(tensors, path)",
        "json.dump(x, file)",
        "figure.savefig(path)",
        "path.write_text('a')",
        "path.write_bytes(b'a')",
        "shutil.copyfile(a, b)",
        "shutil.copytree(a, b)",
        "shutil.move(a, b)",
        "tokenizer.save_pretrained(folder)",
        "frame.to_csv(path)",
    ],
)
def test_what_is_found(line):
    assert list(writers(f"def f():\n    {line}\n")) and list(
        writers(f"with suppress(OSError):\n    {line}\n")
    )
    for whole in (
        "replacing(path) as path",
        "new_folder(path, None) as path",
        "tempfile.TemporaryDirectory() as folder",
    ):
        assert not list(writers(f"with {whole}:\n    if True:\n        {line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'rb')",
        "open(log, 'a')",
        "write_text(path, 'a')",
        "x.copy()",
        "pack.save(path)",
    ],
)
def test_what_is_no_writing_in_place(line):
    assert not list(writers(line))
