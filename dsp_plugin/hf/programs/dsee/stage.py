"""The common part of DSEE's stages: the base, the file that a stage begins and ends with, its account."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from ....dsee.artefact import DseeFile
from ....dsee.labels import label_of
from ....options.errors import OptionError
from ....options.faults import naming
from ....records.files.whole import check_output
from ....records.record import fingerprint
from ...dsee import add_dsee, dsee_of, has_dsee, load_dsee, merge_dsee, save_dsee
from ...dsee.checkpoints import FILE, DseeTrainer
from ...dsee.lora_folder import CONFIG
from ...dsee.state import detached
from ...folders.model_heads import heads_of
from ..chassis.models import load
from ..chassis.parsing import say
from ..chassis.system import Setup, System
from .account import account_of, say_account
from .arguments import StartArguments, UpdateArguments, our_names
from .trained_dense import dense_names


class DseeStage(System):
    """One stage on one base: what is loaded is the base with an update; what is scored is the file.

    Attributes:
        number: of the stage, in Roman.
        start: the file it begins with, once `check` has read it; None for none and for a LoRA of PEFT's.
        new: weights that the base lacks, once it is loaded.
        account: of the model that is scored, once there is one.
    """

    trainer_class = DseeTrainer
    number = ""

    def __init__(self, setup: Setup, update: UpdateArguments, begin: StartArguments):
        super().__init__(setup)
        self.update, self.begin = update, begin
        self.start: DseeFile | None = None
        self.new: list[str] = []
        self.account: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """The file that the stage ends with."""
        return Path(self.setup.args.output_dir, FILE)

    @property
    def start_path(self) -> Path:
        """The file of --dsee_checkpoint."""
        given = Path(self.begin.dsee_checkpoint or "")
        return given / FILE if given.is_dir() else given

    def check(self) -> None:
        """Raise as `System.check`, and for options that do not go with an update, and a file that is none."""
        args = self.setup.args
        if self.number != "II":  # which has something to do without --do_train and --do_eval
            super().check()
        if not self.setup.model.model_name_or_path:
            raise OptionError("apply_lora", "updates a trained model: name it by {}", "model_name_or_path")
        for name in ("deepspeed", "fsdp"):
            if getattr(args, name):
                raise OptionError(name, "does not go with an update of DSEE's, which is small: leave it out")
        if args.do_train:
            check_output("output_dir", self.path)
        source = Path(self.setup.model.model_name_or_path)
        if (source / FILE).is_file() and not (source / "config.json").is_file():
            reason = f"{source} holds an update and not its base: name the base here, and the update by {{}}"
            raise OptionError("model_name_or_path", reason, "dsee_checkpoint")
        self.start = self.read_start()

    def read_start(self) -> DseeFile | None:
        """Read the file of --dsee_checkpoint; None where it names a LoRA of PEFT's, or nothing.

        Raises:
            OptionError: it cannot be read, or is of another task.
        """
        given = self.begin.dsee_checkpoint
        if not given or (Path(given) / CONFIG).is_file():
            return None
        with naming("dsee_checkpoint", given):
            found = DseeFile.load(self.start_path)
        task = self.setup.task.name
        theirs = found.config.get("task", task)
        if theirs != task:
            raise OptionError("dsee_checkpoint", f"{given} is of {theirs}, not of {task}")
        return found

    def settings(self) -> dict[str, Any]:
        found = {**super().settings(), "stage": self.number, **vars(self.update)}
        given = self.begin.dsee_checkpoint
        if given:
            files = [self.start_path] if self.start else sorted(Path(given).glob("adapter_*"))
            found["start"] = fingerprint(files)
        return found

    def load_base(self) -> PreTrainedModel:
        """Load the base anew; sets `tokenizer` and `new`."""
        model, self.tokenizer, self.new = load(self.setup.model, self.setup.task)
        return model

    def begin_update(self, model: PreTrainedModel) -> None:
        """Give the base what --dsee_checkpoint says, or a new update.

        Raises:
            OptionError: numbers, names or files that cannot be on this model.
        """
        update, given = self.update, self.begin.dsee_checkpoint
        earlier = None if self.checkpoint is None else Path(self.checkpoint, FILE)
        if earlier is not None and earlier.is_file():  # and no places are to be looked for again
            with naming("resume_from_checkpoint", earlier):
                load_dsee(model, earlier)
            return
        if self.start is not None:
            self.check_options(self.start)
            with naming("dsee_checkpoint", given):
                load_dsee(model, self.start)
            return
        trained = dense_names(model, self.new, self.setup.model.source)
        more: dict[str, Any] = {"task_head": trained, "seed": self.setup.args.seed}
        sparse = {"num_sparse": update.entries, "sparse_method": update.sparse_method}
        if given:
            with naming("dsee_checkpoint", given), our_names():
                add_dsee(model, lora=given, **sparse, **more)
            return
        with our_names(), naming("model_name_or_path", self.setup.model.source):
            add_dsee(model, update.lora_r, update.lora_alpha, targets=update.roles(), **sparse, **more)

    def check_options(self, start: DseeFile) -> None:
        """Raise an OptionError for numbers on the command line that are not those of --dsee_checkpoint."""
        update, lora = self.update, start.config.get("lora")
        noted = {**(lora if isinstance(lora, dict) else {}), "num_sparse": start.config.get("num_sparse")}
        noted["lora_r"] = noted.get("r")
        given = ["lora_r", "lora_alpha"] * update.apply_lora + ["num_sparse"] * update.apply_sparse
        for name in given:
            if noted.get(name) is not None and noted[name] != getattr(update, name):
                reason = f"{getattr(update, name):g}: {{}} has {noted[name]}"
                raise OptionError(name, reason, "dsee_checkpoint")

    def trainer(self, model: PreTrainedModel) -> Trainer:
        made = self.stock_trainer(model)
        made.about = self.about(model)
        return made

    def about(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return what the file says beside how the update was made."""
        setup = self.setup
        return {
            "task": setup.task.name,
            "base_model": setup.model_name,
            "stage": self.number,
            "training_seed": setup.args.seed,
        }

    def heads(self, model: PreTrainedModel) -> dict[str, Any] | None:
        if not has_dsee(model):
            return heads_of(model)
        with detached(model):
            return heads_of(model)

    def label(self, model: PreTrainedModel) -> str:
        config = dsee_of(model).settings if has_dsee(model) else self.start.config if self.start else {}
        return label_of({**config, **(self.about(model) if has_dsee(model) else {})})

    def method_name(self) -> str:
        return f"dsee-{self.number}"

    def save(self, trainer: Trainer) -> None:
        """Write the file, in which no pruned weight counts; see `save_dsee`."""
        self.write(trainer.model, trainer.about)
        if self.setup.is_main:
            trainer.processing_class.save_pretrained(self.setup.args.output_dir)

    def write(self, model: PreTrainedModel, about: Mapping[str, Any]) -> None:
        """Let the first process write the file; the others wait."""
        with self.setup.args.main_process_first(desc="writing the update"):
            if self.setup.is_main:
                size = save_dsee(model, self.path, config=about)
                say(f"update: {self.path}, {size:,} bytes")

    def deployed(self, trainer: Trainer) -> Trainer:
        """Read the file back onto the base loaded anew, and score that, merged.

        Raises:
            ValueError: it is another model than the one in training.
        """
        return self.stock_trainer(self.load_file(self.path, trainer.model))

    def load_file(self, path: Path, live: PreTrainedModel | None = None) -> PreTrainedModel:
        """Load the base anew with a file, merged into a plain model; sets `account`.

        Args:
            live: a model to be the same as.
        """
        model = self.load_base()
        model.to(self.setup.args.device)
        plain = copy.deepcopy(model) if self.setup.is_main else None
        with naming("dsee_checkpoint", path):
            load_dsee(model, path)
        if live is not None:
            check_same(live, model)
        with self.quietly_random():
            if plain is None:
                merge_dsee(model)
            else:
                length = self.setup.task.options.max_seq_length
                self.account = account_of(plain, model, path, length, self.number)
        return model

    @contextmanager
    def quietly_random(self) -> Iterator[None]:
        """Leave the random numbers of what follows as they would have been."""
        with torch.random.fork_rng(devices=[]):
            yield

    def figures(self) -> dict[str, Any]:
        return {"dsee": self.account} if self.account else {}

    def finish(
        self, model: PreTrainedModel, heads: Mapping[str, Any] | None, parameters: Mapping[str, int]
    ) -> None:
        super().finish(model, heads, parameters)
        if self.account:
            say_account(self.account)


@torch.no_grad()
def check_same(one: PreTrainedModel, other: PreTrainedModel) -> None:
    """Raise a ValueError where two models with an update are not the same bit for bit; names a tensor."""
    here, there = one.state_dict(), other.state_dict()
    if list(here) != list(there):
        name = sorted({*here} ^ {*there})[:1] or ["the order of its tensors"]
        raise ValueError(f"the file read back is another model: {name[0]}")
    for name, tensor in here.items():
        if tensor.shape != there[name].shape or not torch.equal(tensor, there[name].to(tensor.device)):
            raise ValueError(f"the file read back is another model: {name} differs")
