"""Tiny tokenizers and masked language models for Delta-Tuning: BERT's words, RoBERTa's byte pairs."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from glue_folders import SIGNS, SUBJECTS, VERBS
from hf_models import BERT_SIZES
from tokenizers import ByteLevelBPETokenizer
from transformers import BertTokenizer, PreTrainedModel, RobertaTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OWN = "great terrible it was this is yes no maybe correct incorrect ##ly , . ? !".split()
WORDS = sorted({*re.findall(r"\w+", " ".join([*SUBJECTS, *VERBS, *SIGNS])), '"', *OWN})


def bert_tokenizer(folder: Path) -> BertTokenizer:
    """A WordPiece tokenizer of the words of `glue_folders` and of the usual templates."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    return BertTokenizer.from_pretrained(folder, model_max_length=128)


def roberta_tokenizer(folder: Path) -> RobertaTokenizer:
    """A byte-level BPE in which words with a space before them are tokens of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    made = ByteLevelBPETokenizer()
    text = [f" {word} {word.capitalize()}" for word in WORDS if word.isalpha() and word != "incorrect"] * 20
    made.train_from_iterator(
        text, vocab_size=900, min_frequency=2, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    made.save_model(str(folder))
    return RobertaTokenizer.from_pretrained(folder, model_max_length=128)


def masked_lm(family: str, vocabulary: int, seed: int = 3, **more: Any) -> PreTrainedModel:
    """A masked language model of random weights, no bias 0, in `eval()`; `family` as in `BertForMaskedLM`."""
    torch.manual_seed(seed)
    sizes = dict(BERT_SIZES)
    if family == "DistilBert":
        sizes = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=40)
    if family in ("Albert", "Electra"):
        sizes["embedding_size"] = 16
    config = getattr(transformers, f"{family}Config")(
        **{**sizes, "vocab_size": vocabulary, "max_position_embeddings": 130, **more}
    )
    model = getattr(transformers, f"{family}ForMaskedLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=0.2)
    model.tie_weights()
    return model.eval()


def write_masked_bert(folder: Path, seed: int = 3) -> Path:
    """A BERT with a masked-LM head, and its tokenizer, in a folder."""
    tokenizer = bert_tokenizer(folder)
    masked_lm("Bert", len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
