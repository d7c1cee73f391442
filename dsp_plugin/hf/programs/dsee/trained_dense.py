"""What is trained dense beside an update that leaves the rest of a model frozen."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel

from ....options.errors import OptionError
from ...dsee.adding import find_task_head
from ..chassis.parsing import say


def dense_names(model: PreTrainedModel, new: Iterable[str], source: str) -> list[str]:
    """Return the names of the task head, and of a pooler that the base lacks or that was never trained.

    A pooler whose bias is 0 throughout is as it was initialised: sentence encoders are stored so, which take
    the mean of their tokens instead. Frozen, it would give the task head next to nothing to learn from.

    Args:
        new: names of what the base's file lacks. source: the base's name, for the messages.

    Raises:
        OptionError: the base lacks weights of other kinds, which would stay random.
    """
    found, parameters = {*find_task_head(model, None)}, dict(model.named_parameters())
    lacking = [name for name in new if name in parameters and name not in found]
    strange = [name for name in lacking if not _of_pooler(name)]
    if strange:
        raise OptionError("model_name_or_path", f"{source} lacks {strange[0]}, which would stay random")
    if lacking:
        say(f"{lacking[0]} and what goes with it is new, and learns as the task head does")
    poolers = [name for name in parameters if _of_pooler(name) and name not in found and name not in lacking]
    biases = [parameters[name] for name in poolers if name.endswith("bias")]
    if biases and not any(bias.any() for bias in biases):
        say(f"the pooler of {source} was never trained (its bias is 0): it learns as the task head does")
        lacking += poolers
    return sorted(found | {*lacking})


def _of_pooler(name: str) -> bool:
    return "pooler" in name.split(".")
