"""The head of a masked language model, by itself: words are worked out at the masked places alone.

Shapes: B rows, L tokens, D the width, V words, N masked places, K label words.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ...options.errors import OptionError

# model types whose whole head is one module, by its name; it takes [..., D] and gives [..., V]
_HEADS = {"bert": "cls", "roberta": "lm_head", "xlm-roberta": "lm_head", "camembert": "lm_head"}


def lm_head_of(model: nn.Module) -> nn.Module:
    """Return the module that turns hidden states [..., D] into words [..., V].

    Raises:
        ValueError: the model is no masked language model of a known kind.
    """
    name = _HEADS.get(getattr(getattr(model, "config", None), "model_type", ""))
    head = None if name is None else getattr(model, name, None)
    if head is None or model.get_output_embeddings() is None:
        known = ", ".join(sorted(_HEADS))
        raise ValueError(
            f"{type(model).__name__} has no masked-LM head of a known kind: give a model of one of {known}"
        )
    return head


def check_masked_lm(model: nn.Module, option: str = "model_name_or_path") -> None:
    """Raise an OptionError of that option where a model has no masked-LM head."""
    try:
        lm_head_of(model)
    except ValueError as error:
        raise OptionError(option, f": {error}") from None


def words_at(model: nn.Module, places: Tensor, **inputs: Tensor) -> Tensor:
    """Return the logits [N, V] at the places [B, L], bool, where they are asked for."""
    hidden = model.base_model(**inputs)[0]  # [B, L, D]
    return lm_head_of(model)(hidden[places])  # [N, D] -> [N, V]


def label_logits(model: nn.Module, hidden: Tensor, words: Tensor) -> Tensor:
    """Return the logits [N, K] of the words [K] alone, of hidden states [N, D] at the masked places.

    They are those of the whole head, column by column, at the cost of K words in place of V.

    Raises:
        ValueError: see `lm_head_of`.
    """
    head = lm_head_of(model)
    if hasattr(head, "predictions"):  # BERT's
        hidden = head.predictions.transform(hidden)
    else:
        hidden = head.layer_norm(functional.gelu(head.dense(hidden)))
    decoder = model.get_output_embeddings()
    bias = None if decoder.bias is None else decoder.bias[words]
    return functional.linear(hidden, decoder.weight[words], bias)  # [N, D] -> [N, K]
