#!/usr/bin/env python3
"""Finetune a translation model to another domain by sparse diffs, and score both domains before, with and
after them.

From Multi30k (image captions) to IWSLT14 (talks, of which a sample will do), or with --home iwslt14 from
talks to captions. The new domain's text is cut into the base's subwords. Compared: the base, a structured
diff of 0.5 and of 5 %, a non-adaptive one of 0.5 %, all weights finetuned, and the base file after a pack has
been applied to it and reverted.

Records are below results/diff/mt/, with a table. What is done is skipped and a training that was stopped goes
on: start the same command again. A base that is missing is trained first: Multi30k's by scripts/mt/grid.py,
    IWSLT14's here.

  python scripts/mt/diff_domains.py
  python scripts/mt/diff_domains.py --home iwslt14
  python scripts/mt/diff_domains.py --base runs/grid/small/unpruned-seed1/checkpoint_best.pt --flags="--cpu
  --num-workers 0" python scripts/mt/diff_domains.py --quick --results /tmp/trial --runs /tmp/trial-runs
  a trial: see below
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dsp_plugin.mt.programs.refusals import run_program

GRID_BASE = Path("runs/grid/small/unpruned-seed1/checkpoint_best.pt")
SENTENCES = {"valid": 300, "test": 500}  # the first so many of IWSLT14's 7,283 and 6,750
BASE_UPDATES = 1500  # of the IWSLT14 base
DENSITIES = ("0.005", "0.05")
# What a row of the table depends on. The largest changes are those of the embeddings' rarest words: with all
# positions of 0.5 % in there a diff learns next to nothing, so diffs leave the embeddings as they are. The
# rates of stage 3 and the frozen layers were chosen by the loss on the talks-to-captions valid set.
SETTINGS = {
    "updates": 250,  # of stage 1
    "finetune_updates": 250,  # of stage 3 and of full finetuning
    "lr": 1e-3,
    "finetune_lr": 3e-2,
    "full_lr": 5e-4,
    "sparsity_pen": 1.25e-7,  # as in scripts/diff/grid.py
    "penalty_form": "additive",
    "fix_layer": 0,
}
PACK = "task.diff.safetensors"
RECIPE = (
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --dropout 0.2 --max-tokens 2048 "
    "--clip-norm 1.0 "
    "--no-epoch-checkpoints --no-progress-bar --log-interval 50"
).split() + ["--adam-betas", "(0.9, 0.98)"]


@dataclass(frozen=True)
class Domain:
    """A text in the subwords of the base.

    Attributes:
        text: folder of its splits, whole: of them before they are cut, data: binarised. splits: which are
            used.
    """

    name: str
    text: Path
    whole: Path
    data: Path
    splits: Sequence[str] = ("train", "valid", "test")

    @classmethod
    def of(cls, name: str, home: str) -> "Domain":
        if name == home == "multi30k":  # as scripts/mt/grid.py has it
            return cls(name, Path("data/multi30k"), Path("data/multi30k"), Path("data-bin/multi30k"))
        label = f"{name}_as_{home}" if name != home else f"{name}_short"
        return cls(name, Path("data", label), Path("data", f"{label}_whole"), Path("data-bin", label))

    def prepare(self, home: "Domain") -> None:
        """From raw text; does nothing where it is done."""
        if (self.data / "prepared.json").is_file():
            return
        program = f"data-prep/prepare-{self.name}.sh"
        if self.text == self.whole:
            subprocess.check_call([program])
            return
        from dsp_plugin.records.files.whole import write_text

        words = [] if self is home else ["--codes", str(home.whole / "code")]
        subprocess.check_call([program, "--text", str(self.whole), *words, "--text-only"])
        self.text.mkdir(parents=True, exist_ok=True)
        for split in self.splits:
            for lang in ("de", "en"):
                lines = (self.whole / f"{split}.{lang}").read_text("utf-8").removesuffix("\n").split("\n")
                kept = SENTENCES.get(split) if self.name == "iwslt14" else None
                write_text(self.text / f"{split}.{lang}", "".join(line + "\n" for line in lines[:kept]))
        dictionaries = [] if self is home else ["--dictionaries", home.data]
        call("data-prep/binarise.py", "--text", self.text, "--dest", self.data, *dictionaries)


def call(*words: object) -> None:
    """Run a program of this repository, or end with its exit status."""
    print("| " + shlex.join(["python", *map(str, words)]), flush=True)
    code = subprocess.call([sys.executable, *map(str, words)])
    if code:
        sys.exit(f"{words[0]} ended with {code}: start again to go on from here")


@dataclass(frozen=True)
class Row:
    """A row of the table: a model file, perhaps with a pack in it."""

    name: str
    method: str
    path: Path
    pack: Path | None = None


class Work:
    """The steps. Each does nothing when its result is there."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.home = Domain.of(options.home, options.home)
        self.away = Domain.of("iwslt14" if options.home == "multi30k" else "multi30k", options.home)
        direction = f"{self.home.name}-to-{self.away.name}"
        self.runs, self.results = options.runs / direction, options.results / direction
        self.base = options.base or (
            GRID_BASE if options.home == "multi30k" else self.runs / "base/checkpoint_best.pt"
        )
        self.settings = {
            **SETTINGS,
            **({"updates": 3, "finetune_updates": 3} if options.quick else {}),
            "seed": options.seed,
        }
        try:
            self.flags = shlex.split(options.flags)
        except ValueError as error:
            raise ValueError(f"--flags {options.flags}: {error}") from error
        if not options.base:
            return
        if not self.base.is_file():
            raise FileNotFoundError(f"--base {self.base}: no such file")
        from dsp_plugin.mt.training.same_command import file_hash

        self.settings["base"] = options.base.name
        self.settings["base_content"] = file_hash(str(self.base))  # names can be alike

    def check(self) -> None:
        """Look at all options of the programs to be started, before the first of them.

        Raises:
            ValueError: naming the option.
        """
        from fairseq import options

        from dsp_plugin import register
        from dsp_plugin.mt.programs.launch import parse_for_fairseq, training_options
        from dsp_plugin.records.files.whole import check_folder

        register()
        for option, folder in (("--runs", self.runs), ("--results", self.results)):
            check_folder(option, folder)
        seed = ["--seed", str(self.options.seed)]
        training_options(
            [
                str(self.away.data),
                "--arch",
                "dsp_transformer",
                "--optimizer",
                "adam",
                *seed,
                *RECIPE,
                *self.flags,
            ]
        )
        parse_for_fairseq(
            options.get_generation_parser, [str(self.away.data), "--path", str(self.base), *self.flags]
        )

    def check_settings(self) -> None:
        """Ends the program where runs or records are there that other settings have made."""
        from dsp_plugin.records.files.sealed import read_json, write_json

        for folder in (self.runs, self.results):
            path = folder / "settings.json"
            try:
                made = read_json(path) if path.is_file() else None
            except ValueError as error:
                sys.exit(str(error))
            if made and "base_content" not in made:  # an earlier version compared the name alone
                made.update(
                    {name: self.settings[name] for name in ("base_content",) if name in self.settings}
                )
            if made != self.settings and (made or any(folder.glob("**/results.json"))):
                sys.exit(
                    f"{folder} is of other settings ({path}): remove it, or name another folder "
                    "(--runs, --results)"
                )
        for folder in (self.runs, self.results):
            write_json(folder / "settings.json", json.dumps(self.settings, indent=1) + "\n")

    def prepare(self) -> None:
        self.check()
        self.check_settings()
        self.home.prepare(self.home)
        self.away.prepare(self.home)
        if self.options.base:
            return
        if self.home.name == "iwslt14":
            self.train_base()
        elif not self.base.is_file():
            call("scripts/mt/grid.py", "--only", "small/unpruned")

    def train_base(self) -> None:
        """A small model of the talks."""
        done = self.base.parent / "done"
        if done.is_file():
            return
        updates = "3" if self.options.quick else str(BASE_UPDATES)
        words = [
            "--arch",
            "dsp_transformer_multi30k_small",
            "--share-decoder-input-output-embed",
            "--optimizer",
            "adam",
        ]
        words += [
            "--lr",
            "3e-3",
            "--lr-scheduler",
            "inverse_sqrt",
            "--warmup-updates",
            "500",
            "--max-update",
            updates,
        ]
        words += ["--seed", str(self.options.seed), "--save-dir", self.base.parent]
        call("scripts/mt/run_dsp.py", self.home.data, *words, *RECIPE, *self.flags)
        done.touch()

    def training(self, *words: object) -> list[object]:
        return [
            self.away.data,
            "--base-checkpoint",
            self.base,
            "--seed",
            self.options.seed,
            *RECIPE,
            *self.flags,
            *words,
        ]

    def diffs(self, *densities: str) -> None:
        """The three stages; the first one serves all densities."""
        words = self.training("--save-dir", self.runs / "structured", "--target-sparsity", *densities)
        options = {
            "lr": "lr",
            "max-update": "updates",
            "finetune-lr": "finetune_lr",
            "finetune-max-update": "finetune_updates",
        }
        options.update(
            {name.replace("_", "-"): name for name in ("sparsity_pen", "penalty_form", "fix_layer")}
        )
        for option, name in options.items():
            words += [f"--{option}", self.settings[name]]
        call("scripts/mt/run_diff.py", *words)

    def all_weights(self) -> None:
        """All weights finetuned."""
        self.train("full", self.settings["full_lr"], "--optimizer", "adam")

    def non_adaptive(self) -> None:
        """The largest changes of full finetuning, finetuned."""
        mask, pack = self.runs / "non-adaptive/mask.diff.safetensors", self.runs / "non-adaptive" / PACK
        packing = ["scripts/mt/pack_diff.py", "--base-checkpoint", self.base]
        if not mask.is_file():
            words = [
                "--target-sparsity",
                DENSITIES[0],
                "--fix-layer",
                self.settings["fix_layer"],
                "--out",
                mask,
            ]
            call(*packing, self.runs / "full/checkpoint_best.pt", *words)
        self.train(
            "non-adaptive/3rd",
            self.settings["finetune_lr"],
            "--optimizer",
            "fixmask_adam",
            "--mask-pack",
            mask,
        )
        if not pack.is_file():
            call(*packing, self.runs / "non-adaptive/3rd/checkpoint_best.pt", "--out", pack)

    def train(self, run: str, lr: float, *words: object) -> None:
        """One training by plain fairseq-train."""
        done = self.runs / run / "done"
        if done.is_file():
            return
        words = (
            *words,
            "--user-dir",
            "dsp_plugin",
            "--task",
            "diff_translation",
            "--arch",
            "diff_transformer",
            "--lr",
            lr,
        )
        updates = self.settings["finetune_updates"]
        words += ("--lr-scheduler", "polynomial_decay", "--total-num-update", updates)
        words += ("--max-update", updates, "--save-dir", self.runs / run)
        call("-m", "fairseq_cli.train", *self.training(*words))
        done.touch()

    def reverted(self) -> Path:
        """The base file after a pack was applied to it and taken out."""
        from dsp_plugin.records.files.whole import replacing

        path = self.runs / "reverted.pt"
        if not path.is_file():
            trial, pack = self.runs / "applied.pt", self.runs / "structured" / DENSITIES[0] / PACK
            with replacing(trial) as temporary:
                shutil.copyfile(self.base, temporary)
            call("-m", "dsp_plugin.cli.main", "diff", "apply", pack, trial)
            call("-m", "dsp_plugin.cli.main", "diff", "revert", trial)
            os.replace(trial, path)
        return path

    def score(self, row: Row) -> None:
        for domain in (self.home, self.away):
            folder = self.results / row.name / domain.name
            if (folder / "results.json").is_file():
                continue
            words = [
                domain.data,
                "-s",
                "de",
                "-t",
                "en",
                "--path",
                row.path,
                "--quiet",
                "--batch-size",
                64,
                "--remove-bpe",
            ]
            words += ["--beam", 5, "--max-len-a", 1.2, "--max-len-b", 10]
            words += ["--diff-pack", row.pack] if row.pack else []
            words += ["--beam", 1, "--max-len-b", 5] if self.options.quick else []
            words += [
                "--record-name",
                f"{self.home.name} to {self.away.name}: {domain.name}",
                "--method",
                row.method,
                "--record-dir",
                folder,
                *self.flags,
            ]
            call("scripts/mt/generate_dsp.py", *words)

    def table(self) -> None:
        """table.md from the records alone."""
        from dsp_plugin.records.files.whole import write_text
        from dsp_plugin.records.record import load_records
        from dsp_plugin.reports.tables import markdown_table, signature_notes

        records = [record for record in load_records(self.results) if record.kind == "mt-bleu"]
        rows = []
        for method in dict.fromkeys(record.method for record in records):
            here = {record.name.split(": ")[-1]: record for record in records if record.method == method}
            told = next(iter(here.values())).extra.get("diff", {})
            row = {
                "method": method,
                "weights changed": told.get("positions", ""),
                "bytes": told.get("bytes", ""),
            }
            for domain in (self.away.name, self.home.name):
                metric = here[domain].metric("BLEU", "test") if domain in here else None
                row[f"BLEU {domain}"] = metric.value if metric else "not measured"
            rows.append(row)
        rows.sort(key=lambda row: _ORDER.index(row["method"]) if row["method"] in _ORDER else len(_ORDER))
        columns = ["method", f"BLEU {self.away.name}", f"BLEU {self.home.name}", "weights changed", "bytes"]
        told = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.settings.items()
            if name != "base_content"
        )
        text = (
            f"A model of {_NAMES[self.home.name]} finetuned to {_NAMES[self.away.name]}. BLEU on the first "
            f"{SENTENCES['test']} "
            "sentences of IWSLT14's test set and on Multi30k's test_2016_flickr. Settings (settings.json): "
            f"{told}. Made by "
            f"`python scripts/mt/diff_domains.py --home {self.home.name}` (`make diff-domains`).\n\n"
        )
        text += markdown_table(rows, columns) + "\n\n" + "\n".join(signature_notes(records)) + "\n"
        write_text(self.results / "table.md", text)
        print(text)


_NAMES = {"multi30k": "Multi30k (captions)", "iwslt14": "IWSLT14 (talks)"}
_ORDER = (
    "base",
    "diff-structured-0.5%",
    "diff-structured-5%",
    "non-adaptive-0.5%",
    "full",
    "base-after-revert",
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--home", choices=list(_NAMES), default="multi30k", help="the base's domain (default multi30k)"
    )
    parser.add_argument(
        "--base", type=Path, help=f"checkpoint of a model of it (default for multi30k: {GRID_BASE})"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/diff_domains"), help="folder of checkpoints and packs"
    )
    parser.add_argument("--results", type=Path, default=Path("results/diff/mt"), help="folder of the records")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--flags", default="--num-workers 0", help="more fairseq flags for training and scoring"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a trial: 3 updates, short translations; use other --results and --runs",
    )
    parser.add_argument("--traceback", action="store_true", help="show all that led to an error")
    options = parser.parse_args(argv)
    # those given start in the user's folder, not in the repository's
    for name in ("base", "runs", "results"):
        if getattr(options, name) != parser.get_default(name):
            setattr(options, name, Path(os.path.abspath(getattr(options, name))))
    os.chdir(ROOT)
    work = Work(options)

    def packed(method: str, pack: Path, density: str) -> Row:
        label = f"{method}-{100 * float(density):g}%"
        return Row(label.replace("%", ""), label, work.base, pack)

    structured = work.runs / "structured"
    work.prepare()
    work.score(Row("base", "base", work.base))
    for number, density in enumerate(DENSITIES):
        work.diffs(*DENSITIES[: number + 1])
        work.score(packed("diff-structured", structured / density / PACK, density))
        if not number:
            work.score(Row("base-after-revert", "base-after-revert", work.reverted()))
            work.all_weights()
            work.score(Row("full", "full", work.runs / "full/checkpoint_best.pt"))
            work.non_adaptive()
            work.score(packed("non-adaptive", work.runs / "non-adaptive" / PACK, density))
    work.table()


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
