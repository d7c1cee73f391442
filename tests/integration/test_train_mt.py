"""Training by the real command lines: joint, straight-through, pipelined; resumed, killed, in two
processes, by Hydra.
"""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import checkpoint_utils
from fairseq.sequence_generator import SequenceGenerator
from fairseq_commands import PACKAGE, Command, run
from fairseq_models import batch
from fairseq_training import (
    BLEU,
    DSP,
    JOINT,
    PIPELINED,
    K,
    assert_same,
    checkpoint,
    train,
    train_in_two_processes,
    updates,
    validations,
    weights_recorder,
)

SCORES = "gating.gates.scores"


def scores_group(state):
    """(number of the scores' group, its options) in the optimizer state of a checkpoint."""
    groups = state["last_optimizer_state"]["param_groups"]
    (number,) = [i for i, group in enumerate(groups) if "constant_lr" in group]
    return number, groups[number]


def kept(state) -> torch.Tensor:
    """[K] the heads with the K largest scores, sorted."""
    return state["model"][SCORES].topk(K).indices.sort().values


def load(path):
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    return models[0], task


def loss_by_hand(model, sample, pad: int) -> float:
    """Label-smoothed cross-entropy in bits a token, as fairseq defines it, smoothing 0.1."""
    with torch.no_grad():
        log_probs = model(**sample["net_input"])[0].double().log_softmax(-1)
    target = sample["target"]
    smoothing = 0.1 / (log_probs.size(-1) - 1)
    nll = -log_probs.gather(-1, target[..., None]).squeeze(-1)
    loss = (1 - 0.1 - smoothing) * nll - smoothing * log_probs.sum(-1)
    real = target != pad
    return float(loss[real].sum() / real.sum() / torch.tensor(2.0).log())


# ---- joint


def test_joint_training_logs_what_the_gates_do(joint_run):
    logged = updates(joint_run[1])
    assert [int(line["num_updates"]) for line in logged] == [1, 2, 3, 4, 5, 6]
    # update n is made at the temperature of n - 1 updates: 1 to 0.01 in 4
    temperatures = [float(line["temperature"]) for line in logged]
    assert temperatures == pytest.approx([1, 10**-0.5, 0.1, 10**-1.5, 0.01, 0.01], rel=1e-4)
    for line in logged:
        assert 0 <= float(line["heads_open"]) <= 24 and 0 <= float(line["gate_entropy"]) <= 1
    assert float(logged[-1]["heads_open"]) == K  # cold: hard
    assert float(logged[-1]["gate_entropy"]) < float(logged[0]["gate_entropy"])


def test_validation_logs_no_sample_of_training(joint_run):
    """The mask is all that validation uses: the gates last drawn in training are none of its figures."""
    for line in validations(joint_run[1]):
        assert not {
            name for name in line if "heads_open" in name or "entropy" in name or "temperature" in name
        }


def test_scores_keep_their_learning_rate_while_the_schedule_moves(joint_run):
    rates = [float(line["lr"]) for line in updates(joint_run[1])]
    assert rates == pytest.approx(
        [2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3 * (4 / 5) ** 0.5, 1e-3 * (4 / 6) ** 0.5], rel=1e-4
    )
    state = checkpoint(joint_run[0])
    number, group = scores_group(state)
    assert group["lr"] == 0.2 and group["weight_decay"] == 0.0 and len(group["params"]) == 1
    other = state["last_optimizer_state"]["param_groups"][1 - number]
    assert other["lr"] == pytest.approx(rates[-1], rel=1e-4) and other["weight_decay"] == 1e-4


def test_validation_uses_the_hard_mask(joint_run):
    folder, printed = joint_run
    model, task = load(folder / "checkpoint_last.pt")
    model.eval()
    sample, pad = batch(task, sentences=16), task.target_dictionary.pad()
    assert int(model.gating.gates.keep().sum()) == K
    logged = float(validations(printed)[-1]["valid_loss"])
    assert loss_by_hand(model, sample, pad) == pytest.approx(logged, abs=6e-4)  # three decimals are logged
    # and another mask would show
    with model.gating.override(torch.ones(24)):
        assert abs(loss_by_hand(model, sample, pad) - logged) > 2e-3


def test_checkpoint_best_is_chosen_by_bleu(joint_run):
    folder, printed = joint_run
    bleu = [float(line["valid_bleu"]) for line in validations(printed)]
    assert len(bleu) == 2
    assert checkpoint(folder, "checkpoint_best.pt")["extra_state"]["best"] == max(bleu)


def test_a_resumed_training_equals_an_uninterrupted_one(tiny_data, joint_run, tmp_path):
    folder, uninterrupted = joint_run
    first = train(tiny_data, tmp_path, *JOINT, *BLEU, "--max-update", 3).succeeded()
    assert checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] == 3
    second = train(tiny_data, tmp_path, *JOINT, *BLEU, "--max-update", 6).succeeded()

    def figures(lines):
        return [
            {name: line[name] for name in ("num_updates", "loss", "temperature", "heads_open", "lr", "gnorm")}
            for line in lines
        ]

    assert figures(updates(first) + updates(second)) == figures(updates(uninterrupted))
    resumed, expected = checkpoint(tmp_path), checkpoint(folder)
    assert_same(resumed["model"], expected["model"], "model")
    assert_same(resumed["last_optimizer_state"], expected["last_optimizer_state"], "optimizer")
    number, group = scores_group(resumed)
    moments = resumed["last_optimizer_state"]["state"][group["params"][0]]
    assert moments["step"] == 6 and moments["exp_avg_sq"].abs().max() > 0


def test_killed_at_any_moment_it_goes_on(tiny_data, tmp_path):
    """Saving after every update, so that a kill most likely meets a save."""
    flags = [*JOINT, "--save-interval-updates", 1, "--keep-interval-updates", 1, "--disable-validation"]
    running = Command(
        "fairseq_cli.train", [tiny_data, "--save-dir", tmp_path, *flags, "--max-update", 5000], tmp_path
    )
    last = tmp_path / "checkpoint_last.pt"
    deadline = time.time() + 120
    while not last.exists():
        assert time.time() < deadline and running.process.is_alive(), running.log.read_text()
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    done = checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"]
    again = train(tiny_data, tmp_path, *flags, "--max-update", done + 2).succeeded()
    assert f"@ {done} updates)" in again.output
    assert [int(line["num_updates"]) for line in updates(again)] == [done + 1, done + 2]
    expected = [0.01 ** (min(n, 4) / 4) for n in (done, done + 1)]
    assert [float(line["temperature"]) for line in updates(again)] == pytest.approx(expected, rel=1e-4)


def test_generation_uses_the_mask(tiny_data, joint_run, tmp_path):
    """Plain `fairseq-generate --user-dir` deploys the K best heads: the same tokens as the model in
    evaluation mode.
    """
    folder, _ = joint_run
    arguments = [
        tiny_data,
        "--user-dir",
        PACKAGE,
        "--task",
        "dsp_translation",
        "--path",
        folder / "checkpoint_last.pt",
    ]
    arguments += [
        "--beam",
        5,
        "--cpu",
        "--max-len-a",
        1.2,
        "--max-len-b",
        10,
        "--no-progress-bar",
        "--num-workers",
        0,
    ]
    printed = run("fairseq_cli.generate", arguments, tmp_path).succeeded().output
    found = {
        int(f[0][2:]): f[2].split()
        for f in (line.split("\t") for line in printed.splitlines())
        if f[0][:2] == "H-"
    }
    assert sorted(found) == list(range(12))
    model, task = load(folder / "checkpoint_last.pt")
    model.eval()
    search = SequenceGenerator([model], task.target_dictionary, beam_size=5, max_len_a=1.2, max_len_b=10)
    sample = batch(task, sentences=12, split="test")
    for number, hypotheses in zip(sample["id"].tolist(), search.generate([model], sample)):
        assert task.target_dictionary.string(hypotheses[0]["tokens"]).split() == found[number]


# ---- the other ways to train


def test_straight_through(tiny_data, tmp_path):
    flags = [*DSP, "--num-of-heads", K, "--joint-pruning", "--use-ste", "--max-update", 3]
    logged = updates(train(tiny_data, tmp_path, *flags).succeeded())
    assert [float(line["heads_open"]) for line in logged] == [K] * 3
    assert "temperature" not in logged[0]
    state = checkpoint(tmp_path)
    fresh, _ = load(tmp_path / "checkpoint_last.pt")
    assert torch.equal(fresh.gating.gates.scores.detach(), state["model"][SCORES])
    _, group = scores_group(state)
    # every head learns
    assert state["last_optimizer_state"]["state"][group["params"][0]]["exp_avg_sq"].abs().min() > 0


def test_pipelined_from_a_model_of_stock_fairseq(tiny_data, stock_run, tmp_path):
    """Only the scores learn, from T0 on, and the same command started again goes on where it stood."""
    flags = [*PIPELINED, "--finetune-from-model", stock_run / "checkpoint_last.pt"]
    first = train(tiny_data, tmp_path, *flags, "--max-update", 2).succeeded()
    start = checkpoint(tmp_path)["model"][SCORES]
    again = train(tiny_data, tmp_path, *flags, "--max-update", 4).succeeded()
    logged = updates(first) + updates(again)
    assert [int(line["num_updates"]) for line in logged] == [1, 2, 3, 4]
    assert [float(line["temperature"]) for line in logged] == pytest.approx(
        [1, 10**-0.5, 0.1, 10**-1.5], rel=1e-4
    )
    state = checkpoint(tmp_path)
    assert not torch.equal(state["model"].pop(SCORES), start)
    assert_same(dict(state["model"]), dict(checkpoint(stock_run)["model"]), "model")
    assert [g["lr"] for g in state["last_optimizer_state"]["param_groups"]] == [0.2]


def test_pipelined_by_the_reference_flags(tiny_data, stock_run, tmp_path):
    """--restore-file with --reset-optimizer, as the paper's authors gave them: counted from 0, so T starts
    at T0.
    """
    flags = [
        *PIPELINED,
        "--reset-optimizer",
        "--restore-file",
        stock_run / "checkpoint_last.pt",
        "--max-update",
        2,
    ]
    done = train(tiny_data, tmp_path, *flags).succeeded()
    assert [float(line["temperature"]) for line in updates(done)] == pytest.approx([1, 10**-0.5], rel=1e-4)
    weights = {name: value for name, value in checkpoint(tmp_path)["model"].items() if name != SCORES}
    assert_same(weights, dict(checkpoint(stock_run)["model"]), "model")


def test_a_cooldown_longer_than_the_run_is_said_loudly_and_once(tiny_data, tmp_path):
    printed = train(tiny_data, tmp_path, *JOINT, "--cooldown-steps", 16, "--max-epoch", 2).succeeded().output
    warnings = [line for line in printed.splitlines() if "THE COOL-DOWN WILL NOT END" in line]
    assert len(warnings) == 1
    # 2 epochs of 4 updates, half of the cool-down: the geometric mean of 1 and 0.01
    assert "it takes 16 updates, the training has 8" in warnings[0]
    assert "ends at 0.1, not at 0.01" in warnings[0] and "Give --cooldown-steps that" in warnings[0]
    assert printed.index("THE COOL-DOWN") < printed.index("begin training epoch 1")


def test_two_processes_train_one_model(tiny_data, tmp_path):
    """Nothing random (no dropout, straight-through): equal to one process with batches twice as large."""
    flags = [*DSP, "--num-of-heads", K, "--joint-pruning", "--use-ste", "--dropout", 0, "--max-update", 3]
    for rank in train_in_two_processes(
        tiny_data, tmp_path / "two", *flags, "--batch-size", 15, program=weights_recorder(tmp_path)
    ):
        rank.succeeded()
    rank0, rank1 = (torch.load(tmp_path / f"two/rank{r}/weights.pt") for r in range(2))
    assert_same(dict(rank0), dict(rank1), "weights")
    assert_same(dict(checkpoint(tmp_path / "two")["model"]), dict(rank0), "checkpoint")
    train(tiny_data, tmp_path / "one", *flags, "--batch-size", 15, "--update-freq", 2).succeeded()
    one = checkpoint(tmp_path / "one")
    for name, value in one["model"].items():
        torch.testing.assert_close(rank0[name], value, atol=2e-5, rtol=1e-4, msg=lambda m: f"{name}: {m}")
    assert torch.equal(kept(one), kept({"model": rank0}))


def test_two_processes_with_random_gates_agree(tiny_data, tmp_path):
    """Annealed sampling and dropout: the ranks still end with the same weights, scores and mask, and can
    resume.
    """
    for updates_made in (2, 3):
        flags = [*JOINT, "--batch-size", 15, "--max-update", updates_made]
        for rank in train_in_two_processes(
            tiny_data, tmp_path / "two", *flags, program=weights_recorder(tmp_path)
        ):
            rank.succeeded()
        rank0, rank1 = (torch.load(tmp_path / f"two/rank{r}/weights.pt") for r in range(2))
        assert_same(dict(rank0), dict(rank1), "weights")
    assert checkpoint(tmp_path / "two")["optimizer_history"][-1]["num_updates"] == 3


def hydra(data, folder, *overrides: str):
    arguments = [
        "--config-dir",
        PACKAGE / "config",
        "--config-name",
        "dsp_multi30k",
        f"common.user_dir={PACKAGE}",
    ]
    arguments += [
        f"task.data={data}",
        f"checkpoint.save_dir={folder}",
        "common.cpu=true",
        "dataset.num_workers=0",
    ]
    arguments += [
        f"model.{side}_{size}=16"
        for side in ("encoder", "decoder")
        for size in ("embed_dim", "ffn_embed_dim")
    ]
    arguments += ["optimization.max_update=2", "common.log_interval=1", "common.log_format=json"]
    return run("fairseq_cli.hydra_train", [*arguments, *overrides], folder)


def test_hydra_train(tiny_data, tmp_path):
    schedule = ["model.initial_temperature=0.1", "model.final_temperature=1e-8", "model.cooldown_steps=1000"]
    schedule += ["model.num_of_heads=9", "model.pruning_lr=0.3", "model.pruning_warmup_updates=0"]
    logged = updates(hydra(tiny_data, tmp_path, *schedule).succeeded())
    assert [float(line["temperature"]) for line in logged] == pytest.approx(
        [0.1, 0.1 * 1e-7**0.001], rel=1e-3
    )
    state = checkpoint(tmp_path)
    assert state["model"][SCORES].shape == (36,) and scores_group(state)[1]["lr"] == 0.3
    model, _ = load(tmp_path / "checkpoint_last.pt")
    assert int(model.gating.gates.keep().sum()) == 9


# ---- reduced precision, as far as a CPU can show it; --amp and --fp16 on a GPU are untested here


def assert_only_scores_are_exact(weights, half: torch.dtype) -> None:
    """fairseq writes half-precision weights as float32: what they were shows in their values."""
    for name, value in weights.items():
        if value.is_floating_point() and "version" not in name and "_float_tensor" not in name:
            rounded = torch.equal(value.to(half).float(), value)
            assert rounded != (name == SCORES), name


def test_bfloat16_by_hydra(tiny_data, tmp_path):
    hydra(tiny_data, tmp_path, "common.bf16=true").succeeded()
    assert_only_scores_are_exact(checkpoint(tmp_path)["model"], torch.bfloat16)


@pytest.mark.parametrize(
    "flags", [["--fp16", "--fp16-no-flatten-grads"], ["--memory-efficient-fp16"]], ids=["fp16", "memory"]
)
def test_float16_keeps_scores_exact_and_resumes(tiny_data, tmp_path, flags):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_data, whole, *JOINT, *flags, "--max-update", 3).succeeded()
    for updates_made in (2, 3):
        train(tiny_data, parts, *JOINT, *flags, "--max-update", updates_made).succeeded()
    expected, resumed = checkpoint(whole), checkpoint(parts)
    assert_only_scores_are_exact(expected["model"], torch.float16)
    assert scores_group(expected)[1]["lr"] == scores_group(resumed)[1]["lr"] == 0.2
    if "--fp16" in flags:
        # fairseq drops its float32 master copies of the weights at a restart: the same up to that rounding
        torch.testing.assert_close(resumed["model"][SCORES], expected["model"][SCORES], atol=0.05, rtol=0)
    else:
        assert_same(dict(resumed["model"]), dict(expected["model"]), "model")


def test_amp_on_a_cpu_trains_in_float32(tiny_data, tmp_path):
    train(tiny_data, tmp_path / "amp", *JOINT, "--amp", "--max-update", 2).succeeded()
    train(tiny_data, tmp_path / "plain", *JOINT, "--max-update", 2).succeeded()
    amp, plain = (checkpoint(tmp_path / name)["model"] for name in ("amp", "plain"))
    for name in plain:
        torch.testing.assert_close(amp[name], plain[name], msg=lambda m: f"{name}: {m}")
