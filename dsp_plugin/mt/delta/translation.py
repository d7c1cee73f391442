"""Translation by Delta-Tuning on fairseq: the model that the methods are trained in, and the task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor, nn

from ...delta.artefact import DeltaFile
from ...delta.labels import label_of
from ...delta.modules import ADAPTERS
from ...options.errors import OptionError
from ...options.faults import naming
from ..checkpoints.checkpoint import load_checkpoint, model_options
from ..checkpoints.flat_config import FlatTransformerConfig
from ..dsee.layer import place_updates
from ..heads.gated_task import GatedTranslationConfig
from ..heads.gated_transformer import attention_blocks
from ..surgery.frozen_base import FrozenBaseModel, FrozenBaseTask
from ..training.option_checks import spelling_options
from .files import STATE, check_file, check_untrained, noted, read_file, tensors_of_file
from .layer import METHODS, adapter_sizes, place_adapters, set_trainable
from .merging import ARCH, options_after, put_when_loaded
from .starting import DEFAULTS, OPTIONS_OF, NewDelta, options_of

TASK = "delta_translation"


@dataclass
class DeltaTransformerConfig(FlatTransformerConfig):
    delta_methods: Optional[str] = field(
        default=None, metadata={"help": f"what is trained, joined by commas: some of {', '.join(METHODS)}"}
    )
    adapter: Optional[str] = field(
        default=None,
        metadata={
            "help": f"{' or '.join(ADAPTERS)}: an adapter after every sub-layer, or after the feed-forward "
            "one alone (default: houlsby)"
        },
    )
    adapter_reduction: Optional[int] = field(
        default=None, metadata={"help": "the model's width over an adapter's (default: 16)"}
    )
    lora_r: Optional[int] = field(default=None, metadata={"help": "r, the rank of LoRA (default: 16)"})
    lora_alpha: Optional[float] = field(
        default=None, metadata={"help": "LoRA is scaled by alpha / r (default: 32)"}
    )
    lora_targets: Optional[str] = field(
        default=None,
        metadata={
            "help": "roles of the matrices that LoRA stands beside, joined by commas: some of query, key, "
            "value, output (default: query,value)"
        },
    )
    delta_before: Optional[str] = field(
        default=None,
        metadata={
            "help": "methods of earlier stages, active and frozen; read from --delta, so there is no need to "
            "give it"
        },
    )
    kept_heads: Optional[str] = field(
        default=None,
        metadata={
            "help": "record of head removal (JSON); read from the base, so there is no need to give it"
        },
    )
    neurons: Optional[int] = field(
        default=None, metadata={"help": "neurons in a group of that record; read from it, too"}
    )


class DeltaTransformerModel(FrozenBaseModel):
    """The transformer with BitFit, adapters or LoRA on frozen weights, and nothing else to train.

    `--arch delta_transformer` takes its sizes from the base; `delta_` and the name of any stock transformer
    architecture, or of one of the plugin's, asks for these sizes, and the base must have them.
    """

    method, task_name = "delta", TASK

    @classmethod
    def label(cls, options) -> str:
        new = NewDelta.of(options)
        return label_of({**dict.fromkeys(new.before, 1), **dict.fromkeys(new.methods, 2)})

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        NewDelta.of(options).check(options)

    @classmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        present = NewDelta.of(given).all_methods
        for method, names in OPTIONS_OF.items():
            for name in names if method not in present else ():
                if given.get(name) is not None:
                    raise OptionError(name, f"says nothing: {{}} has no {method}", "delta_methods")

    @classmethod
    def build_model(cls, cfg, task):
        """Build as the stock model, with room for the methods; their weights are the task's or a file's."""
        model = super().build_model(cfg, task)
        with spelling_options():
            options = cls.with_defaults(cls.as_given(OmegaConf.to_container(cfg, resolve=True)))
            new = NewDelta.of(options)
            model.requires_grad_(False)
            if "lora" in new.all_methods:
                place_updates(model, new.lora_r, new.lora_alpha / new.lora_r, 0, new.roles)
            if "adapter" in new.all_methods:
                blocks = attention_blocks(model)
                place_adapters(model, adapter_sizes(blocks, new.adapter, new.adapter_reduction, options))
            set_trainable(model, new.methods)
        return model


@dataclass
class DeltaTranslationConfig(GatedTranslationConfig):
    base_checkpoint: Optional[str] = field(
        default=None,
        metadata={
            "help": "training: the checkpoint of the trained model that is tuned (--finetune-from-model FILE "
            "is the same)"
        },
    )
    delta: Optional[str] = field(
        default=None,
        metadata={
            "help": "training: the file of an earlier stage, whose methods stay active and frozen; "
            "translating: the file to put into the model of --path, which must be its base"
        },
    )


class DeltaTranslationTask(FrozenBaseTask):
    """Translation that starts from a base, and trains a stage's methods by any optimizer and criterion.

    Checkpoints hold base and methods, so they translate like any other.
    """

    what, made = "a delta", "tuned"
    arch, model_class = ARCH, DeltaTransformerModel
    file_option, note = "delta", STATE

    def start(self, options, seed: int, resumes: bool) -> DeltaFile:
        earlier, path = None, self.cfg.delta
        if path:
            earlier = read_file(path)
            with naming("delta", path):
                check_file(earlier, self._base)
            options = {**options, **_given(options, earlier, path)}
        elif options.get("delta_before"):
            raise OptionError("delta_before", "is read from {}, which is not given", "delta")
        new = NewDelta.of(options, seed)
        new.check(options)
        return new.file(self._base, earlier)

    def noted(self) -> dict[str, Any]:
        return noted(self._file)

    def check_resumed(self, path: str) -> None:
        """Refuse a checkpoint to go on from that is of other methods, another base or earlier stage."""
        state = load_checkpoint(path)
        said = (state.get("task_state") or {}).get(STATE)
        if not isinstance(said, dict):
            reason = f"{path} holds no delta: a training starts from {{}}, and goes on from {{}}"
            raise OptionError("restore_file", reason, "base_checkpoint", "save_dir")
        there, here = model_options(state), self.options_found()
        for name in ("delta_methods", "delta_before", *DEFAULTS):
            if there.get(name) != here.get(name):
                reason = f"{here.get(name)}: {path}, from which this training goes on, has {there.get(name)}"
                raise OptionError(name, reason + ": name another {}", "save_dir")
        now = noted(self._file)
        if said.get("base_hash") != now["base_hash"]:
            raise ValueError(f"{path}: wrong base: it is of another than {self._base.path}")
        if said.get("earlier") != now["earlier"]:
            reason = f"{self.cfg.delta}: {path}, from which this training goes on, is of another file"
            raise OptionError("delta", reason + ": name another {}", "save_dir")
        check_untrained(state["model"], self._file, self._base, now["earlier"], path)

    def options_found(self) -> dict[str, Any]:
        found = options_of(self._file)
        plain = self._base.options
        return {**found, "kept_heads": plain.get("kept_heads"), "neurons": plain.get("neurons")}

    def added_tensors(self) -> dict[str, Tensor]:
        return tensors_of_file(self._file)

    def deployed_model(self, options: dict[str, Any]) -> nn.Module:
        """Build the model that --delta makes of a base; the base's weights are loaded into it."""
        path = self.cfg.delta
        file = read_file(path)
        if issubclass(ARCH_MODEL_REGISTRY.get(options.get("_name"), nn.Module), DeltaTransformerModel):
            raise OptionError("delta", f"{path}: the model of {{}} has a delta already", "path")
        with naming("delta", path):
            whole = OmegaConf.create(options_after(options, file))
        model = self.built_stock(whole)
        put_when_loaded(model, file, path, options)
        return model


def _given(options: Mapping[str, Any], earlier: DeltaFile, path: str) -> dict[str, Any]:
    """Return the options that a stage has by the file of an earlier one.

    Raises:
        OptionError: others were given.
    """
    there = options_of(earlier)
    before = [there.pop("delta_before"), there.pop("delta_methods")]
    for name, value in there.items():
        if options.get(name) not in (None, value):
            raise OptionError(name, f"{options[name]}: {path}, of {{}}, has {value}", "delta")
    named = [name for part in before if part for name in part.split(",")]
    return {**there, "delta_before": ",".join(name for name in METHODS if name in named)}
