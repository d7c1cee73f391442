"""The methods after DSP in the programs on Transformers: trained, resumed with the same end, scored alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from glue_folders import write_task
from hf_programs import mnli, start, write_bert
from safetensors.torch import load_file

from dsp_plugin.records.record import load_record

K = 3

# name: (program, its options, the method's name in the record)
METHODS = {
    "simple": ("glue/run_dsp", "--sampler simple --mask_samples 2 --pruning_lr 0.5", "dsp-simple"),
    "lagrangian": (
        "glue/run_voita",
        "--closing lagrangian --closing_updates 4 --pruning_lr 0.5",
        "voita-lagrangian",
    ),
    # gates are at -5 and 5 when the second round begins
    "passconc": (
        "glue/run_voita",
        "--closing pass --concentrate --closing_updates 2 --round_updates 2 --pruning_lr 5",
        "voita-passconc",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """bert/ (untrained) and MNLI/."""
    folder = tmp_path_factory.mktemp("later-methods")
    write_bert(folder / "bert")
    write_task(folder / "MNLI", "MNLI", train=48, dev=6)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_ends_as_an_uninterrupted_one_and_is_scored_alone(method, folder):
    program, options, name = METHODS[method]
    words = [*mnli(folder), "--do_train", "--max_steps", 6, "--save_steps", 3, "--num_of_heads", K]
    words += ["--joint_pruning", "--no_pruned", *options.split()]
    whole, halved = folder / method, folder / f"{method}-halved"
    start(program, *words, "--output_dir", whole)
    assert load_record(whole / "results.json").method == name
    shutil.copytree(whole, halved)
    shutil.rmtree(halved / "checkpoint-6")
    start(program, *words, "--output_dir", halved)
    states = [load_file(one / "model.safetensors") for one in (whole, halved)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    again = folder / f"{method}-again"
    words = ["--do_eval", "--num_of_heads", K, "--no_pruned", "--output_dir", again]
    start(program, *mnli(folder, method), *words)
    masks = [json.loads((one / "mask.json").read_text())["keep"] for one in (whole, again)]
    assert masks[0] == masks[1] and sum(masks[0]) == K
    assert load_record(again / "dev_matched" / "results.json").method == name
