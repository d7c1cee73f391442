"""The optimizer's state: resumed is uninterrupted, and what does not belong is refused."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from diff_models import HEAD, tiny, train_step
from safetensors import safe_open
from safetensors.torch import save_file

from dsp_plugin.diffs.training.optimizer import DiffAdamW
from dsp_plugin.diffs.training.vector import DiffVector
from dsp_plugin.diffs.training.vector_file import read_vector, save_vector

PENALTY = 1e-3


def started(base, seed=5, **options):
    model = tiny()
    model.load_state_dict(base)
    vector = DiffVector(model, base=base, task_head=HEAD, penalty=PENALTY, seed=seed, **options)
    optimizer = DiffAdamW(vector, lr=0.05)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)


@pytest.mark.parametrize("fused", [False, None])
def test_resumed_is_uninterrupted_bit_for_bit(fused):
    """Through a file, weights only, into a process that has loaded the checkpoint's theta and another
    seed.
    """
    base = {name: tensor.clone() for name, tensor in tiny().state_dict().items()}
    model, optimizer, scheduler = started(base, fused=fused)
    for number in range(4):
        train_step(model, optimizer, number)
        scheduler.step()
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    for number in range(4, 7):
        train_step(model, optimizer, number)
        scheduler.step()

    file.seek(0)
    theta, state, schedule = torch.load(file, weights_only=True)
    again, other, other_scheduler = started(base, seed=99, fused=fused)
    again.load_state_dict(theta)
    other.load_state_dict(state)
    other_scheduler.load_state_dict(schedule)
    for number in range(4, 7):
        train_step(again, other, number)
        other_scheduler.step()
    for name in ("w", "alpha", "group_alpha"):
        assert torch.equal(getattr(other.vector, name), getattr(optimizer.vector, name)), name
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.3)
    assert other.param_groups[0]["alpha_lr"] == 0.1


def test_a_state_handed_straight_back_changes_nothing():
    """As accelerate does when it prepares an optimizer."""
    model, optimizer, _ = started(tiny().state_dict())
    train_step(model, optimizer, 0)
    before = [
        tensor.clone() for tensor in (optimizer.vector.w, optimizer.vector.alpha, optimizer._moments.w_square)
    ]
    optimizer.load_state_dict(optimizer.state_dict())
    after = (optimizer.vector.w, optimizer.vector.alpha, optimizer._moments.w_square)
    assert all(torch.equal(one, other) for one, other in zip(before, after))
    assert optimizer.state[model.embeddings.weight]["w"].data_ptr() == optimizer.vector.w.data_ptr()


def test_another_penalty_is_told():
    base = {name: tensor.clone() for name, tensor in tiny().state_dict().items()}
    model, optimizer, _ = started(base)
    train_step(model, optimizer, 0)
    vector = DiffVector((again := tiny()), base=base, task_head=HEAD, penalty=2 * PENALTY)
    other = DiffAdamW(vector, lr=0.05)
    with pytest.warns(UserWarning, match=r"trained with lambda 0.001 and goes on with 0.002"):
        other.load_state_dict(optimizer.state_dict())
    train_step(again, other, 1)
    assert vector.penalties.unique().tolist() == pytest.approx([2 * PENALTY])


def test_states_that_do_not_belong_are_refused():
    base = tiny().state_dict()
    model, optimizer, _ = started(base)
    train_step(model, optimizer, 0)
    state = copy.deepcopy(optimizer.state_dict())
    other = DiffAdamW(DiffVector(tiny(seed=4), task_head=HEAD, penalty=PENALTY))
    with pytest.raises(ValueError, match="another base"):
        other.load_state_dict(state)
    assert not other.vector.w.any()
    unstructured = DiffAdamW(DiffVector(tiny(), task_head=HEAD, grouping=None))
    with pytest.raises(ValueError, match="structured"):
        unstructured.load_state_dict(state)
    fewer = DiffAdamW(DiffVector(tiny(), task_head=HEAD, frozen=["embeddings"]))
    with pytest.raises(ValueError, match="other parameters"):
        fewer.load_state_dict(state)
    with pytest.raises(ValueError, match="not the state of a diff"):
        optimizer.load_state_dict(torch.optim.AdamW(tiny().parameters()).state_dict())


def saved_with(base, given, **options):
    """(optimizer, its state) after a step, on a model that holds `base`; `given` is what the diff is told
    of the base.
    """
    model = tiny()
    model.load_state_dict(base)
    optimizer = DiffAdamW(DiffVector(model, base=given, task_head=HEAD, **options))
    train_step(model, optimizer, 0)
    return optimizer, copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize("told", [False, True])
def test_frozen_weights_of_another_base_are_refused(told, tmp_path):
    """Though the model may hold the checkpoint's by then."""
    base = copy.deepcopy(tiny().state_dict())
    other = {**base, "embeddings.weight": base["embeddings.weight"] + 1}
    other["output.weight"] = other["embeddings.weight"]
    optimizer, state = saved_with(base, base if told else None, frozen=["embeddings"])
    elsewhere, _ = saved_with(other, other if told else None, frozen=["embeddings"])
    elsewhere.vector.model.load_state_dict(base)
    with pytest.raises(ValueError, match="another base: what stays frozen"):
        elsewhere.load_state_dict(state)
    del state["diff"]["frozen"]  # as states were written before
    elsewhere.load_state_dict(state)

    save_vector(tmp_path / "info.pt", optimizer.vector)
    model = tiny()
    read_vector(tmp_path / "info.pt").restore(model, "tensor").detach()
    model.load_state_dict(other)
    with pytest.raises(ValueError, match="wrong base: the weights that were frozen"):
        read_vector(tmp_path / "info.pt").restore(model, "tensor")


def test_other_groups_of_the_same_number_are_refused(tmp_path):
    def halves(first):
        return lambda name, shape: "first" if name in first else "second"

    base = copy.deepcopy(tiny().state_dict())
    optimizer, state = saved_with(base, base, grouping=halves(["embeddings.weight"]))
    other, _ = saved_with(base, base, grouping=halves(["embeddings.weight", "layer.0.weight"]))
    with pytest.raises(ValueError, match="with other groups"):
        other.load_state_dict(state)
    del state["diff"]["grouping"]
    other.load_state_dict(state)

    save_vector(tmp_path / "info.pt", optimizer.vector)
    with pytest.raises(ValueError, match="with other groups"):
        read_vector(tmp_path / "info.pt").restore(tiny(), halves(["layer.0.weight"]))
    read_vector(tmp_path / "info.pt").restore(tiny(), halves(["embeddings.weight"]))


def test_a_damaged_file_is_refused_by_name_and_one_without_checksum_is_read(tmp_path):
    base = copy.deepcopy(tiny().state_dict())
    optimizer, _ = saved_with(base, base)
    path, old = tmp_path / "info.pt", tmp_path / "old.pt"
    save_vector(path, optimizer.vector, {"task": "cola"})
    raw = path.read_bytes()
    assert torch.equal(read_vector(path).flat["w"], optimizer.vector.w)
    for place in [*range(0, 1200, 3), *range(1200, len(raw), 17)]:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="info.pt"):
            read_vector(path)

    def rewritten(change):
        path.write_bytes(raw)
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["dsp_diff_vector"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        del told["checksum"], told["grouping"], told["frozen"]
        change(told)
        save_file(tensors, old, {"dsp_diff_vector": json.dumps(told)})

    rewritten(lambda told: None)  # as files were written before
    saved = read_vector(old)
    assert saved.config == {"task": "cola"} and torch.equal(
        saved.restore(tiny(), "tensor").alpha, optimizer.vector.alpha
    )
    rewritten(lambda told: told.pop("seed"))
    with pytest.raises(ValueError, match="old.pt is damaged.*'seed' is missing"):
        read_vector(old)
