"""The model of a program: tokenizer, configuration and weights."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from ....options.errors import OptionError
from ....options.faults import naming, one_line
from ....records.files.sealed_folder import check_sealed
from ...folders.model_heads import has_scores, tells_kept_heads
from ...folders.pruned_folders import load_pruned
from .arguments import CausalModelArguments, ModelArguments
from .new_models import begin_model, override
from .origin import check_head
from .parsing import say

MOST_LAYERS = 10_000  # a damaged number of layers would fill the memory before anything else notices
# a folder without a tokenizer's files gives one that knows [CLS], [SEP] ... and maps every text to [UNK]
FEWEST_WORDS = 5


def load(options: ModelArguments, task: Any) -> tuple[PreTrainedModel, Any, list[str]]:
    """Load model and tokenizer for a task; return the names of the model's weights that are new, too.

    Args:
        task: a `DataTask`; it adopts the order of the model's labels.

    Raises:
        ValueError, OSError: naming the option. Among them: damaged files, a task head of another task.
    """
    for name, folder in (
        ("model_name_or_path", options.model_name_or_path),
        ("tokenizer_name", options.tokenizer_name),
    ):
        if folder:
            with naming(name, folder):
                check_sealed(folder)
    if not options.model_name_or_path:
        return *_begin(options, task), []
    before = load_config(options, {})
    task.adopt(before)
    tokenizer = load_tokenizer(options)
    model, new = load_model(options, task.model_class, load_config(options, task.config_entries()))
    if not new:
        new = check_head(model, before, options, task)
    if getattr(model.config, "finetuning_task", None) is not None:  # older programs noted it
        model.config.finetuning_task = task.name
    if model.config.pad_token_id is None:  # GPT-2: classification looks for the last token that is none
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer, new


def _begin(options: CausalModelArguments, task: Any) -> tuple[PreTrainedModel, Any]:
    """Make a new model and its tokenizer; raises as `load`."""
    with naming("config_name", options.config_name):
        check_sealed(options.config_name)
    config = load_config(options, {})
    override(config, options.config_overrides or "")
    _check_sizes(config, "config_overrides")
    longest = getattr(config, "max_position_embeddings", None) or task.options.max_seq_length
    if options.train_tokenizer:
        tokenizer = task.new_tokenizer(options.train_tokenizer, longest)
    else:
        tokenizer = load_tokenizer(options)
    return begin_model(task.model_class, config, tokenizer, options.attn_implementation), tokenizer


def load_config(options: ModelArguments, entries: dict[str, Any]) -> PreTrainedConfig:
    """Load the model's configuration, with a task's entries (`num_labels`, ...).

    Raises:
        ValueError, OSError: there is none, or it is damaged; names the option.
    """
    name = options.config_name or options.model_name_or_path
    try:
        if not options.model_name_or_path and name in CONFIG_MAPPING and not Path(name).is_dir():
            return CONFIG_MAPPING[name]()
        where = {"cache_dir": options.cache_dir, "revision": options.model_revision}
        config = AutoConfig.from_pretrained(name, **where, **entries)
        _check_sizes(config)
        return config
    except Exception as error:  # what a damaged or strange config.json raises is its library's affair
        option = "--config_name" if options.config_name else "--model_name_or_path"
        raise ValueError(f"{option} {name}: {_first_line(error)}{_not_here(name)}") from error


def _check_sizes(config: PreTrainedConfig, option: str = "") -> None:
    """Raise a ValueError for sizes that no model has; an OptionError where an option set them."""
    for size in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"):
        value = getattr(config, size, None)
        bound = MOST_LAYERS if size == "num_hidden_layers" else math.inf
        if isinstance(value, int) and not 0 < value < bound:
            if option:
                raise OptionError(option, f": {size} is {value}, and no model has so many")
            raise ValueError(f"{size} of config.json is {value}, and no model has so many")


def load_tokenizer(options: ModelArguments) -> Any:
    """Load the tokenizer; raise an OptionError where there is none, or one without words."""
    name = options.tokenizer_name or options.model_name_or_path
    more = {"do_lower_case": True} if options.do_lower_case else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            cache_dir=options.cache_dir,
            revision=options.model_revision,
            use_fast=options.use_fast_tokenizer,
            **more,
        )
    except Exception as error:
        raise OptionError(
            "tokenizer_name", f"{name}: no tokenizer can be loaded: {_first_line(error)}{_not_here(name)}"
        ) from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < FEWEST_WORDS:
        raise OptionError(
            "tokenizer_name",
            f"{name}: there is no vocabulary; name the tokenizer that the model was trained with",
        )
    return tokenizer


def load_model(
    options: ModelArguments, model_class: type, config: PreTrainedConfig
) -> tuple[PreTrainedModel, list[str]]:
    """Load the model, pruned where its folder says so; return the names of its new weights, too.

    Raises:
        ValueError, OSError: weights that are missing, damaged or of other shapes; names the option.
    """
    name = options.model_name_or_path
    more: dict[str, Any] = {"ignore_mismatched_sizes": options.ignore_mismatched_sizes}
    if options.attn_implementation:
        more["attn_implementation"] = options.attn_implementation
    if tells_kept_heads(config):
        entries = ("num_labels", "problem_type", "id2label", "label2id")
        labels = {entry: getattr(config, entry, None) for entry in entries}
        labels = {entry: value for entry, value in labels.items() if value is not None}
        with naming("model_name_or_path", name):
            model, loading = load_pruned(name, model_class, output_loading_info=True, **labels, **more)
        return model, _new(loading)
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # we say ourselves which weights are new
    try:
        model, loading = model_class.from_pretrained(
            name,
            config=config,
            cache_dir=options.cache_dir,
            revision=options.model_revision,
            output_loading_info=True,
            **more,
        )
    except Exception as error:
        text = one_line(error)
        # Transformers raises a plain RuntimeError for other shapes; the option it advises tells it apart
        if "ignore_mismatched_sizes" in str(error):
            text = (
                "its weights have other shapes (another number of labels?): --ignore_mismatched_sizes "
                "begins with a new task head"
            )
        raise OptionError("model_name_or_path", f"{name}: {text}{_not_here(name)}") from error
    finally:
        hf_logging.set_verbosity(level)
    further = _further_layers(model, loading["unexpected_keys"])
    if further:
        text = f"the weights have layers that the configuration has not ({further} ...), and would lose them"
        if not options.config_name:
            raise OptionError(
                "model_name_or_path",
                f"{name}: {text}; to begin with fewer layers, give that configuration by {{}}",
                "config_name",
            )
        say(f"--config_name {options.config_name}: {text}")
    return model, _new(loading)


def _further_layers(model: PreTrainedModel, unexpected: Sequence[str]) -> str | None:
    """Find the first weight of the files that is like one of the model's but for its layer's number."""
    own = {re.sub(r"\.\d+\.", ".*.", name) for name in model.state_dict()}
    for name in sorted(unexpected):
        kind = re.sub(r"\.\d+\.", ".*.", name)
        # with the name of the base model before it, or without
        alike = (f".{one}".endswith(f".{kind}") or f".{kind}".endswith(f".{one}") for one in own)
        if kind != name and any(alike):
            return name
    return None


def _new(loading: dict[str, Any]) -> list[str]:
    """List the weights that are new: not in the files, or there in another size."""
    other = (key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"])
    return sorted({*loading["missing_keys"], *other})


def say_open_heads(name: str) -> None:
    """Tell the user where a gated model is about to be used without its gates."""
    if has_scores(name):
        say(
            f"{name} holds scores of heads that are not looked at here: all its heads are open. Its choice "
            "of heads is in"
        )
        say(f"{os.path.join(name, 'pruned')}: give that folder for the pruned model.")


def _first_line(error: Exception) -> str:
    """Return an error's first line: of the hub's errors the rest is advice for other programs than ours."""
    if type(error) in (OSError, ValueError) and str(error).strip():
        return one_line(ValueError(str(error).strip().split("\n")[0]))
    return one_line(error)


def _not_here(name: str) -> str:
    """Say what to do about a name that is no folder."""
    return (
        ""
        if Path(name).is_dir()
        else (" There is no such folder here: name one, or go online for a name on the hub.")
    )
