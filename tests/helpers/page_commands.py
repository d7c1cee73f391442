"""The commands in the shell blocks of README and docs, and the options that each program takes."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "data-prep" / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash", "shell")
# of programs that are neither ours nor Python's to ask
FOREIGN = {
    "snakemake": {"cores", "config", "profile"},
    "pip": {"editable", "no-build-isolation", "constraint"},
    "fairseq-hydra-train": {"config-dir", "config-name"},
    "make": set(),
}
# words of the shell itself, and the programs that only set a block up
PLUMBING = ("source", "export", "for", "do", "done", "wait")
# what decides which options fairseq's parser has
CHOICES = ("arch", "task", "criterion", "optimizer", "lr-scheduler")


@dataclass(frozen=True)
class Command:
    """One command of a page; `words` begins with its program, variables of the page are filled in."""

    page: Path
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)[:80]}"

    @property
    def line(self) -> str:
        return shlex.join(self.words)

    def options(self) -> list[str]:
        """The names of its options, without dashes in front, as written."""
        names = (re.match(r"--([a-zA-Z][\w-]*)", word) for word in self.words)
        return [name[1] for name in names if name]


def commands_of(page: Path) -> Iterator[Command]:
    """Every command of a page's shell blocks, in order; drawings and listings have none."""
    variables: dict[str, str] = {}
    for language, block in BLOCK.findall(page.read_text("utf-8")):
        if language not in SHELL or "──" in block or block.startswith("dsp_plugin/"):
            continue
        for line in _lines(block):
            found = re.fullmatch(r"(\w+)=(\((.*)\)|(\"?)\$\(.*\)\4|\S+|\"[^\"]*\")", line)
            if found:  # the value is one text, or a list of words
                variables[found[1]] = _filled(found[3] or found[2].strip('"'), variables)
                continue
            words = shlex.split(_filled(line, variables))
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words and words[0] not in PLUMBING:
                yield Command(
                    page, _program(words), tuple(word for word in words if word not in ("...", "&"))
                )


def _lines(block: str) -> Iterator[str]:
    """Whole commands, without comments; lists over several lines are one."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"(^|\s)#[^\n]*", r"\1", block))
    text = re.sub(r"=\([^()]*(?:'[^']*'[^()]*)*\)", lambda found: found[0].replace("\n", " "), text)
    yield from filter(None, map(str.strip, text.splitlines()))


def _filled(text: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        text = re.sub(rf'"\${{{name}\[@\]}}"|\${name}\b', lambda _: value, text)
    return text


def _program(words: Sequence[str]) -> str:
    """`scripts/x.py`, `dsp diff inspect`, `make demo`, `snakemake` of a command's words."""
    if words[0] in ("python", "bash"):
        return words[1]
    if words[0] == "dsp":
        return " ".join(words[: 3 if words[1] == "diff" else 2])
    if words[0] == "make":
        return " ".join(words[:2])
    return words[0].rpartition("/")[2] if words[0].startswith(".venv/") else words[0]


def options_of(command: Command) -> set[str]:
    """The names of the options that the program of `command` takes, each `-` as `_`."""
    program = command.program
    if program.split()[0] in FOREIGN:
        return _spelled(FOREIGN[program.split()[0]])
    if program.startswith("dsp "):
        return dsp_options(program)
    if re.match(r"scripts/((glue|squad|dsee)/run_\w+|delta/(run|pretrain_mlm))\.py$", program):
        return transformers_options(program)
    if program in FAIRSEQ_PROGRAMS:
        chosen = {
            name: value
            for option, value in zip(command.words, command.words[1:])
            for name in CHOICES
            if option == f"--{name}" or (name, option) == ("arch", "-a")
        }
        return fairseq_options(program, tuple(chosen.items()))
    return written_options(program)


def _spelled(names: set[str]) -> set[str]:
    return {name.replace("-", "_") for name in names}


def _long(parser: argparse.ArgumentParser) -> set[str]:
    return _spelled({name[2:] for name in parser._option_string_actions if name.startswith("--")})


@functools.cache
def dsp_options(program: str) -> set[str]:
    from dsp_plugin.cli.main import build_parser

    parser = build_parser(program.split()[1:])
    for name in program.split()[1:]:
        (choices,) = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = choices[name]
    return _long(parser)


@functools.cache
def transformers_options(script: str) -> set[str]:
    """By what the script hands to `start_program`; test_short_help.py holds it against the parser."""
    from dataclasses import fields

    from transformers import TrainingArguments

    from dsp_plugin.cli.short_help import ALWAYS, PROGRAMS, groups_of, read_options
    from dsp_plugin.hf.programs.chassis.legacy_flags import EXPANDED, IGNORED, RENAMED

    text = (ROOT / script).read_text("utf-8")
    call = re.search(r'start_program\(\s*program, __doc__, argv, "(\w+)", "(\w+)"', text)
    files = (group.partition(":") for group in groups_of(call[1], call[2]))
    known = {option.name for file, _, name in files for option in read_options(PROGRAMS / file, name)[1]}
    if call[2] != "michel":  # the one that has no Trainer
        known |= {field.name for field in fields(TrainingArguments)}
    if script.endswith("/run_diff.py"):
        known |= arguments_in(PROGRAMS / "diffs" / "all_stages.py")
    return known | {name for name, _ in ALWAYS} | {*RENAMED, *IGNORED, *EXPANDED}


def _own_of_training() -> set[str]:
    from dsp_plugin.mt.programs import common

    return _long(common.own_options()) | {"traceback"}


def _own_of_generation() -> set[str]:
    from dsp_plugin.mt.programs import generate

    return _long(generate.own_options()) | {"traceback"}


def _own_of_diff() -> set[str]:
    from dsp_plugin.mt.programs.diffs import run as diff

    return _long(diff.own_options()) | {"dry_run", "traceback"}


def _own_of_dsee() -> set[str]:
    from dsp_plugin.mt.programs.dsee import run as dsee

    return _long(dsee.own_options()) | {"traceback"}


def _own_of_delta() -> set[str]:
    from dsp_plugin.mt.programs.delta import run as delta

    return _long(delta.own_options()) | {"traceback"}


def _own_of_michel() -> set[str]:
    from dsp_plugin.mt.programs.heads import michel

    return _long(michel.own_options())


# program -> (its own options, fairseq's parsers, what is chosen where the command line does not say)
FAIRSEQ_PROGRAMS = {
    "fairseq-train": (set, ("training",), {}),
    "fairseq-generate": (set, ("generation",), {}),
    "scripts/mt/run_dsp.py": (_own_of_training, ("training",), {"task": "dsp_translation"}),
    "scripts/mt/run_voita.py": (_own_of_training, ("training",), {"task": "voita_translation"}),
    "scripts/mt/run_michel.py": (_own_of_michel, ("training", "generation"), {"arch": "transformer"}),
    "scripts/mt/run_diff.py": (
        _own_of_diff,
        ("training",),
        {"task": "diff_translation", "arch": "diff_transformer", "optimizer": "diff_adam"},
    ),
    "scripts/mt/run_dsee.py": (
        _own_of_dsee,
        ("training",),
        {"task": "dsee_translation", "arch": "dsee_transformer", "optimizer": "adam"},
    ),
    "scripts/mt/run_delta.py": (
        _own_of_delta,
        ("training",),
        {"task": "delta_translation", "arch": "delta_transformer", "optimizer": "adam"},
    ),
    "scripts/mt/generate_dsp.py": (_own_of_generation, ("generation",), {"task": "dsp_translation"}),
    "scripts/mt/generate_voita.py": (_own_of_generation, ("generation",), {"task": "voita_translation"}),
}


@functools.cache
def fairseq_options(program: str, chosen: tuple[tuple[str, str], ...]) -> set[str]:
    """The program's own options and fairseq's, with those of the model, task, criterion and optimizer."""
    from fairseq import options

    from dsp_plugin import register
    from dsp_plugin.mt.programs.chassis.launch import method_parser

    register()
    own, kinds, defaults = FAIRSEQ_PROGRAMS[program]
    choices = {**defaults, **dict(chosen)}
    words = [word for name, value in choices.items() for word in (f"--{name}", value)]
    method = choices.get("task", "").removesuffix("_translation")
    ours = program.startswith("scripts/mt/run_") and method in ("dsp", "voita")
    known = own()
    for kind in kinds:
        parser = method_parser(method) if ours else getattr(options, f"get_{kind}_parser")()
        # the options of what is chosen join the parser on its way
        options.parse_args_and_arch(parser, ["data", *words], parse_known=True)
        known |= _long(parser)
    return known


@functools.cache
def written_options(program: str) -> set[str]:
    """The options that the source of a script, and of the library that it calls, writes out."""
    path = ROOT / program
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        if "pack_dsee_program" in text:
            from dsp_plugin.mt.programs.dsee.pack import parser

            return _long(parser())
        called = {
            "pack_program": "dsp_plugin/mt/programs/common.py",
            "pack_delta_program": "dsp_plugin/mt/programs/delta/pack.py",
        }
        files = [ROOT / file for name, file in called.items() if name in text]
        return set().union(*map(arguments_in, [path, *files]))
    if "lib.sh" in text and "parse_options" in text:
        text += (path.parent / "lib.sh").read_text("utf-8")
    cases = re.findall(r"^\s*((?:-[\w-]+ ?\|? ?)+)\)", text, re.MULTILINE)
    return _spelled({word[2:] for case in cases for word in re.findall(r"--[\w-]+", case)})


def arguments_in(path: Path) -> set[str]:
    """The options that the calls of `add_argument`, and the fields of dataclasses, of a file name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            words = [str(word.value) for word in node.args if isinstance(word, ast.Constant)]
            found |= {word[2:] for word in words if word.startswith("--")}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return _spelled(found)
