"""The options of Delta-Tuning's program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from ....delta.stages import parse_stages
from ....options.errors import OptionError
from ..chassis.arguments import GlueArguments, option

MODES = ("finetune", "prompt", "prompt-demo")
# core's name of an option -> ours
_OTHER_NAMES = {
    "methods": "training_params",
    "adapter": "adapter_type",
    "reduction": "adapter_reduction",
    "lora_rank": "lora_r",
    "density": "diff_density",
}


@dataclass
class PromptArguments(GlueArguments):
    """The task's data, and how an example becomes an input."""

    few_shot_type: str = option(
        "finetune: a task head on the text; prompt: label words at a template's mask; prompt-demo: the same "
        "behind an example of each class",
        "prompt",
        choices=list(MODES),
    )
    num_k: Annotated[int | None, "count"] = option("training examples a class, held against train.tsv")
    template: str | None = option(
        "as *cls*prompt*sent_0*_It_was*mask*.*sep+* (docs/delta.md); default: the task's own"
    )
    hard: str = option(
        "the task's own template: in words (Y), or the mask alone (N)", "Y", choices=["Y", "N"]
    )
    mapping: str | None = option(
        "the word of each label: {'0':'terrible','1':'great'}; default: the task's own"
    )
    num_sample: Annotated[int, "count"] = option(
        "draws of demonstrations whose logits are averaged in scoring", 16
    )
    prompt_num: Annotated[int, "count"] = option("vectors of the soft prompt", 10)
    first_sent_limit: Annotated[int | None, "count"] = option("tokens of the first sentence at most")
    other_sent_limit: Annotated[int | None, "count"] = option("tokens of each other sentence at most")


PromptArguments._argument_group_name = "GLUE and prompts"  # type: ignore[attr-defined]


@dataclass
class DeltaArguments:
    """What is trained."""

    training_params: list[str] | None = option(
        "some of prompt, bias, adapter, lora, diff, dsee: `prompt,bias` together, `prompt bias` one after "
        "the other; default: all weights learn"
    )
    use_adapter: bool = option(
        "is understood, and does nothing: adapter in --training_params puts adapters in",
        False,
        aliases=["--use_adapters"],
    )
    adapter_type: str = option(
        "houlsby (two a layer) or pfeiffer (one)", "houlsby", choices=["houlsby", "pfeiffer"]
    )
    adapter_reduction: Annotated[int, "count"] = option("the model's width over an adapter's", 16)
    lora_r: Annotated[int, "count"] = option("rank of lora, and of dsee", 16)
    lora_alpha: Annotated[float, "positive"] = option("their update is scaled by alpha / r", 32.0)
    num_sparse: Annotated[int, "count"] = option("entries of dsee's S2 in each matrix", 64)
    diff_density: Annotated[float, "share"] = option("share of the weights that diff changes", 0.005)
    delta_checkpoint: str | None = option(
        "task.delta.safetensors of an earlier run, or its folder: what is scored, or trained on"
    )
    tag: str | None = option("a name of the run, for tools/gather_result.py")

    def check(self) -> None:
        """Raise an OptionError for stages that cannot be."""
        self.stages()

    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Return the methods of each stage; none where all weights learn."""
        return () if self.training_params is None else parse_stages(self.training_params)

    def of_methods(self, prompt_num: int) -> dict[str, Any]:
        """Return what `add_delta` takes."""
        return {
            "prompt_num": prompt_num,
            "adapter": self.adapter_type,
            "reduction": self.adapter_reduction,
            "lora_rank": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "num_sparse": self.num_sparse,
            "density": self.diff_density,
        }


DeltaArguments._argument_group_name = "Delta-Tuning"  # type: ignore[attr-defined]


def without_idle_epochs(argv: Sequence[str]) -> list[str]:
    """Take out `--num_train_epochs 0` where `--max_steps` counts the updates, as published commands do."""
    words = list(argv)
    names = [word.partition("=")[0].replace("-", "_") for word in words]
    if "__max_steps" not in names:
        return words
    for place, name in enumerate(names):
        if name != "__num_train_epochs":
            continue
        inside = "=" in words[place]
        value = words[place].partition("=")[2] if inside else "".join(words[place + 1 : place + 2])
        try:
            idle = float(value) == 0
        except ValueError:
            idle = False
        if idle:
            return words[:place] + words[place + (1 if inside else 2) :]
    return words


@contextmanager
def our_names() -> Iterator[None]:
    """Let an error of the core name an option as the program spells it."""
    try:
        yield
    except OptionError as error:
        if error.name in _OTHER_NAMES:
            raise OptionError(_OTHER_NAMES[error.name], error.reason, *error.others) from error
        raise
