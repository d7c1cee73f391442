"""A diff in the stock Trainer: resuming, the best checkpoint, accumulation, clipping, mixed precision,
what is refused.
"""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import BEST_OF_STEPS, arguments, trainer
from hf_diffs import DATA, HEAD, QUERY, base_model, in_diff, state_of, with_mask, without_dropout
from transformers import TrainerCallback

from dsp_plugin.diffs import DiffAdamW, DiffVector, project
from dsp_plugin.diffs.training.vector_file import read_vector, save_vector
from dsp_plugin.hf.diffs.training import DiffCallback, diff_optimizers, find_task_head, fixmask_optimizers
from dsp_plugin.options.errors import OptionError


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def body(model) -> torch.Tensor:
    """All weights of the body, one after the other."""
    return torch.cat([weight.detach().reshape(-1) for weight in model.bert.parameters()])


# ---- resuming and the best checkpoint


def test_resumed_is_uninterrupted_to_the_bit(tmp_path):
    options = dict(max_steps=4, save_strategy="steps", save_steps=2, gradient_accumulation_steps=2)
    run, optimizer = in_diff(tmp_path, **options)
    run.train()
    whole = state_of(optimizer)
    again, other = in_diff(tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(state_of(other), whole) and other.vector.steps == 4
    assert same(again.model.state_dict(), run.model.state_dict())
    assert whole["w"].any() and len(set(whole["group_alpha"].tolist())) > 1


def second_is_best() -> dict:
    """A metric that is highest at the second evaluation."""
    turns = iter([0.0, 1.0, 0.0, 0.0])
    return {"eval_dataset": DATA[:8], "compute_metrics": lambda _: {"turn": next(turns)}}


BEST = dict(**BEST_OF_STEPS, max_steps=4, metric_for_best_model="turn")


def test_the_diff_is_that_of_the_selected_checkpoint(tmp_path):
    run, optimizer = in_diff(tmp_path, more=second_is_best(), **BEST)
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-2") and optimizer.vector.steps == 2
    loaded = {name: weight.clone() for name, weight in run.model.named_parameters()}
    optimizer.vector.deterministic()
    assert all(torch.equal(weight, loaded[name]) for name, weight in run.model.named_parameters())
    base = dict(base_model().named_parameters())
    for name, delta in optimizer.vector.deltas().items():
        torch.testing.assert_close(base[name].detach() + delta, loaded[name], rtol=0, atol=1e-6)


def test_the_kept_values_are_those_of_the_selected_checkpoint_and_resume_to_the_bit(tmp_path):
    run, optimizer = in_diff(tmp_path / "1", max_steps=2)
    run.train()
    (diff,) = project(optimizer.vector.deltas(), [50])
    options = dict(max_steps=4, save_strategy="steps", save_steps=1)
    run, optimizer = with_mask(tmp_path / "3", diff, **options)
    run.train()
    again, other = with_mask(tmp_path / "3", diff, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "3" / "checkpoint-2"))
    assert torch.equal(other.values, optimizer.values) and same(
        again.model.state_dict(), run.model.state_dict()
    )
    best, selected = with_mask(tmp_path / "best", diff, second_is_best(), **BEST)
    best.train()
    assert selected.steps == 2
    assert not torch.equal(selected.values, optimizer.values)
    name, (positions, values) = next(iter(selected.diff().entries.items()))
    changed = dict(best.model.named_parameters())[name].reshape(-1)[positions]
    assert torch.equal(changed, base_model().state_dict()[name].reshape(-1)[positions] + values)


# ---- the steps


def test_evaluation_and_saving_see_the_deterministic_theta_and_accumulation_one_sample(tmp_path):
    seen = {"train": [], "eval": []}
    model = base_model()

    def note(*_):
        seen["train" if model.training else "eval"].append(body(model))

    run, optimizer = in_diff(
        tmp_path,
        model=model,
        max_steps=2,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        more={"eval_dataset": DATA[:8]},
    )
    model.bert.encoder.register_forward_hook(note)
    run.train()
    first, second, third, fourth = seen["train"]
    assert torch.equal(first, second) and torch.equal(third, fourth) and not torch.equal(first, third)
    optimizer.vector.deterministic()
    assert len(seen["eval"]) == 2 and torch.equal(seen["eval"][1], body(model))
    assert not torch.equal(seen["eval"][0], third)


def test_generating_sees_the_deterministic_theta_in_the_encoder_too():
    """generate() calls the encoder before the model."""
    model, batch = tiny_model("t5", dtype=torch.float32), {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    vector = DiffVector(model, alpha_init=1.0)
    optimizer = DiffAdamW(vector, lr=0.1)
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    seen = []
    model.encoder.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    model.eval()
    for _ in range(2):
        model.generate(**batch, max_new_tokens=2)
    vector.detach()
    model.encoder(**batch)
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[0], seen[2])


def test_accumulated_micro_batches_are_one_batch(tmp_path):
    """Means of two halves, not their sum: clipping off, so that a factor would show."""
    found = []
    for steps, batch in ((1, 8), (2, 4)):
        model = without_dropout(base_model())
        options = dict(
            max_steps=1,
            gradient_accumulation_steps=steps,
            per_device_train_batch_size=batch,
            max_grad_norm=0.0,
        )
        run, optimizer = in_diff(tmp_path, model=model, **options)
        run.train()
        found.append(optimizer.metrics()["w_norm"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_figures_are_logged_and_the_schedule_leaves_alpha_alone(tmp_path):
    run, optimizer = in_diff(
        tmp_path, max_steps=3, logging_strategy="steps", logging_steps=1, max_grad_norm=0.5
    )
    assert run.args.max_grad_norm == 0
    group = optimizer.param_groups[0]
    assert group["max_norm"] == group["alpha_max_norm"] == 0.5 and group["lr"] == 1e-2
    run.train()
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert all(
        {"w_norm", "alpha_norm", "expected_count", "expected_density"} <= set(entry) for entry in logged
    )
    assert logged[-1]["expected_density"] < logged[0]["expected_density"] <= 1
    assert group["lr"] < 1e-2 and group["alpha_lr"] == 0.1


def test_stage_three_after_stage_one_in_one_process(tmp_path):
    """The same arguments, the same model: clipped as before, everything but the kept weights at the base."""
    model = base_model()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = arguments(tmp_path, learning_rate=1e-2, max_steps=2, max_grad_norm=0.5)
    vector = DiffVector(model, base=base, task_head=HEAD, alpha_init=1.0)
    optimizers = diff_optimizers(vector, args)
    trainer(model, args, DATA, [DiffCallback(optimizers[0])], optimizers).train()
    (diff,) = project(vector.deltas(), [5])
    vector.detach()
    optimizer, _ = fixmask_optimizers(model, args, diff, base=base, task_head=HEAD)
    assert optimizer.param_groups[0]["max_norm"] == 0.5 and args.max_grad_norm == 0
    trainer(model, args, DATA, [DiffCallback(optimizer)], (optimizer, None)).train()
    changed = sum(
        int((p != base[name]).sum())
        for name, p in model.named_parameters()
        if not name.startswith("classifier")
    )
    assert changed == 5


def test_bf16_on_the_cpu(tmp_path):
    run, optimizer = in_diff(tmp_path, max_steps=2, bf16=True)
    run.train()
    assert optimizer.vector.w.dtype == torch.float32 and optimizer.vector.w.any()


class Overflow(TrainerCallback):
    """The gradients of one update become infinite, as they do where a loss scale is too large; notes what
    is trained at.
    """

    def __init__(self, update):
        self.update, self.samples = update, []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.samples.append(body(model))
        if state.global_step == self.update:
            next(weight.grad for weight in model.bert.parameters() if weight.grad is not None).fill_(
                torch.inf
            )


@pytest.mark.parametrize("stage", ["diff", "mask"])
def test_loss_scaling_and_a_step_that_it_skips(stage, tmp_path):
    """The Trainer's fp16 path but for the autocast's dtype: accelerate does nothing for --fp16 on a CPU, so
    the scaler is put in, beside bfloat16's autocast. Scales are powers of two: they change no bit."""

    def run(name, scale, updates, overflow=None):
        if stage == "diff":
            run, optimizer = in_diff(tmp_path / name, max_steps=updates, bf16=True)
        else:
            run, optimizer = with_mask(tmp_path / name, mask, max_steps=updates, bf16=True)
        callback = Overflow(overflow)
        run.add_callback(callback)
        if scale is not None:
            run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        run.train()
        return run, optimizer, callback.samples

    first, optimizer = in_diff(tmp_path / "first", max_steps=1)
    first.train()
    (mask,) = project(optimizer.vector.deltas(), [50])

    def state(optimizer):
        return state_of(optimizer) if stage == "diff" else dict(optimizer.state_dict()["state"][0])

    plain, ours, _ = run("plain", None, 2)
    scaled, theirs, _ = run("scaled", 2.0**10, 2)
    assert same(state(ours), state(theirs)) and same(plain.model.state_dict(), scaled.model.state_dict())
    skipped, optimizer, samples = run("skipped", 2.0**10, 3, overflow=1)
    assert (
        skipped.state.global_step == 3
        and (optimizer.vector.steps if stage == "diff" else optimizer.steps) == 2
    )
    assert skipped.accelerator.scaler.get_scale() == 2.0**9
    # drawn again, nothing has moved
    assert torch.equal(samples[1], samples[2]) and not torch.equal(samples[0], samples[1])
    assert all(bool(torch.isfinite(value).all()) for value in skipped.model.state_dict().values())


def test_a_checkpoint_without_its_optimizer_is_no_checkpoint_of_a_diff(tmp_path):
    options = dict(max_steps=2, save_strategy="steps", save_steps=1, save_only_model=True)
    run, _ = in_diff(tmp_path, **options)
    run.train()
    again, _ = in_diff(tmp_path, **options)
    leads = r"^resume_from_checkpoint .* a checkpoint that has no optimizer.pt \(save_only_model\?\)"
    with pytest.raises(OptionError, match=leads):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


# ---- the file of a vector


def test_a_vector_comes_back_from_its_file(tmp_path):
    run, optimizer = in_diff(tmp_path, max_steps=2)
    run.train()
    save_vector(tmp_path / "info.pt", optimizer.vector, {"by": "a test"})
    saved = read_vector(tmp_path / "info.pt")
    assert saved.config == {"by": "a test"}
    model = base_model()
    restored = saved.restore(model, "tensor")
    for step in (None, 2):
        first, second = optimizer.vector.deltas(step), restored.deltas(step)
        assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
    assert all(
        torch.equal(tensor, dict(run.model.named_parameters())[name])
        for name, tensor in saved.task_head.items()
    )
    assert set(saved.task_head) == {"classifier.weight", "classifier.bias"}


def test_files_that_do_not_belong_are_refused(tmp_path):
    run, optimizer = in_diff(tmp_path, max_steps=1)
    run.train()
    path = tmp_path / "info.pt"
    save_vector(path, optimizer.vector)
    other = base_model()
    with torch.no_grad():
        dict(other.named_parameters())[QUERY][0, 0] += 1
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="wrong base: its weights"):
        read_vector(path).restore(other, "tensor")
    with pytest.raises(ValueError, match="wrong base: it lacks"):
        read_vector(path).restore(tiny_model("gpt2"), "tensor")
    assert same(other.state_dict(), before)
    with pytest.raises(ValueError, match="other groups"):
        read_vector(path).restore(base_model(), "neuron")
    raw = path.read_bytes()
    path.write_bytes(raw[:-10])
    with pytest.raises(ValueError, match="damaged"):
        read_vector(path)
    path.write_bytes(b"\x80\x02}q\x00.")  # a pickle
    with pytest.raises(ValueError, match="no safetensors file"):
        read_vector(path)


# ---- what is refused


def test_the_head_is_what_was_new_or_is_named():
    model = base_model()
    assert find_task_head(
        model, ["classifier.bias", "classifier.weight", "bert.embeddings.position_ids"]
    ) == ["classifier.bias", "classifier.weight"]
    assert find_task_head(model, [], ["classifier"]) == ["classifier.bias", "classifier.weight"]
    with pytest.raises(OptionError, match="^task_head is .*the task head cannot be found.*classifier.bias"):
        find_task_head(model, [])
    with pytest.raises(ValueError, match="no parameter 'score'"):
        find_task_head(model, [], ["score"])


def test_settings_that_a_diff_cannot_have(tmp_path):
    model = base_model()
    vector = DiffVector(model, task_head=HEAD)
    with pytest.raises(OptionError, match="^optim must be adamw_torch or adamw_torch_fused"):
        diff_optimizers(vector, arguments(tmp_path, optim="adafactor"))
    optimizer, _ = diff_optimizers(vector, arguments(tmp_path))
    with pytest.raises(OptionError, match="^max_grad_norm 1.0: the Trainer must not clip"):
        trainer(model, arguments(tmp_path), DATA, [DiffCallback(optimizer)], (optimizer, None))
    args = arguments(
        tmp_path,
        max_grad_norm=0.0,
        load_best_model_at_end=True,
        save_only_model=True,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    with pytest.raises(OptionError, match="^save_only_model with load_best_model_at_end: "):
        trainer(model, args, DATA, [DiffCallback(optimizer)], (optimizer, None), eval_dataset=DATA)
    with pytest.raises(ValueError, match="lr must be 0 or more"):
        fixmask_optimizers(
            model, arguments(tmp_path, learning_rate=-1.0), project(vector.deltas(), [3])[0], task_head=HEAD
        )
