"""Pretraining a masked-LM head, tied to the embeddings of an encoder that has none, for a limited time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from ....options.errors import OptionError
from ....options.numbers import Meaning
from ....records.files.claim import claimed
from ....records.files.sealed import read_json
from ....records.files.sealed_folder import seal_folder
from ....records.record import Metric, check_record_path, fingerprint, new_record, portable_path, save_record
from ...data.mlm_text import Sentences, read_sentences
from ...delta.masked_words import MaskedWordTrainer, accuracy, tokenised
from ...delta.prompting import check_masked_lm
from ...trainer.epoch_order import EpochOrder
from ...trainer.time_limit import Clock, seconds_of
from ...trainer.updates import training_steps
from ..chassis.arguments import ModelArguments, ResultArguments, option
from ..chassis.identity import identity_of
from ..chassis.log_levels import log_levels
from ..chassis.models import load_config, load_model, load_tokenizer
from ..chassis.output_folder import NotedSettings, begin, starting_point, training_settings
from ..chassis.parsing import parse, say
from ..chassis.places import check_model_folder


@dataclass
class MlmArguments:
    glue_dir: str | None = option(
        "folder with CoLA/, MRPC/ ...: their train.tsv is learnt from, and what their other sets have is "
        "left out; default: DSP_DATA_DIR/glue"
    )
    text_files: list[str] | None = option(
        "plain text, a sentence a line, training sides alone; default: DSP_DATA_DIR/multi30k/train.en"
    )
    left_out_files: list[str] | None = option(
        "plain text of which no sentence is learnt, such as development and test sets; default with that of "
        "--text_files: Multi30k's other English files"
    )
    max_minutes: Annotated[float, "positive"] = option(
        "the training ends after so many minutes, at a learning rate of 0; those before a resume count", 25.0
    )
    clock: str = option(
        "minutes of what: wall, or processor, those that the process has computed, where others share the "
        "machine",
        "wall",
        choices=["wall", "processor"],
    )
    held_out: Annotated[int, "count"] = option("training sentences that are kept for scoring", 1000)
    min_words: Annotated[int, "count"] = option("shorter sentences are not taken", 4)
    mask_share: Annotated[float, Meaning("a share, above 0 and below 1", 0, 1, True, True)] = option(
        "share of the tokens that are masked (of these 80 % by the mask token, 10 % by a random one)", 0.15
    )
    max_seq_length: Annotated[int, "count"] = option(
        "tokens a sentence has at most; what is longer is cut", 128
    )
    head_learning_rate: Annotated[float, "positive"] = option(
        "peak of the learning rate of the head's own weights; --learning_rate is all others'", 1e-3
    )


MlmArguments._argument_group_name = "Text and masks"  # type: ignore[attr-defined]


def pretrain(doc: str, argv: Sequence[str]) -> dict[str, float]:
    """Run the program: parse, read, score, train, score, record.

    Returns:
        accuracy of the masked words, in percent: {"before": ..., "after": ...}
    """
    model_options, text, results, args = parse(
        doc, [ModelArguments, MlmArguments, ResultArguments, TrainingArguments], argv
    )
    log_levels(args)
    _check(model_options, results, args)
    sources = _sources(text)
    with claimed("output_dir", args.output_dir):
        return _pretrain(model_options, text, results, args, sources)


def _pretrain(
    options: ModelArguments,
    text: MlmArguments,
    results: ResultArguments,
    args: TrainingArguments,
    sources: tuple[str | None, list[str], list[str]],
) -> dict[str, float]:
    sentences = read_sentences(*sources, text.held_out, text.min_words)
    data = fingerprint(sentences.files)
    settings = {
        "method": "masked-lm",
        "model": portable_path(options.source),
        "seed": args.seed,
        "train_data": data,
        **{name: getattr(text, name) for name in ("held_out", "min_words", "mask_share", "max_seq_length")},
        "head_learning_rate": text.head_learning_rate,
        **identity_of(options),
        **training_settings(args),
    }
    checkpoint = starting_point(args, settings, results.overwrite_output_dir)
    set_seed(args.seed)  # of the head, where it is new
    tokenizer = load_tokenizer(options)
    model, new = load_model(options, AutoModelForMaskedLM, load_config(options, {}))
    check_masked_lm(model)
    if tokenizer.mask_token_id is None:
        raise OptionError("tokenizer_name", "has no mask token")
    say_data(sentences, new)
    model.to(args.device)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=text.mask_share)
    held_out = tokenised(sentences.held_out, tokenizer, text.max_seq_length)
    before = accuracy(model, held_out, collate, args)
    say(f"masked words of {len(held_out):,} held-out sentences: {before:.2f} % before")
    now = time.process_time if text.clock == "processor" else time.monotonic
    clock = Clock(60 * text.max_minutes, seconds_of(checkpoint), now)
    args.remove_unused_columns = False  # the collator needs special_tokens_mask
    train = tokenised(sentences.train, tokenizer, text.max_seq_length)
    updates = training_steps(args, len(train))
    trainer = MaskedWordTrainer(
        model,
        args,
        train_dataset=train,
        data_collator=collate,
        processing_class=tokenizer,
        optimizers=_optimizers(model, args, text.head_learning_rate, clock, updates),
        callbacks=[clock, EpochOrder(), NotedSettings(settings)],
    )
    begin(args, settings, checkpoint, results.overwrite_output_dir)
    if clock.progress == 1.0:  # nothing is left to do, and the Trainer would make one more update
        args.max_steps, args.num_train_epochs = -1, 0
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = clock.seconds
    after = accuracy(model, held_out, collate, args)
    trainer.save_model()
    sealed = read_json(seal_folder(args.output_dir))["files"]
    record = new_record(
        "mlm-train",
        results.record_name or "masked words",
        results.method or "masked-lm",
        device=args.device,
        seed=args.seed,
        data=data,
        metrics=[
            Metric("accuracy of masked words", before, "%", subset="held out, before"),
            Metric("accuracy of masked words", after, "%", subset="held out, after"),
        ],
        seconds={"train": seconds},
        updates=trainer.state.global_step,
        extra={
            "model": options.source.split("/")[-1],
            "new_weights": new,
            "sentences": len(sentences.train),
            "held_out": len(held_out),
            "left_out_scored": sentences.scored,
            "files": sorted(f"{path.parent.name}/{path.name}" for path in sentences.files),
            "minutes": text.max_minutes,
            "clock": text.clock,
            "weights": {name: one["sha256"] for name, one in sealed.items() if "safetensors" in name},
        },
    )
    save_record(record, results.record_dir or args.output_dir)
    say(f"masked words of {len(held_out):,} held-out sentences: {after:.2f} % after")
    say(f"model and record: {args.output_dir}")
    return {"before": before, "after": after}


def say_data(sentences: Sentences, new: Sequence[str]) -> None:
    """Tell what is learnt from, and what of the model is new."""
    files = ", ".join(f"{path.parent.name}/{path.name}" for path in sentences.files)
    say(f"{len(sentences.train):,} training sentences of {files}")
    say(
        f"left out: {sentences.scored:,} that a development or test set has, {sentences.short:,} short ones, "
        f"{sentences.repeated:,} repeated; {len(sentences.held_out):,} are held out"
    )
    if new:
        say(f"the masked-LM head is new, but for its words, which are the embeddings: {', '.join(new)}")


def _check(options: ModelArguments, results: ResultArguments, args: TrainingArguments) -> None:
    if not args.output_dir:
        raise OptionError("output_dir", ": name a folder for the results")
    if args.world_size > 1 or args.n_gpu > 1:
        raise OptionError("max_minutes", "is the time of one process: start one alone")
    for name in ("deepspeed", "fsdp"):
        if getattr(args, name):
            raise OptionError(name, "does not go with a training of one process: leave it out")
    if args.eval_strategy != "no" or args.load_best_model_at_end:
        raise OptionError("eval_strategy", "must be no: the held-out sentences are scored before and after")
    if results.dry_run:
        raise OptionError(
            "dry_run", "is not for a training of a limited time: give a small {}", "max_minutes"
        )
    check_model_folder(options.model_name_or_path, args.output_dir, True)
    if results.record_dir:
        check_record_path("--record_dir", results.record_dir)


def _sources(text: MlmArguments) -> tuple[str | None, list[str], list[str]]:
    """Return glue_dir, the text files and those that are left out, as given or from DSP_DATA_DIR."""
    left_out = list(text.left_out_files or [])
    if text.glue_dir or text.text_files:
        return text.glue_dir, list(text.text_files or []), left_out
    root = os.environ.get("DSP_DATA_DIR")
    if not root:
        raise OptionError("text_files", "or {} is missing, and DSP_DATA_DIR is not set", "glue_dir")
    glue, captions = Path(root, "glue"), Path(root, "multi30k")
    files = [captions / "train.en"] if (captions / "train.en").is_file() else []
    others = sorted(path for path in captions.glob("*.en") if path.name != "train.en") if files else []
    if not files and not glue.is_dir():
        raise OptionError("text_files", f"or {{}} is missing: DSP_DATA_DIR={root} has neither", "glue_dir")
    return str(glue) if glue.is_dir() else None, list(map(str, files)), [*left_out, *map(str, others)]


def _optimizers(
    model: PreTrainedModel, args: TrainingArguments, head_rate: float, clock: Clock, updates: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Make AdamW with a rate for the head's own weights, and a schedule that is 0 at the end.

    The end is that of the time or of the updates, whichever is nearer.
    """
    body = {id(parameter) for parameter in model.base_model.parameters()}
    head = [parameter for parameter in model.parameters() if id(parameter) not in body]
    groups = [
        {"params": list(model.base_model.parameters()), "lr": args.learning_rate},
        {"params": head, "lr": head_rate},
    ]
    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=args.adam_epsilon, weight_decay=args.weight_decay)
    warm_up = args.warmup_steps or 0

    def factor(update: int) -> float:
        progress = max(clock.progress, update / updates)
        rising = progress / warm_up if 0 < warm_up < 1 else (update + 1) / max(warm_up, 1)
        return min(rising, 1.0) * max(1.0 - progress, 0.0)

    return optimizer, LambdaLR(optimizer, factor)
