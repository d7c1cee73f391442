"""A translation model taken to another domain by diffs, DSEE, Delta-Tuning and others (domains.yaml)."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.whole import check_folder
from dsp_plugin.records.record import load_records, method_label

from .base import Plan, needed
from .domain_rows import DELTA, PACK, UPDATE, Domain, Row, table_text
from .mt import MTPlan
from .noted_settings import NotedSettings, content_of
from .options import COMMON, FOLDER, ROOT, Option, choice, flag, place, read_options, read_settings, words_of

APPLY_AND_REVERT = (
    'cp "$1" "$2"; "$PYTHON" -m dsp_plugin.cli.main diff apply "$3" "$2"; '
    '"$PYTHON" -m dsp_plugin.cli.main diff revert "$2"; mv "$2" "$4"'
)
# settings of the rows of DSEE and of Delta-Tuning
_DSEE = ("dsee_lr", "lora_r", "num_sparse", "prune_heads_num", "prune_neurons")
_DELTA = ("bias_lr", "adapter_lr", "adapter", "adapter_reduction")
METHODS = ("bias", "adapter", "bias-adapter")


class DomainsPlan(Plan):
    """The rows of one direction.

    Checkpoints and packs are below runs/diff_domains/<from>-to-<to>/, records below results/diff/mt/.
    """

    def __init__(self, config: Mapping[str, Any]):
        """Find the files of the direction; raise ValueError where a base is named that is not there."""
        shared = {name: COMMON[name] for name in ("settings", "runs", "results", "python")}
        own = {
            "seed": Option(number("seed"), 1),
            "quick": Option(flag, False),
            "base": Option(place),
            "flags": Option(),
        }
        home = Option(choice("multi30k", "iwslt14"), "multi30k")
        self.config = config  # for the program that notes the base
        self.options = options = read_options(config, {**shared, **own, "home": home})
        self.yaml = read_settings("domains.yaml", options.settings)
        self.home = Domain.of(options.home, options.home)
        self.away = Domain.of("iwslt14" if options.home == "multi30k" else "multi30k", options.home)
        direction = f"{self.home.name}-to-{self.away.name}"
        self.folder = options.runs = (options.runs or Path("runs/diff_domains")) / direction
        self.results = options.results = (options.results or Path("results/diff/mt")) / direction
        self.settings = {
            **self.yaml.settings,
            **(self.yaml.quick if options.quick else {}),
            "seed": options.seed,
        }
        flags = self.yaml.flags if options.flags is None else options.flags
        try:
            self.flags = shlex.split(flags)
        except ValueError as error:
            raise ValueError(f"flags {flags}: {error}") from error
        captions = MTPlan({"only": "small/unpruned"})
        self.captions = captions.command(captions.runs[0], "train")  # which trains the base
        self.base = captions.checkpoint(captions.runs[0])
        self.base_record = captions.folder(captions.runs[0]) / "results.json"
        if options.home == "iwslt14":
            self.base, self.base_record = self.folder / "base/checkpoint_best.pt", self.folder / "base/done"
        if options.base:
            self.base = options.base
            if not self.base.is_file():
                raise ValueError(f"base {self.base}: no such file")
            self.settings["base"] = self.base.name
            self.settings["base_content"] = content_of(self.base)  # names can be alike
        # an earlier version compared a base's name alone, and had no rows of these
        added = ("base_content", *_DSEE, *_DELTA)
        self.noted = NotedSettings((self.folder, self.results), self.settings, added)
        self.runs = self._rows()

    def _rows(self) -> list[Row]:
        def row_of(method: str, pack: Path, density: str) -> Row:
            label = method_label(method, float(density))
            return Row(label.replace("%", ""), label, self.base, pack, pack)

        first = self.yaml.densities[0]
        # of a DSEE in the numbers of run_dsee.py's own labels
        heads, neurons = self.settings["prune_heads_num"], self.settings["prune_neurons"]
        third, pruned = self.update("3rd"), f"dsee-h{heads}-n{neurons:g}"
        full, reverted = self.folder / "full/checkpoint_best.pt", self.folder / "reverted.pt"
        return [
            Row("base", "base", self.base, self.base),
            *(row_of("diff-structured", self.pack(density), density) for density in self.yaml.densities),
            row_of("non-adaptive", self.folder / "non-adaptive" / PACK, first),
            Row("full", "full", full, self.folder / "full/done"),
            Row("dsee", "dsee", self.base, third, update=self.update("1st")),
            Row(pruned, pruned, self.base, third, update=third),
            *(
                Row(f"delta-{methods}", f"delta-{methods.replace('-', '+')}", self.base, file, delta=file)
                for methods in METHODS
                for file in [self.delta_file(methods)]
            ),
            Row("base-after-revert", "base-after-revert", reverted, reverted),
        ]

    # ---- files

    def pack(self, density: str) -> Path:
        return self.folder / "structured" / density / PACK

    def update(self, stage: str) -> Path:
        return self.folder / "dsee" / stage / UPDATE

    def delta_file(self, methods: str) -> Path:
        return self.folder / f"delta-{methods}" / DELTA

    def record(self, row: Row, domain: Domain) -> Path:
        return self.results / row.name / domain.name / "results.json"

    # ---- what is left

    def complete(self, row: Row) -> bool:
        return all(self.record(row, domain).is_file() for domain in (self.home, self.away))

    def wanted(self) -> list[str]:
        return [
            path
            for row in self.runs
            for domain in (self.home, self.away)
            for path in needed(self.record(row, domain))
        ]

    @property
    def trained_base(self) -> bool:
        """Whether the base is one that was trained here, and is whole."""
        return not self.options.base and self.base.is_file() and self.base_record.is_file()

    def start_from(self) -> list[str]:
        """Return what every training and every score waits for: both texts, and the base."""
        base = [] if self.options.base else needed(self.base_record)
        return [*needed(self.home.prepared), *needed(self.away.prepared), *base]

    def density_before(self, density: str) -> list[str]:
        """Return the pack of the density before: stage 1 serves all, and is trained with the first."""
        number = self.yaml.densities.index(density)
        return needed(self.pack(self.yaml.densities[number - 1])) if number else []

    # ---- command lines

    def base_training(self) -> list[str]:
        """Return the command that trains a small model of the home domain."""
        if self.home.name == "multi30k":
            return self.captions
        updates = (self.settings if self.options.quick else self.yaml.base)["updates"]
        own = {"max-update": updates, "seed": self.options.seed, "save-dir": self.base.parent}
        words = [str(self.home.data), *shlex.split(self.yaml.base["recipe"]), *words_of(own)]
        return ["scripts/mt/run_dsp.py", *words, *self._recipe(), *self.flags]

    def noting(self, *words: str) -> list[str]:
        """Return the command that notes the base once it is trained; with --check it only looks."""
        settings = [f"{name}={value}" for name, value in self.config.items()]
        return [self.options.python or "python3", "pipelines/note_base.py", *words, *settings]

    def _recipe(self) -> list[str]:
        return shlex.split(self.yaml.recipe)

    def _training(self, *words: object) -> list[str]:
        start = ["--base-checkpoint", self.base, "--seed", self.options.seed]
        return list(map(str, [self.away.data, *start, *self._recipe(), *self.flags, *words]))

    def diffs(self, density: str) -> list[str]:
        """Return the command of all three stages, for this density and those before it."""
        settings, upto = self.settings, self.yaml.densities[: self.yaml.densities.index(density) + 1]
        stages = {
            "lr": settings["lr"],
            "max-update": settings["updates"],
            "finetune-lr": settings["finetune_lr"],
            "finetune-max-update": settings["finetune_updates"],
        }
        for name in ("sparsity_pen", "penalty_form", "fix_layer"):
            stages[name.replace("_", "-")] = settings[name]
        words = ["--save-dir", self.folder / "structured", "--target-sparsity", *upto, *words_of(stages)]
        return ["scripts/mt/run_diff.py", *self._training(*words)]

    def dsee(self) -> list[str]:
        """Return the command of all three stages of DSEE."""
        settings = self.settings
        stages = {
            "lr": settings["dsee_lr"],
            "max-update": settings["updates"],
            "third-max-update": settings["finetune_updates"],
        }
        for name in _DSEE[1:]:
            stages[name.replace("_", "-")] = settings[name]
        words = ["--save-dir", self.folder / "dsee", *words_of(stages)]
        return ["scripts/mt/run_dsee.py", *self._training(*words)]

    def delta(self, methods: str) -> list[str]:
        """Return the command that trains some methods of Delta-Tuning together: `bias-adapter`."""
        settings, named = self.settings, methods.split("-")
        stage = {"lr": settings[f"{named[-1]}_lr"], "max-update": settings["updates"]}
        if "adapter" in named:
            stage |= {"adapter": settings["adapter"], "adapter-reduction": settings["adapter_reduction"]}
        words = ["--save-dir", self.folder / f"delta-{methods}", *words_of(stage)]
        return ["scripts/mt/run_delta.py", *self._training(*words), "--delta-methods", ",".join(named)]

    def full(self) -> list[str]:
        """Return the command that finetunes all weights."""
        return self._train("full", "full_lr", "--optimizer", "adam")

    def non_adaptive_mask(self) -> list[str]:
        """Return the command that makes a mask of the largest changes of full finetuning."""
        words = ["--target-sparsity", self.yaml.densities[0], "--fix-layer", str(self.settings["fix_layer"])]
        return self._packing(
            self.folder / "full", *words, "--out", str(self.folder / "non-adaptive/mask.diff.safetensors")
        )

    def non_adaptive(self) -> list[str]:
        """Return the command that finetunes what the mask keeps."""
        mask = self.folder / "non-adaptive/mask.diff.safetensors"
        return self._train(
            "non-adaptive/3rd", "finetune_lr", "--optimizer", "fixmask_adam", "--mask-pack", mask
        )

    def non_adaptive_pack(self) -> list[str]:
        return self._packing(
            self.folder / "non-adaptive/3rd", "--out", str(self.folder / "non-adaptive" / PACK)
        )

    def _packing(self, trained: Path, *words: str) -> list[str]:
        start = ["scripts/mt/pack_diff.py", "--base-checkpoint", str(self.base)]
        return [*start, str(trained / "checkpoint_best.pt"), *words]

    def _train(self, folder: str, rate: str, *words: object) -> list[str]:
        """Return the command of one training by stock fairseq-train."""
        updates = self.settings["finetune_updates"]
        words += ("--user-dir", "dsp_plugin", "--task", "diff_translation", "--arch", "diff_transformer")
        words += ("--lr", self.settings[rate], "--lr-scheduler", "polynomial_decay")
        words += ("--total-num-update", updates)
        words += ("--max-update", updates, "--save-dir", self.folder / folder)
        return ["python", "-m", "fairseq_cli.train", *self._training(*words)]

    def revert(self) -> list[str]:
        """Return the command that applies a pack to the base file and takes it out again."""
        paths = [
            self.base,
            self.folder / "applied.pt",
            self.pack(self.yaml.densities[0]),
            self.folder / "reverted.pt",
        ]
        return ["bash", "-ec", APPLY_AND_REVERT, "revert", *map(str, paths)]

    def score(self, row: Row, domain: Domain) -> list[str]:
        words = [str(domain.data), *"-s de -t en --path".split(), str(row.path)]
        words += shlex.split(self.yaml.scoring)
        words += ["--diff-pack", str(row.pack)] if row.pack else []
        words += ["--dsee-checkpoint", str(row.update)] if row.update else []
        words += ["--delta", str(row.delta)] if row.delta else []
        words += shlex.split(self.yaml.quick_scoring) if self.options.quick else []
        words += ["--record-name", f"{self.home.name} to {self.away.name}: {domain.name}"]
        words += ["--method", row.method]
        words += ["--record-dir", str(self.record(row, domain).parent), *self.flags]
        return ["scripts/mt/generate_dsp.py", *words]

    # ---- what is refused

    def check(self) -> None:
        """Look at the settings that are noted, and at all options of the programs before the first of them.

        Raises:
            ValueError: naming what cannot be, or folders that other settings have filled.
        """
        for name, folder in (("runs", self.folder), ("results", self.results)):
            check_folder(name, folder)
        self.noted.check()
        if self.left() and self.trained_base:
            self._run_now(self.noting("--check"))
        elif self.left() and not self.options.base:
            self.noted.check_base_noted()
        if self.left():
            training = [self.away.data, *"--arch dsp_transformer --optimizer adam --seed".split()]
            training += [self.options.seed]
            scoring = [self.away.data, "--path", self.base, *self.flags]
            words = [*training, *self._recipe(), *self.flags, "---", *scoring]
            self._run_now([self.options.python or "python3", FOLDER / "check_flags.py", *words])

    def _run_now(self, command: list[object]) -> None:
        """Run a short program where torch is; raise a ValueError with what it says where it fails."""
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1])

    def note_settings(self) -> None:
        """Note in both folders what they are made with."""
        if self.left() and self.trained_base:
            self._run_now(self.noting())
        else:
            self.noted.write()

    # ---- tables

    def tables(self) -> dict[Path, str]:
        found = load_records(self.results) if self.results.is_dir() else []
        silent = {"base_content"}
        for kind, names in (("dsee", _DSEE), ("delta", _DELTA)):
            silent |= set() if any(kind in record.extra for record in found) else {*names}
        noted = {name: value for name, value in self.settings.items() if name not in silent}
        shown = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in noted.items())
        home, away = (self.yaml.domains[domain.name] for domain in (self.home, self.away))
        head = (
            f"A model of {home} finetuned to {away}. BLEU on the first {self.yaml.sentences['test']} "
            "sentences of IWSLT14's test set and on Multi30k's test_2016_flickr. Settings (settings.json): "
            f"{shown}. Made by `make diff-domains` (pipelines/domains.smk, home={self.home.name}).\n\n"
        )
        order = [row.method for row in self.runs]
        return {self.results / "table.md": head + table_text(found, order, (self.away.name, self.home.name))}
