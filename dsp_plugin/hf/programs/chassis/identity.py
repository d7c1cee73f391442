"""A run's model, tokenizer and data by their contents, so that another path to them is the same run."""

from __future__ import annotations

from pathlib import Path

from transformers import CONFIG_NAME

from ....records.record import fingerprint
from .arguments import CausalModelArguments, ModelArguments

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
    if not options.model_name_or_path:
        return _identity_of_new(options)
    model, config = options.model_name_or_path, options.config_name or options.model_name_or_path
    tokenizer = options.tokenizer_name or options.model_name_or_path
    found = {"model_files": _identity(model, options, _model_files)}
    own = _identity(config, options, lambda folder: [folder / CONFIG_NAME]) if config != model else ""
    found["config_files"] = own
    found["tokenizer_files"] = _identity_of_tokenizer(tokenizer, options)
    return found


def _identity_of_new(options: CausalModelArguments) -> dict[str, str]:
    """Tell a model that begins from nothing: its weights are the seed's."""
    config = _identity(options.config_name, options, lambda folder: [folder / CONFIG_NAME])
    trained = f"trained, {options.train_tokenizer} entries"
    return {
        "model_files": "new",
        "config_files": f"{config} {options.config_overrides or ''}".rstrip(),
        "tokenizer_files": trained
        if options.train_tokenizer
        else _identity_of_tokenizer(options.tokenizer_name, options),
    }


def _identity_of_tokenizer(name, options: ModelArguments) -> str:
    found = _identity(name, options, lambda folder: [folder / file for file in _TOKENIZER])
    return found + (" lower-cased" if options.do_lower_case else "")


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
