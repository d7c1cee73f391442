"""Random inputs for any Transformers model: token ids, pixels, speech or series.

No model says in one form what it needs. So likely sets of arguments are made from its `forward` and its
configuration (`input_kinds`), the fullest first, and the first one that the model runs with is taken.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from .input_kinds import InputMaker, Inputs
from .model_runs import trial_run


def random_inputs(
    model: PreTrainedModel,
    size: int = 2,
    length: int = 8,
    seed: int = 0,
    padding: bool = True,
    text_only: bool = False,
) -> Inputs:
    """Make keyword arguments that the model runs with, on its device, of its dtype.

    A model that takes text gets random token ids, none of them a special token but the end of each sequence;
    one that takes pixels, speech or series gets noise of the sizes in its configuration. A model of text and
    images is given both where that works, else text alone. The model runs once or more, without gradients, to
    try them; it is left as it was.

    Args:
        size: examples; one where the model does not take more.
        length: tokens of the longest sequence.
        seed: the same seed gives the same inputs; the global random states are neither read nor changed.
        padding: let the sequences of a batch differ in length, padded on the left for models that go on at
            the right.
        text_only: give a model of text and other things text alone.

    Raises:
        ValueError: no inputs were found that the model runs with; names the model and what it said.
    """
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"random inputs for {name} cannot be made: it is not a Transformers model; give "
            "inputs of your own"
        )
    said: list[str] = []
    for examples in dict.fromkeys((size, 1)):
        maker = InputMaker(model, examples, length, seed, padding)
        for inputs in maker.candidates(text_only):
            error = _error_of(model, inputs)
            if error is None:
                return inputs
            said.append(
                f"with {', '.join(inputs)}: {type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0][:160]}"
            )
    reason = f"it does not run {said[0]}" if said else "none of its arguments is known here"
    raise ValueError(f"random inputs for {name} cannot be made: {reason}; give inputs of your own")


def _error_of(model: PreTrainedModel, inputs: Inputs) -> Exception | None:
    """Return the error that a model raises on these inputs; None if it runs."""
    try:
        with trial_run(model):
            model(**inputs)
    except Exception as error:  # whatever the model raises
        return error
    return None
