"""Voita's gates by the command lines a user types: joint, pipelined, resumed, in two processes,
translated, pruned, refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, run
from fairseq_training import (
    BLEU,
    SETTINGS,
    SIZES,
    STOCK,
    assert_same,
    checkpoint,
    train,
    train_in_two_processes,
    updates,
    weights_recorder,
)

from dsp_plugin.cli.main import main
from dsp_plugin.gating.methods.recipe import LEAST_UPDATES
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task
from dsp_plugin.records.kept_heads import mask_of

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/mt"
SCORES = "gating.gates.scores"
N = 24
# as the reference's commands have them: stock names, no --joint-pruning
REFERENCE = STOCK
PENALTY = ["--l0-penalty", 200]
PLAIN = [
    *(
        "--user-dir",
        PACKAGE,
        "--task",
        "voita_translation",
        "--arch",
        "voita_transformer",
        "--optimizer",
        "dsp_adam",
    ),
    *("--criterion", "voita_label_smoothed_cross_entropy", *SIZES, *SETTINGS),
]


def run_voita(data, save_dir, *flags):
    return run(str(SCRIPTS / "run_voita.py"), [data, "--save-dir", save_dir, *REFERENCE, *flags], save_dir)


def generate(data, folder, path, *flags):
    """The record of generate_voita.py and its mask."""
    search = ["--beam", 2, "--max-len-b", 10, "--quiet", "--cpu", "--num-workers", 0, "--record-dir", folder]
    run(str(SCRIPTS / "generate_voita.py"), [data, "--path", path, *search, *flags], folder).succeeded()
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("results", "mask")]


def log_a(save_dir) -> torch.Tensor:
    return checkpoint(save_dir)["model"][SCORES]


@pytest.fixture(scope="module")
def voita_run(tiny_data, tmp_path_factory):
    """(save folder, what was printed) of a joint training without a budget, 4 updates."""
    folder = tmp_path_factory.mktemp("voita")
    flags = [*PENALTY, "--pruning-lr", 0.1, "--keep-best-checkpoints", 1, *BLEU, "--max-update", 4]
    return folder, run_voita(tiny_data, folder, *flags).succeeded()


@pytest.fixture(scope="module")
def pipelined_run(tiny_data, stock_run, tmp_path_factory):
    """(save folder, what was printed) of 3 updates of the gates alone, 6 heads to stay."""
    folder = tmp_path_factory.mktemp("voita-pipelined")
    flags = [
        *PENALTY,
        "--pruning-lr",
        0.1,
        "--num-of-heads",
        6,
        "--finetune-from-model",
        stock_run / "checkpoint_last.pt",
    ]
    return folder, run_voita(
        tiny_data, folder, *flags, "--max-update", 3, "--record-name", "tiny"
    ).succeeded()


def test_joint_without_a_budget(voita_run):
    folder, done = voita_run
    assert "model and gates are trained together (--joint-pruning)" in done.output
    logged, scores = updates(done), log_a(folder)
    expected = [float(line["expected_open"]) for line in logged]
    assert len(expected) == 4 and expected == sorted(expected, reverse=True)  # the penalty closes heads
    kept = int((scores > 0).sum())
    assert 0 < kept < N
    assert f"--l0-penalty 200 kept {kept} of {N} heads" in done.output
    record = json.loads((folder / "results.json").read_text())
    assert record["method"] == "voita-joint" and record["extra"]["checkpoint"] == "checkpoint_last.pt"
    assert mask_of(record["heads"]) == (scores > 0).tolist()
    assert record["extra"]["history"][-1] == {"updates": 4, "keep": (scores > 0).int().tolist()}
    # heads were deployed by the mask in validation, and the weights have learnt too
    assert list(folder.glob("checkpoint.best_bleu_*.pt"))
    assert checkpoint(folder)["last_optimizer_state"]["param_groups"][1]["lr"] == 0.1


def test_a_resumed_training_equals_an_uninterrupted_one(tiny_data, voita_run, tmp_path):
    flags = [*PENALTY, "--pruning-lr", 0.1, "--keep-best-checkpoints", 1, *BLEU]
    for updates_made in (2, 4):
        run_voita(tiny_data, tmp_path, *flags, "--max-update", updates_made).succeeded()
    resumed, expected = checkpoint(tmp_path), checkpoint(voita_run[0])
    assert_same(resumed["model"], expected["model"], "model")
    assert_same(resumed["last_optimizer_state"], expected["last_optimizer_state"], "optimizer")


def test_pipelined_with_a_budget(stock_run, pipelined_run):
    folder, done = pipelined_run
    assert "trained together" not in done.output
    state, start = checkpoint(folder), checkpoint(stock_run)["model"]
    scores = state["model"].pop(SCORES)
    assert_same(dict(state["model"]), dict(start), "model")
    assert state["last_optimizer_state"]["state"][0]["exp_avg_sq"].min() > 0  # every gate learns
    record = json.loads((folder / "results.json").read_text())
    assert (record["name"], record["method"], record["heads"]["kept"]) == ("tiny", "voita-pipelined", 6)
    assert {i for i, keep in enumerate(mask_of(record["heads"])) if keep} == set(
        scores.topk(6).indices.tolist()
    )
    assert "the budget deploys exactly 6" in done.output


def test_generation_deploys_the_mask_or_another_budget(tiny_data, voita_run, tmp_path):
    folder, scores = voita_run[0], log_a(voita_run[0])
    path = folder / "checkpoint_last.pt"
    record, mask = generate(tiny_data, tmp_path / "own", path)
    assert record["method"] == "voita" and record["metrics"][0]["name"] == "BLEU"
    assert mask["keep"] == (scores > 0).tolist()
    record, mask = generate(tiny_data, tmp_path / "three", path, "--num-of-heads", 3)
    three = set(scores.topk(3).indices.tolist())
    assert {i for i, keep in enumerate(mask["keep"]) if keep} == three
    # plain fairseq's way of asking
    model = load_model(str(path), translation_task(str(tiny_data), "test"), {"num_of_heads": 3})
    assert set(model.gating.gates.keep().nonzero().flatten().tolist()) == three


def test_plain_fairseq(tiny_data, tmp_path):
    train(tiny_data, tmp_path, *PLAIN, *PENALTY, "--joint-pruning", "--max-update", 1).succeeded()
    rates = [group["lr"] for group in checkpoint(tmp_path)["last_optimizer_state"]["param_groups"]]
    assert rates[0] == rates[1]  # no --pruning-lr: the gates follow the schedule
    arguments = [
        tiny_data,
        "--user-dir",
        PACKAGE,
        "--path",
        tmp_path / "checkpoint_last.pt",
        "--cpu",
        "--max-len-b",
        5,
    ]
    printed = run("fairseq_cli.generate", [*arguments, "--num-workers", 0], tmp_path).succeeded().output
    assert "Generate test" in printed


@pytest.mark.parametrize("which", ["voita_run", "pipelined_run"], ids=["no-budget", "budget"])
def test_pruned_and_exported_checkpoints_translate_as_the_masked_one(
    tiny_data, tmp_path, request, which, monkeypatch
):
    import fairseq.utils

    # stock attention works its softmax out in single precision
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    masked = request.getfixturevalue(which)[0] / "checkpoint_last.pt"
    small, stock = tmp_path / "small.pt", tmp_path / "stock.pt"
    assert main(["prune", str(masked), "--out", str(small)]) == 0
    assert main(["export", str(masked), "--out", str(stock)]) == 0
    task = translation_task(str(tiny_data), "test")
    models = [load_model(str(path), task).double() for path in (masked, small, stock)]
    # 24 heads of 4 rows in three projections with biases, 4 columns in one
    dead = int((~models[0].gating.gates.keep()).sum())
    count = [
        sum(p.numel() for name, p in m.named_parameters() if not name.startswith("gating.")) for m in models
    ]
    assert count[0] - count[1] == dead * (4 * 16 * 4 + 3 * 4) and count[2] == count[0]
    one, *others = (
        [(t.tokens, round(t.score, 5)) for t in translate(m, task, "test", beam=3, max_len_b=12)]
        for m in models
    )
    assert one == others[0] == others[1]
    assert type(models[2]).__module__.startswith("fairseq.")
    cfg = torch.load(stock)["cfg"]
    stock_names = ["transformer", "translation", "label_smoothed_cross_entropy", "adam"]
    assert [cfg[section]["_name"] for section in ("model", "task", "criterion", "optimizer")] == stock_names
    assert "l0_penalty" not in repr(cfg) and "Voita" not in repr(torch.load(stock)["optimizer_history"])


def test_a_penalty_that_closes_every_head(tiny_data, tmp_path):
    done = run_voita(
        tiny_data, tmp_path, "--l0-penalty", 1e5, "--pruning-lr", 1, "--max-update", 3
    ).succeeded()
    assert f"kept 0 of {N} heads" in done.output and "EVERY HEAD IS CLOSED: lower --l0-penalty" in done.output
    assert "valid_loss" in done.output and torch.isfinite(log_a(tmp_path)).all()


def test_two_processes_agree(tiny_data, tmp_path):
    flags = [*PLAIN, *PENALTY, "--pruning-lr", 0.1, "--joint-pruning", "--batch-size", 15, "--max-update", 3]
    for rank in train_in_two_processes(
        tiny_data, tmp_path / "two", *flags, program=weights_recorder(tmp_path)
    ):
        rank.succeeded()
    rank0, rank1 = (dict(torch.load(tmp_path / f"two/rank{r}/weights.pt")) for r in range(2))
    assert_same(rank0, rank1, "weights")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--num-of-heads", 3, "--pruning-lr", 0.1],
            "run_voita.py: error: --num-of-heads and --heads-per-kind need --l0-penalty LAMBDA",
        ),
        (
            ["--num-of-heads", 3],
            f"run_voita.py: error: --pruning-schedule auto needs {LEAST_UPDATES} updates at least, the "
            "training has 1",
        ),
        (["--l0-penalty", "nan"], "run_voita.py: error: --l0-penalty nan: a finite number, 0 or more"),
        (
            [*PENALTY, "--restore-file", "/nowhere/model.pt"],
            "run_voita.py: error: --restore-file /nowhere/model.pt: no such file",
        ),
    ],
    ids=["budget-alone", "too-short", "nan", "no-such-file"],
)
def test_what_cannot_be_is_refused_in_one_line(tiny_data, tmp_path, flags, message):
    done = run_voita(tiny_data, tmp_path, *flags, "--max-update", 1)
    assert done.failed().strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in done.output and not list(tmp_path.glob("*.pt"))


def test_run_dsp_refuses_in_one_line_too(tiny_data, tmp_path):
    arguments = [
        tiny_data,
        "--save-dir",
        tmp_path,
        *REFERENCE,
        "--num-of-heads",
        25,
        "--joint-pruning",
        "--max-update",
        1,
    ]
    done = run(str(SCRIPTS / "run_dsp.py"), arguments, tmp_path)
    assert (
        done.failed()
        .strip()
        .splitlines()[-1]
        .startswith("run_dsp.py: error: --num-of-heads must be a whole number in 0..24")
    )
    assert "Traceback" not in done.output
