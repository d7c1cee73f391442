"""A masked language model as a classifier: label words at the mask, and nothing else of the vocabulary.

Gao et al., "Making Pre-trained Language Models Better Few-shot Learners", ACL 2021, section 4.

Shapes: B rows, L tokens, D the width, W label words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear, log_softmax
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ...options.errors import OptionError

HIGHEST_SCORE = 5.0  # of STS-B, where "Yes" is certain

Transform = Callable[[nn.Module, Tensor], Tensor]
_FAMILIES: dict[str, Transform] = {}


def register_masked_head(model_type: str, transform: Transform) -> None:
    """Let a family of masked language models be prompted.

    Args:
        model_type: as its configuration has it.
        transform: (model, hidden states [B, D] at the mask) -> what the output embeddings are multiplied by,
            [B, D or the embeddings' width]: the LM head without its decoder.
    """
    _FAMILIES[model_type] = transform


def _roberta(model: nn.Module, hidden: Tensor) -> Tensor:
    head = model.lm_head
    return head.layer_norm(gelu(head.dense(hidden)))


def _distilbert(model: nn.Module, hidden: Tensor) -> Tensor:
    return model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))


def _albert(model: nn.Module, hidden: Tensor) -> Tensor:
    head = model.predictions
    return head.LayerNorm(head.activation(head.dense(hidden)))


register_masked_head("bert", lambda model, hidden: model.cls.predictions.transform(hidden))
register_masked_head("electra", lambda model, hidden: model.generator_predictions(hidden))
register_masked_head("distilbert", _distilbert)
register_masked_head("albert", _albert)
for _name in ("roberta", "xlm-roberta", "camembert", "mpnet"):
    register_masked_head(_name, _roberta)


def check_masked_lm(model: nn.Module) -> None:
    """Raise an OptionError for a model without a masked-LM head of a known family; names it."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise OptionError(
            "model_name_or_path", f": {kind or type(model).__name__} cannot be prompted: {known} can"
        )
    if not type(model).__name__.endswith("ForMaskedLM") or model.get_output_embeddings() is None:
        raise OptionError("model_name_or_path", f": {type(model).__name__} has no masked-LM head to prompt")


def word_logits(model: nn.Module, hidden: Tensor, words: Tensor | None = None) -> Tensor:
    """Return the LM head's logits [B, W] of hidden states [B, D], of the words [W] alone or of all."""
    transformed = _FAMILIES[model.config.model_type](model, hidden)
    decoder = model.get_output_embeddings()
    if words is None:
        return decoder(transformed)
    bias = None if decoder.bias is None else decoder.bias[words]
    return linear(transformed, decoder.weight[words], bias)


class PromptingModel(nn.Module):
    """A masked language model that answers with label words.

    The LM head works on the hidden state at the mask alone, and its last matrix on the label words' rows
    alone. The loss is the mean over the batch: cross-entropy over the label words, or for scores y of 0 to 5
    and the words (No, Yes), with p = y / 5, -[(1 - p) log q(No) + p log q(Yes)].

    Args:
        model: with a masked-LM head; it is kept as it is, in `model`.
        label_word_ids: W tokens, in the order of the labels.
        regression: whether labels are scores.

    Raises:
        OptionError: a model of no known family. ValueError: a regression without two words.
    """

    accepts_loss_kwargs = False  # whatever the Trainer accumulates, the loss is the mean of a batch
    main_input_name = "input_ids"

    def __init__(self, model: PreTrainedModel, label_word_ids: Sequence[int], regression: bool = False):
        super().__init__()
        check_masked_lm(model)
        if regression and len(label_word_ids) != 2:
            raise ValueError(f"a score lies between two label words, and there are {len(label_word_ids)}")
        self.model, self.regression = model, regression
        self.register_buffer("label_word_ids", torch.tensor(list(label_word_ids)), persistent=False)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Let the encoder recompute its activations; the base's embeddings may be frozen."""
        self.model.gradient_checkpointing_enable(**options)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        mask_pos: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return loss and logits [B, W].

        Args:
            input_ids, attention_mask, token_type_ids, prompt_ids: [B, L]; the last for a model with a soft
                prompt, see `add_delta`.
            mask_pos: [B], the place of each row's mask.
            labels: [B]: numbers of labels, or scores.
        """
        more = {"token_type_ids": token_type_ids, "prompt_ids": prompt_ids}
        given = {name: value for name, value in more.items() if value is not None}
        hidden = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, **given)[0]
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        at_mask = hidden[rows, mask_pos]  # [B, L, D] -> [B, D]
        logits = word_logits(self.model, at_mask, self.label_word_ids)  # [B, W]
        loss = None if labels is None else label_word_loss(logits, labels, self.regression)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def label_word_loss(logits: Tensor, labels: Tensor, regression: bool = False) -> Tensor:
    """Return the mean loss of logits [B, W]; labels [B] are numbers of labels, or scores of 0 to 5."""
    if not regression:
        return cross_entropy(logits, labels)
    share = (labels.to(logits.dtype) / HIGHEST_SCORE).unsqueeze(1)  # [B, 1]
    wanted = torch.cat([1 - share, share], dim=1)  # [B, 2]
    return -(wanted * log_softmax(logits, dim=1)).sum(1).mean()
