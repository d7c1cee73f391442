"""The help of a program in scripts/, at once: what its own options are, read off their source, not imported.

Options of a program are fields of dataclasses in modules that import torch and a host, which takes ten
seconds on a busy machine. Each field says its name, default and help as literals, so the source tells all
there is to say. `--help-all` goes on to the program itself, whose parser lists every option of the host, too.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAMS = Path(__file__).resolve().parents[1] / "hf" / "programs"
HELP = ("--help", "-h")
DATA = {
    "glue": ("ModelArguments", "GlueArguments"),
    "squad": ("ModelArguments", "SquadArguments"),
    "clm": ("CausalModelArguments", "ClmArguments"),
    "mlm": ("ModelArguments",),
    "prompt": ("ModelArguments",),
}
TUNING = "chassis/tuning.py:TuningArguments"
_UPDATE = tuple(f"dsee/arguments.py:{name}Arguments" for name in ("Update", "Start"))
_PRUNE = "dsee/arguments.py:PruneArguments"
METHODS: dict[str, tuple[str, ...]] = {
    "finetuning": (TUNING,),
    "dsp": ("heads/methods.py:DSPArguments", "heads/methods.py:PrunedArguments", TUNING),
    "voita": ("heads/methods.py:VoitaArguments", "heads/methods.py:PrunedArguments", TUNING),
    "michel": ("heads/michel.py:MichelArguments",),
    "diff": tuple(f"diffs/arguments.py:{name}Arguments" for name in ("Diff", "Projection", "FixMask")),
    "dsee_update": (*_UPDATE, TUNING),
    "dsee_any": (*_UPDATE, _PRUNE, "dsee/all_stages.py:ThirdArguments", TUNING),
    "dsee_prune": (*_UPDATE, _PRUNE),
    "delta": ("delta/arguments.py:PromptArguments", "delta/arguments.py:DeltaArguments"),
    "dsee": (*_UPDATE, _PRUNE, "dsee/all_stages.py:ThirdArguments"),
    "masked_lm": ("delta/pretrain_mlm.py:MlmArguments",),
}
WIDTH, INDENT = 120, 26

# of the Trainer's options those that most runs need, in these programs' words
TRAINER = (
    (
        "do_train, do_eval, do_predict",
        "train; score the development sets; write predictions of the test sets",
    ),
    ("learning_rate", "peak of the model's learning rate (5e-5)"),
    ("num_train_epochs", "passes through the training set (3); --max_steps N counts updates instead"),
    (
        "per_device_train_batch_size",
        "examples a batch and process (8); --gradient_accumulation_steps N batches an update",
    ),
    ("per_device_eval_batch_size", "of scoring (8)"),
    (
        "lr_scheduler_type",
        "linear, cosine, constant ... (linear); --warmup_steps: updates, or a share below 1",
    ),
    ("weight_decay", "of AdamW (0); --max_grad_norm: clip at this norm (1)"),
    ("eval_strategy", "score during training: no, steps or epoch; every --eval_steps"),
    (
        "save_steps",
        "a checkpoint every so many updates (500), to go on from; --save_total_limit N keeps the last N",
    ),
    ("load_best_model_at_end", "end with the best checkpoint, by --metric_for_best_model"),
    ("bf16, fp16", "mixed precision on a GPU; on a CPU --bf16 with --use_cpu"),
    ("seed", "of all that is random (42)"),
    ("use_cpu", "leave the GPU alone"),
)
ALWAYS = (("traceback", "show where in the program an error was met"),)


class Option(NamedTuple):
    """One option as its source has it; `default` is None where there is none, or where it is worked out."""

    name: str
    help: str
    default: object | None
    required: bool


def answer_help(doc: str, argv: Sequence[str], data: str, method: str) -> None:
    """Print the short help and end the program where the command line asks for it; else do nothing.

    Args:
        doc: the program's docstring.
        data: of DATA.
        method: of METHODS.

    Raises:
        SystemExit: with status 0, after the help.
    """
    if any(word in HELP for word in argv):
        print(short_help(doc, Path(sys.argv[0]).name, data, method))
        raise SystemExit(0)


def short_help(doc: str, program: str, data: str, method: str) -> str:
    """Write the text of `answer_help`."""
    trainer = method != "michel"  # the one that trains nothing
    groups = (group.partition(":") for group in groups_of(data, method))
    found = [read_options(PROGRAMS / file, name) for file, _, name in groups]
    needed = [option.name for _, options in found for option in options if option.required]
    needed += ["output_dir"] if trainer else []
    usage = " ".join(f"--{name} {name.split('_')[0].upper()}" for name in needed)
    parts = [f"usage: {program} {usage} [options]\n\n{doc.strip()}"]
    for heading, options in found:
        parts.append(_section(heading, [(option.name, _meaning(option)) for option in options]))
    if trainer:
        parts.append(_section("The Trainer (the most used of its options)", TRAINER))
    more = "those of Transformers' TrainingArguments among them" if trainer else "as the parser has them"
    parts.append(_section("Always", [*ALWAYS, ("help-all", f"all options, {more}")]))
    return "\n\n".join(parts)


def groups_of(data: str, method: str) -> Sequence[str]:
    """List the dataclasses of a program's own options, "file.py:Name" in the folder of the programs."""
    results = () if method == "michel" else ("chassis/arguments.py:ResultArguments",)
    return (*(f"chassis/arguments.py:{name}" for name in DATA[data]), *METHODS[method], *results)


def read_options(path: Path, name: str) -> tuple[str, list[Option]]:
    """Return a dataclass's heading and options, those of its bases first.

    Raises:
        ValueError: the file has no such class.
    """
    tree = ast.parse(path.read_text("utf-8"))
    classes = _classes(tree)
    for file in _imported(tree, path):  # of bases that another module has
        classes = {**_classes(ast.parse(file.read_text("utf-8"))), **classes}
    if name not in classes:
        raise ValueError(f"{path} has no class {name}")
    found: dict[str, Option] = {}
    for node in reversed(_lineage(name, classes)):
        found.update({option.name: option for option in _fields(node)})
    return _heading(tree, name), list(found.values())


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _imported(tree: ast.Module, path: Path) -> Iterator[Path]:
    """List the programs' modules called `arguments` that a module imports from."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("arguments"):
            file = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
            if file.is_file():
                yield file


def _lineage(name: str, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """List a class and its bases, as far as they are known."""
    node = classes.get(name)
    if node is None:
        return []
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return [node, *(other for base in bases for other in _lineage(base, classes))]


def _heading(tree: ast.Module, name: str) -> str:
    """Return the argument group's name: `Name._argument_group_name = "..."`; else the class's own."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and isinstance(node.value, ast.Constant)
        ):
            target = node.targets[0]
            if (
                target.attr == "_argument_group_name"
                and isinstance(target.value, ast.Name)
                and target.value.id == name
            ):
                return str(node.value.value)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Arguments"))


def _fields(node: ast.ClassDef) -> Iterator[Option]:
    for line in node.body:
        if (
            not isinstance(line, ast.AnnAssign)
            or not isinstance(line.value, ast.Call)
            or not isinstance(line.target, ast.Name)
        ):
            continue
        made = getattr(line.value.func, "id", "")
        if made not in ("option", "required"):
            continue
        words = [_literal(word) for word in line.value.args]
        yield Option(line.target.id, str(words[0]), words[1] if len(words) > 1 else None, made == "required")


def _literal(node: ast.expr) -> object:
    """Return a node's value; of a text made of other modules' values, the texts that stand there."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        found = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
        texts = [part for part in found if isinstance(part, str)]
        return "".join(texts) or None


def _meaning(option: Option) -> str:
    if option.required:
        return f"{option.help} (must be given)"
    if option.default in (None, "", False):
        return option.help
    return f"{option.help} ({option.default})"


def _section(heading: str, options: Sequence[tuple[str, str]]) -> str:
    lines = [f"{heading}:"]
    for name, meaning in options:
        words = "  " + ", ".join(f"--{word}" for word in name.split(", "))
        wrapped = textwrap.wrap(meaning, WIDTH - INDENT)
        if len(words) > INDENT - 2:
            lines.append(words)
        else:
            lines.append(f"{words:<{INDENT}}{wrapped.pop(0) if wrapped else ''}".rstrip())
        lines += [" " * INDENT + line for line in wrapped]
    return "\n".join(lines)
