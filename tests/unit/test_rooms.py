"""The rule of the rooms: the core knows no host, a shell knows its own, and no shell knows the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from imports import PACKAGE, imported_names

CORE = (
    "options",
    "records",
    "handshake",
    "gating",
    "surgery",
    "choosing",
    "artefacts",
    "diffs",
    "dsee",
    "delta",
    "reports",
)
REGISTRATIONS = ("tasks", "criterions", "models", "optim")
FAIRSEQ_SHELL = (*REGISTRATIONS, "mt")
TRANSFORMERS_SHELL = ("hf",)
FAIRSEQ = {"fairseq", "fairseq_cli"}
TRANSFORMERS = {"transformers", "peft", "accelerate"}

# What a file of a room must not import, anywhere in it, not even inside a function.
FORBIDDEN_HOSTS = {
    **{room: FAIRSEQ | TRANSFORMERS for room in CORE},
    **{room: TRANSFORMERS for room in FAIRSEQ_SHELL},
    **{room: FAIRSEQ for room in TRANSFORMERS_SHELL},
    "": FAIRSEQ | TRANSFORMERS,  # dsp_plugin/__init__.py
}
# What a room of the core may import of the others: a system (gating, diffs) never opens another one's folder.
CORE_ARROWS = {
    "options": set(),
    "records": {"options"},
    "handshake": set(),
    "gating": {"options", "records", "handshake"},
    "surgery": {"options", "records", "gating"},
    "choosing": {"options", "records", "gating"},
    "artefacts": {"options", "records"},  # what the files of all systems share
    "diffs": {"options", "records", "handshake", "artefacts"},
    "dsee": {"options", "records", "artefacts"},
    "delta": {"options", "records", "artefacts"},
    "reports": {"options", "records"},
}
FORBIDDEN_ROOMS = {
    **{
        room: {*FAIRSEQ_SHELL, *TRANSFORMERS_SHELL, "cli", *CORE} - {room} - CORE_ARROWS[room]
        for room in CORE
    },
    **{room: {*TRANSFORMERS_SHELL, "cli"} for room in REGISTRATIONS},
    "mt": {*TRANSFORMERS_SHELL, *REGISTRATIONS, "cli"},  # registrations are imported by fairseq alone
    **{room: {*FAIRSEQ_SHELL, "cli"} for room in TRANSFORMERS_SHELL},
}
# The sub-rooms of a room from the ground up, "" for the modules that lie in the room itself: each imports
# only what stands before it. (An __init__.py hands names on, and may name them all.)
FLOORS = {
    "records": ("files", ""),
    "gating": ("draws", "handshake", "sampling", "", "methods", "importance"),
    "dsee": ("",),
    "delta": ("",),
    "diffs": ("", "packs", "training", "serving"),
    "reports": ("tables", "pictures", ""),
    "mt": (
        "checkpoints",
        "training",
        "heads",
        "heads/methods",
        "translate",
        "surgery",
        "choosing",
        "diffs",
        "dsee",
        "delta",
        "",
        "programs/chassis",
        "programs/heads",
        "programs/pruning",
        "programs/diffs",
        "programs/dsee",
        "programs/delta",
        "programs",
    ),
    "hf": (
        "",
        "trainer",
        "data",
        "probes",
        "heads/layouts",
        "heads",
        "heads/surgery",
        "heads/choosing",
        "folders",
        "export",
        "diffs",
        "dsee",
        "delta",
        "programs/chassis",
        "programs/heads",
        "programs/pruning",
        "programs/diffs",
        "programs/dsee",
        "programs/delta",
        "programs",
    ),
}
# What a sub-room does not know, though it stands below: (sub-room, what it must not import, why).
STRANGERS = [
    ("hf/trainer", ("gating", "diffs"), "parts for any training"),
    ("hf/diffs", ("gating", "hf/heads"), "a diff needs no gates"),
    ("hf/dsee", ("diffs", "hf/diffs"), "an update is no diff"),
    ("mt/dsee", ("diffs", "mt/diffs"), "an update is no diff"),
    ("mt/delta", ("diffs", "mt/diffs"), "no method of fairseq's is a diff"),
    ("dsee", ("gating", "surgery"), "its mathematics needs no units"),
    (
        "hf/programs/chassis",
        ("gating", "hf/heads", "diffs", "hf/diffs", "dsee", "hf/dsee"),
        "a chassis takes any system",
    ),
    (
        "mt/programs/chassis",
        ("diffs", "mt/diffs", "dsee", "mt/dsee", "delta", "mt/delta"),
        "a chassis takes any system",
    ),
    ("mt/programs/dsee", ("diffs", "mt/diffs"), "an update is no diff"),
    ("mt/programs/delta", ("diffs", "mt/diffs", "dsee", "mt/dsee"), "methods of Delta-Tuning stand alone"),
    ("mt/programs/diffs", ("dsee", "mt/dsee", "delta", "mt/delta"), "a diff needs neither"),
    ("hf/programs/dsee", ("gating", "diffs", "hf/diffs", "hf/programs/heads"), "an update is no diff"),
    ("hf/programs/diffs", ("gating", "hf/heads", "hf/programs/heads"), "a diff needs no gates"),
]
# Who reads reports: programs, and nothing else.
READERS_OF_REPORTS = ("cli", "hf/programs", "mt/programs", "reports")


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", module_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_nothing_that_its_room_may_not_know(path):
    room = room_of(path)
    package = ".".join(["dsp_plugin", *path.relative_to(PACKAGE).parent.parts])
    names = imported_names(path.read_text("utf-8"), package)
    hosts = {name for name in names if name.split(".")[0] in FORBIDDEN_HOSTS.get(room, set())}
    assert not hosts, f"{path} imports {sorted(hosts)}"
    rooms = {
        name
        for name in names
        if name.startswith("dsp_plugin.") and name.split(".")[1] in FORBIDDEN_ROOMS.get(room, set())
    }
    assert not rooms, f"{path} imports {sorted(rooms)}"


def subroom_of(module: str) -> str:
    """`hf/heads/layouts` of `dsp_plugin.hf.heads.layouts.locate`; of a package's own name, itself."""
    parts = module.split(".")[1:]
    while parts and not (PACKAGE.joinpath(*parts) / "__init__.py").exists():
        parts.pop()
    return "/".join(parts)


def is_in(place: str, room: str) -> bool:
    return place == room or place.startswith(room + "/")


def arrows() -> list[tuple[Path, str, str]]:
    """(file, its sub-room, sub-room of what it imports), for every import within the package."""
    found = []
    for path in module_files():
        folder = path.relative_to(PACKAGE).parent
        names = imported_names(path.read_text("utf-8"), ".".join(["dsp_plugin", *folder.parts]))
        targets = {subroom_of(name) for name in names if name.startswith("dsp_plugin.")}
        found += [(path, folder.as_posix(), target) for target in sorted(targets)]
    return found


@pytest.mark.parametrize("room", FLOORS)
def test_a_subroom_stands_on_those_below_it(room):
    floors = {f"{room}/{name}".rstrip("/"): level for level, name in enumerate(FLOORS[room])}

    def level_of(place: str) -> int | None:
        """The floor of the sub-room that `place` is, or lies in; None where it is in another room."""
        found = [name for name in floors if is_in(place, name) and (name != room or place == room)]
        return floors[max(found, key=len)] if found else None

    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in (PACKAGE / room).rglob("[!_]*.py")}
    assert None not in map(level_of, folders), "place the new sub-room on a floor"
    upwards = []
    for path, own, target in arrows():
        here, there = level_of(own), level_of(target)
        if here is not None and there is not None and path.name != "__init__.py" and there > here:
            upwards.append(f"{path.relative_to(PACKAGE)} imports {target}, which stands above {own}")
    assert not upwards, "\n".join(upwards)


@pytest.mark.parametrize("subroom,strangers,why", STRANGERS, ids=[row[0] for row in STRANGERS])
def test_a_subroom_does_not_know_its_strangers(subroom, strangers, why):
    seen = [(path, target) for path, own, target in arrows() if is_in(own, subroom)]
    assert seen
    for path, target in seen:
        assert not any(is_in(target, stranger) for stranger in strangers), f"{path} imports {target}: {why}"


def test_reports_are_read_by_programs_alone():
    for path, own, target in arrows():
        if is_in(target, "reports"):
            assert any(is_in(own, reader) for reader in READERS_OF_REPORTS), f"{path} imports {target}"


def test_the_aims_of_the_house():
    """So many places lie at the top of the large rooms at most; a sub-room more needs a reason."""
    for room, most in (("hf", 12), ("mt", 12), ("diffs", 9)):
        places = [path for path in (PACKAGE / room).iterdir() if path.name != "__pycache__"]
        assert len(places) <= most, sorted(path.name for path in places)


def test_every_room_is_known_here():
    """A new room must be placed on one side of the rule."""
    rooms = {room_of(path) for path in module_files()}
    assert rooms <= {*FORBIDDEN_HOSTS, "cli"}, "say in this file what the new room may import"


def test_the_reader_of_imports_finds_them_all():
    source = (
        "import a.b as c\n"
        "from . import d\n"
        "from ..e import f\n"
        "def g():\n"
        "    from h import i\n"
        "    importlib.import_module('j.k')\n"
    )
    assert imported_names(source, "dsp_plugin.room") == {
        "a.b",
        "dsp_plugin.room.d",
        "dsp_plugin.e.f",
        "h.i",
        "j.k",
    }


def run_with_blocked(blocked: set[str], program: str) -> None:
    """Run `program` in a new interpreter in which importing any of `blocked` fails."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({sorted(blocked)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", block + program],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


def test_the_package_imports_where_fairseq_is_absent():
    run_with_blocked(FAIRSEQ, "import dsp_plugin; assert dsp_plugin.__version__")


def test_the_core_imports_where_no_host_is():
    rooms = [room for room in CORE if (PACKAGE / room / "__init__.py").exists()]
    assert rooms
    run_with_blocked(FAIRSEQ | TRANSFORMERS, "\n".join(f"import dsp_plugin.{room}" for room in rooms))


def test_register_without_fairseq_says_what_is_missing():
    run_with_blocked(
        FAIRSEQ,
        "import dsp_plugin\n"
        "try:\n"
        "    dsp_plugin.register()\n"
        "except ImportError as error:\n"
        "    assert 'fairseq' in str(error), error\n"
        "else:\n"
        "    sys.exit('no error')\n",
    )


@pytest.mark.skipif(
    not (PACKAGE / "hf" / "__init__.py").exists(), reason="there is no Transformers shell yet"
)
def test_the_transformers_shell_imports_where_fairseq_is_absent():
    run_with_blocked(FAIRSEQ, "import dsp_plugin.hf")


def test_the_fairseq_shell_imports_where_transformers_is_absent():
    pytest.importorskip("fairseq")
    run_with_blocked(TRANSFORMERS, "import dsp_plugin; dsp_plugin.register(); dsp_plugin.register()")
