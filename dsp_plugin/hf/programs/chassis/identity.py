"""A run's model, tokenizer and data by their contents, so that another path to them is the same run."""

from __future__ import annotations

from pathlib import Path

from transformers import CONFIG_NAME

from ....records.record import fingerprint
from .arguments import ModelArguments

_WEIGHTS = (".safetensors", ".bin")
# What Transformers' tokenizers are saved as, beside the configuration of the model, which names the class of
# some.
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def identity_of(options: ModelArguments) -> dict[str, str]:
    """Hash the model's and the tokenizer's files, in short; of the hub return their name and revision.

    Raises:
        OSError: a file that cannot be read.
    """
    model, config = options.model_name_or_path, options.config_name or options.model_name_or_path
    tokenizer = options.tokenizer_name or options.model_name_or_path
    found = {"model_files": _identity(model, options, _model_files)}
    own = _identity(config, options, lambda folder: [folder / CONFIG_NAME]) if config != model else ""
    found["config_files"] = own
    more = " lower-cased" if options.do_lower_case else ""
    found["tokenizer_files"] = (
        _identity(tokenizer, options, lambda folder: [folder / name for name in _TOKENIZER]) + more
    )
    return found


def _identity(name, options: ModelArguments, files_of) -> str:
    if not Path(name).is_dir():
        return f"{name}@{options.model_revision}"
    files = [path for path in files_of(Path(name)) if path.is_file()]
    return fingerprint(files) if files else ""


def _model_files(folder: Path) -> list[Path]:
    """List configuration and weights; of both formats the one that Transformers prefers."""
    for ending in _WEIGHTS:
        weights = sorted(folder.glob(f"*model*{ending}"))
        if weights:
            return [folder / CONFIG_NAME, *weights]
    return [folder / CONFIG_NAME]
