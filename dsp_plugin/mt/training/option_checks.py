"""Numbers on a command line or in a YAML file are looked at by what they mean, before anything is loaded.

One table for fairseq's options and our own: an option has one meaning wherever it stands. fairseq itself
takes any number and finds out later, or never: a dropout of NaN trains, --update-freq 0 divides by zero.
"""

from __future__ import annotations

import ast
import contextlib
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...options.errors import OptionError, dashed
from ...options.numbers import MEANINGS, Meaning, check_number

_ALL = MEANINGS["count"].or_else(-1, meant="for all")
_NONE = MEANINGS["count"].or_else(-1, meant="for none")
_RATE_OR_HOST = MEANINGS["non-negative"].or_else(-1, meant="for fairseq's own choice")

# meaning -> options, without their dashes; those that may be left out are None then, which is not looked at
_TABLE: Mapping[str | Meaning, str] = {
    # training
    "non-negative": """lr clip_norm stop_time_hours weight_decay min_lr end_learning_rate lr_threshold
        init_lr_scale sparsity_pen alpha_learning_rate l0_penalty max_len_a max_len_a_mt diverse_beam_strength
        alignment_lambda latency_avg_weight latency_var_weight ctc_weight rdrop_alpha""",
    "positive": """adam_eps adamax_eps adadelta_eps lr_shrink power total_num_update t_mult lr_decay
        max_lr final_lr_scale min_loss_scale threshold_loss_scale adaptive_softmax_factor pruning_lr
        temperature block_lr finetune_lr lora_alpha third_lr""",
    "finite": "alpha_init concrete_lower concrete_upper lenpen lenpen_mt unkpen lm_weight "
    "iter_decode_eos_penalty stop_min_lr",
    _RATE_OR_HOST: "warmup_init_lr",
    MEANINGS["decay"]: "pruning_ratio ad_pruning_ratio prune_neurons",
    "dropout": """dropout attention_dropout activation_dropout relu_dropout adaptive_softmax_dropout
        encoder_layerdrop
        decoder_layerdrop label_smoothing""",
    "probability": "phase_ratio quant_noise_pq quant_noise_scalar fp16_scale_tolerance ema_decay "
    "slowmo_momentum final_noise cost_share",
    "decay": "momentum block_momentum",
    "share": "target_sparsity",
    # sizes
    "count": """encoder_layers decoder_layers encoder_embed_dim decoder_embed_dim decoder_input_dim
        decoder_output_dim encoder_ffn_embed_dim decoder_ffn_embed_dim encoder_attention_heads
        decoder_attention_heads max_source_positions max_target_positions quant_noise_pq_block_size
        adaptive_softmax_cutoff base_sublayers update_freq max_tokens max_tokens_valid batch_size
        batch_size_valid max_valid_steps required_batch_size_multiple required_seq_len_multiple
        num_shards log_interval validate_interval save_interval checkpoint_shard_count
        fp16_init_scale fp16_scale_window amp_init_scale amp_scale_window all_gather_list_size
        model_parallel_size distributed_world_size distributed_num_procs bucket_cap_mb
        localsgd_frequency nprocs_per_node global_sync_iter ema_update_freq lr_deacy_period
        heads_per_step round_updates importance_samples finetune_max_update finetune_max_epoch beam nbest
        iter_decode_with_beam softmax_batch jobs limit mask_samples neurons lora_r adapter_reduction
        third_max_update third_max_epoch""",
    "amount": """encoder_layers_to_keep decoder_layers_to_keep min_params_to_wrap base_layers
        max_update max_epoch warmup_updates warmup_steps hold_steps decay_steps force_anneal
        lr_patience num_workers data_buffer_size validate_interval_updates validate_after_updates
        save_interval_updates curriculum shard_id empty_cache_freq amp_batch_retries
        distributed_rank device_id pipeline_chunks ema_start_update warmup_iterations
        ignore_prefix_size latency_update_after num_batch_buckets budgets pruning_warmup_updates
        pruning_lr_decay_steps cooldown_steps beam_mt max_len_b max_len_b_mt min_len prefix_size
        no_repeat_ngram_size iter_decode_max_iter buffer_size context_window num_sparse prune_heads_num
        closing_updates""",
    "whole": "num_of_heads min_heads_per_block",  # the model, which has the heads, says how many there are
    _ALL: "keep_interval_updates keep_interval_updates_pattern keep_last_epochs keep_best_checkpoints",
    MEANINGS["amount"].or_else(-1, meant="for none"): "patience fix_layer upsample_primary heartbeat_timeout",
    _NONE: "sampling_topk diverse_beam_groups",
    MEANINGS["share"].or_else(-1, meant="for none"): "sampling_topp",
    MEANINGS["non-negative"].or_else(-1, meant="for none"): "diversity_rate",
    MEANINGS["positive"].or_else(-1, meant="for one period"): "lr_period_updates",
    "seed": "seed seeds fixed_validation_seed record_seed",
    MEANINGS["port"].or_else(-1, meant="for none"): "distributed_port",
    "switch": "per_params_alpha per_neuron_alpha per_layer_alpha finetune base_shuffle",
    "temperature": "initial_temperature final_temperature",
}
NUMBERS: dict[str, str | Meaning] = {
    name: meaning for meaning, names in _TABLE.items() for name in names.split()
}
"""Option -> what its number means."""

_BETAS = ("adam_betas", "adamax_betas")
# how subwords are joined, by what fairseq's post_process knows
_SUBWORDS = ("post_process", "eval_bleu_remove_bpe")
_JOINED = ("subword_nmt", "@@ ", "@@", "sentencepiece", "wordpiece", "letter", "silence", "_EOW", "none")
_JSON = ("eval_bleu_args", "eval_bleu_detok_args")  # options whose value is a JSON object


def check_options(configuration: Any) -> None:
    """Look at every number of a configuration, and at those that do not go together.

    Args:
        configuration: fairseq's whole one, a section of it, the options of a parser (Namespace), or a
            dictionary.

    Raises:
        OptionError: naming the option, what belongs there, and what was given.
    """
    values: dict[str, Any] = {}
    for name, value in _options_of(configuration):
        values.setdefault(name, value)
        check_option(name, value)
    _check_sizes(values)
    _check_schedule(values)
    _check_search(values)
    _check_metric(values)


def check_option(name: str, value: Any, among: str = "") -> None:
    """Look at one value; `among` is the option whose JSON it is in. Errors as `check_options`."""
    if name in _BETAS and value is not None:
        _check_betas(name, value)
    elif name in _JSON and value:
        _check_json(name, value)
    elif name in _SUBWORDS and value not in (None, "", *_JOINED):
        raise _error(name, f"{value}: one of {', '.join(_JOINED)} belongs there", among=among)
    elif name == "eval_bleu_detok" and value is not None:
        from fairseq.data.encoders import TOKENIZER_REGISTRY

        if value not in TOKENIZER_REGISTRY:
            raise _error(name, f"{value}: one of {', '.join(TOKENIZER_REGISTRY)} belongs there", among=among)
    elif name in NUMBERS and value is not None and not isinstance(value, str):
        why = check_number(list(value) if isinstance(value, ListConfig) else value, NUMBERS[name])
        if why:
            raise _error(name, f"{_written(value)}: {why}", among=among)
        if name in ("lr", "update_freq") and value == []:
            raise OptionError(name, "is empty: a number, or several joined by commas, belongs there")


class DashedOptionError(OptionError):
    """The same error, which spells its options as fairseq does even where no program is there to do it."""

    def __str__(self) -> str:
        return self.spelled(dashed)


@contextlib.contextmanager
def spelling_options() -> Iterator[None]:
    """Spell the options of errors as fairseq's users know them: what fairseq-train shows is a traceback.

    Raises:
        DashedOptionError: in the place of an OptionError, and with its traceback.
    """
    try:
        yield
    except OptionError as error:
        raise DashedOptionError(*error.args).with_traceback(error.__traceback__) from None


def _error(name: str, reason: str, *others: str, among: str = "") -> OptionError:
    """Make the error for an option, or for one in the JSON of the option `among`, without dashes then."""
    if not among:
        return OptionError(name, reason, *others)
    for other in others:
        reason = reason.replace("{}", other, 1)
    return OptionError(among, f"{name} {reason}")


def _options_of(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of all options in a configuration, however deep, that can be resolved."""
    if isinstance(node, Namespace):
        node = vars(node)
    if not isinstance(node, (dict, DictConfig)):
        return
    for name in list(node):
        try:
            if isinstance(node, DictConfig) and OmegaConf.is_missing(node, name):
                continue
            value = node[name]
        except OmegaConfBaseException:  # an interpolation of something that this program does not have
            continue
        if isinstance(value, (dict, DictConfig, Namespace)):
            chosen = vars(value).get("_name") if isinstance(value, Namespace) else value.get("_name")
            yield str(name), chosen  # which task, model, optimizer, schedule it is
            yield from _options_of(value)
        else:
            yield str(name), value


def _check_betas(name: str, value: Any) -> None:
    why = f"{_written(value)}: two numbers from 0 to below 1 belong there, such as (0.9, 0.98)"
    try:
        betas = ast.literal_eval(value) if isinstance(value, str) else tuple(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise OptionError(name, why) from None
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or check_number(betas, "decay"):
        raise OptionError(name, why)


def _check_json(name: str, value: Any) -> None:
    why = f"{value}: a JSON object belongs there, such as '{{\"beam\": 4}}'"
    try:
        found = json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise OptionError(name, f"{why} ({error})") from None
    if not isinstance(found, dict):
        raise OptionError(name, why)
    if name != "eval_bleu_args":
        return
    from fairseq.dataclass.configs import GenerationConfig

    for inner, number in found.items():
        if inner not in GenerationConfig.__dataclass_fields__:
            raise OptionError(name, f"{inner}: fairseq's generation has no such option")
        if isinstance(number, str) and inner in NUMBERS:
            raise OptionError(name, f"{inner}: a number belongs there, got the text '{number}'")
        check_option(inner, number, name)
    _check_search(found, name)


def _check_sizes(values: Mapping[str, Any]) -> None:
    for side in ("encoder", "decoder"):
        size, heads = values.get(f"{side}_embed_dim"), values.get(f"{side}_attention_heads")
        if size and heads and size % heads:
            reason = f"{heads}: it must divide {{}}, which is {size}"
            raise OptionError(f"{side}_attention_heads", reason, f"{side}_embed_dim")
    if values.get("share_all_embeddings") or values.get("share_decoder_input_output_embed"):
        size, out = values.get("decoder_embed_dim"), values.get("decoder_output_dim")
        if size and out and size != out:
            reason = f"{out}: with shared embeddings it must be {{}}, which is {size}"
            raise OptionError("decoder_output_dim", reason, "decoder_embed_dim")
    for part, whole in (("shard_id", "num_shards"), ("distributed_rank", "distributed_world_size")):
        number, count = values.get(part), values.get(whole)
        if number and count and number >= count:
            raise OptionError(part, f"{number}: it must be below {{}}, which is {count}", whole)
    cutoff = values.get("adaptive_softmax_cutoff")
    if cutoff and list(cutoff) != sorted(set(cutoff)):
        raise OptionError("adaptive_softmax_cutoff", f"{_written(cutoff)}: they must rise")


def _check_schedule(values: Mapping[str, Any]) -> None:
    """Check what the schedule of the learning rate divides by."""
    name, warmup, last = (values.get(option) for option in ("lr_scheduler", "warmup_updates", "max_update"))
    if name in ("inverse_sqrt", "cosine", "reduce_lr_on_plateau") and len(values.get("lr") or []) > 1:
        reason = f"{_written(values['lr'])}: {{}} {name} takes one rate (fixed takes one an epoch)"
        raise OptionError("lr", reason, "lr_scheduler")
    if name == "inverse_sqrt" and not warmup:
        raise OptionError("warmup_updates", "0: {} inverse_sqrt needs 1 or more", "lr_scheduler")
    if name == "cosine" and (values.get("lr_period_updates") or -1) <= 0 and (last or 0) <= (warmup or 0):
        reason = f"cosine needs {{}}, or a {{}} above {{}}, which is {warmup}"
        raise OptionError("lr_scheduler", reason, "lr_period_updates", "max_update", "warmup_updates")
    if name == "polynomial_decay" and not values.get("total_num_update"):
        reason = "polynomial_decay needs {}, the updates until the rate is at its end"
        raise OptionError("lr_scheduler", reason, "total_num_update")


def _check_search(values: Mapping[str, Any], among: str = "") -> None:
    """Refuse options of the search that exclude each other, which fairseq asserts in the middle of work."""
    beam, nbest, groups = values.get("beam"), values.get("nbest"), values.get("diverse_beam_groups")
    if beam is not None and nbest is not None:
        if nbest > beam:
            raise _error("nbest", f"{nbest}: at most {{}}, which is {beam}", "beam", among=among)
        if values.get("sampling") and nbest != beam:
            reason = f"{nbest}: with {{}} it must be {{}}, which is {beam}"
            raise _error("nbest", reason, "sampling", "beam", among=among)
    if beam and groups and groups > 0 and beam % groups:
        reason = f"{groups}: it must divide {{}}, which is {beam}"
        raise _error("diverse_beam_groups", reason, "beam", among=among)
    shortest, longest = values.get("min_len", 1), values.get("max_len_b")
    if longest is not None and not values.get("max_len_a") and longest < shortest:
        reason = f"{longest}: at least {{}}, which is {shortest}"
        raise _error("max_len_b", reason, "min_len", among=among)
    for name in ("sampling_topk", "sampling_topp"):
        if (values.get(name) or -1) > 0 and "sampling" in values and not values["sampling"]:
            raise _error(name, "needs {}", "sampling", among=among)


def _check_metric(values: Mapping[str, Any]) -> None:
    """Refuse a metric for the best checkpoint that validation does not give."""
    metric = values.get("best_checkpoint_metric")
    # not a training by one of the criterions looked at here
    if metric is None or "label_smoothing" not in values:
        return
    known = ["loss", "nll_loss", "ppl", "wps", "wpb", "bsz", "num_updates"]
    needs = {"bleu": "eval_bleu", "accuracy": "report_accuracy"}
    if metric in needs and needs[metric] in values:
        if not values[needs[metric]]:
            raise OptionError("best_checkpoint_metric", f"{metric} needs {{}}", needs[metric])
    elif metric not in known and metric not in needs:
        known = ", ".join([*known[:3], *needs])
        raise OptionError("best_checkpoint_metric", f"{metric}: validation gives {known}")


def _written(value: Any) -> str:
    """Write a value as it would be typed."""
    if isinstance(value, (list, tuple, ListConfig)):
        return ",".join(map(str, value))
    return str(value)
