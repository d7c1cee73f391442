"""Checkpoints that want more than to be read: code in options and pickles, senseless types and sizes."""

from __future__ import annotations

import copy
import os
import random
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq_training import JOINT, train, write_corpus
from fuzz_trials import Trial, digest, outcome_of

from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.translate.translate import load_model, translation_task

# models of fairseq that nobody has asked for
MODELS = [
    "fconv",
    "lightconv",
    "lstm",
    "transformer_lm",
    "roberta",
    "bart_large",
    "levenshtein_transformer",
    "wav2vec2",
    "no_such",
]
SECTIONS = [
    "model",
    "task",
    "common",
    "criterion",
    "optimizer",
    "generation",
    "checkpoint",
    "dataset",
    "bpe",
    "tokenizer",
]


def trials(folder: Path, rng: random.Random) -> Iterator[Trial]:
    """A good checkpoint with one thing changed, read by our own loader, and built by fairseq's as for
    translating.
    """
    data, good = made(folder)
    path, ran = folder / "model.pt", folder / "it-ran"
    task = translation_task(str(data), None)
    readers: dict[str, Callable[[], Any]] = {
        "load_checkpoint": lambda: _plain(load_checkpoint(str(path))),
        "fairseq": lambda: {name: value for name, value in load_model(str(path), task).state_dict().items()},
    }
    torch.save(good, path)
    wanted = {}
    for name, read in readers.items():
        found = outcome_of(read)
        assert found.kind == "value", found
        wanted[name] = found.text
    while True:
        change = rng.choice(CHANGES)
        state = copy.deepcopy(good)
        name = change(state, rng, f"__import__('os').mkdir({str(ran)!r})", ran)
        torch.save(state, path)
        for reader, read in readers.items():
            # our own loader gives back plain values, whatever they are; a model is the good one or none
            # of options that no model takes, the loader leaves some out: what it must not do is act on them
            as_it_is = (change is not big or "nested" in name) and _is_plain(_plain(state))
            accepted = wanted[reader] if reader == "fairseq" else digest(_plain(state)) if as_it_is else None
            yield Trial(f"{name}, by {reader}", read, accepted, ran)


def made(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A binarised corpus, and what the checkpoint of a short training on it holds."""
    data = write_corpus(folder)
    train(data, folder / "run", *JOINT, "--max-update", 2).succeeded()
    return data, load_checkpoint(str(folder / "run" / "checkpoint_last.pt"))


def _plain(state: Any) -> Any:
    return {key: state[key] for key in ("model", "optimizer_history", "extra_state") if key in state}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor, np.float64))


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, ran: Path):
        self.ran = str(ran)

    def __reduce__(self):
        return os.mkdir, (self.ran,)


def option_code(state: dict[str, Any], rng: random.Random, code: str, ran: Path) -> str:
    section = state["cfg"].get(rng.choice(SECTIONS))
    section = section if isinstance(section, dict) and section else state["cfg"]["model"]
    name = rng.choice(
        [*section, "encoder_xformers_att_config", "adaptive_softmax_cutoff", "decoder_xformers_att_config"]
    )
    section[name] = rng.choice(
        [code, [code], {"a": code}, f"[({code})]", "${oc.env:HOME}", "${oc.decode:'" + "1'}", f"({code},)"]
    )
    return f"option {name} = {section[name]!r:.60}"


def another_model(state: dict[str, Any], rng: random.Random, code: str, ran: Path) -> str:
    model = state["cfg"]["model"]
    model["_name"] = rng.choice(MODELS)
    model["arch"] = model["_name"]
    for side in ("encoder", "decoder"):
        model[f"{side}_layers"] = rng.choice([code, f"[({code}, 3)]", 2])
    return f"model {model['_name']}"


def old_format(state: dict[str, Any], rng: random.Random, code: str, ran: Path) -> str:
    options = {
        **state["cfg"]["model"],
        "arch": rng.choice(["dsp_transformer", *MODELS]),
        "task": "translation",
    }
    name = rng.choice([*options, "encoder_xformers_att_config", "user_dir"])
    options[name] = rng.choice([code, [code], str(ran)])
    state["cfg"], state["args"] = None, Namespace(**options)
    return f"old format, {name} = {options[name]!r:.60}"


def wrong_type(state: dict[str, Any], rng: random.Random, code: str, ran: Path) -> str:
    model = state["cfg"]["model"]
    name = rng.choice(list(model))
    model[name] = rng.choice(
        [
            -1,
            10**9,
            10**30,
            float("nan"),
            "text",
            [],
            {},
            [[1]],
            None,
            True,
            "0" * 10**6,
            b"bytes",
            {"_name": "x"},
        ]
    )
    return f"option {name} = {model[name]!r:.40}"


def pickled(state: dict[str, Any], rng: random.Random, code: str, ran: Path) -> str:
    section = rng.choice(
        [state, state["model"], state["extra_state"], state["optimizer_history"][0], state["cfg"]]
    )
    name = rng.choice(list(section))
    section[name] = rng.choice([Trap(ran), [Trap(ran)], {"a": (Trap(ran),)}])
    return f"pickled code at {name}"


def big(state: dict[str, Any], rng: random.Random, code: str, ran: Path) -> str:
    weights = state["model"]
    name = rng.choice([name for name in weights if weights[name].dim() == 2])
    kinds: list[tuple[str, Callable[[], Any]]] = [
        ("expanded", lambda: torch.zeros(1).expand(10**5, 10**5)),
        ("strided", lambda: torch.zeros(16).as_strided((10**6, 10**6), (0, 0))),
        ("on meta", lambda: torch.empty(10**6, 10**6, device="meta")),
        (
            "sparse",
            lambda: torch.sparse_coo_tensor(
                torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6), check_invariants=True
            ),
        ),
        ("nested", lambda: _nested(200_000)),
        ("doubled", lambda: _doubled(40)),
        ("an object array", lambda: np.array([1, "a", None], dtype=object)),
        ("a text array", lambda: np.array(["a" * 1000] * 3)),
        ("a structured array", lambda: np.zeros(3, dtype=[("a", "f8"), ("b", "i4")])),
    ]
    label, make = rng.choice(kinds)
    value = make()
    if isinstance(value, torch.Tensor) and rng.random() < 0.5:
        weights[name] = value
    else:
        state["extra_state"][rng.choice(["train_iterator", "best", "new"])] = value
    return f"a value that is {label}"


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(min(depth, 300)):  # what the pickler itself can write
        value = [value]
    return value


def _doubled(times: int) -> Any:
    """2^times elements by references."""
    value: Any = [1.0]
    for _ in range(times):
        value = [value, value]
    return value


CHANGES = [option_code, option_code, another_model, old_format, wrong_type, pickled, big]
