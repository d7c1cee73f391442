"""Importance of a Transformers model's heads, against finite differences of every example's own gates."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import FAMILIES, HEADS, tiny_model  # isort: skip
import transformers
from hf_data import IGNORED, padded, sentences
from hf_models import _ENCODER

from dsp_plugin.gating import FixedGates, RelaxedSubset, constant_temperature, normalised
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads, switchboard_of
from dsp_plugin.hf.heads.example_losses import example_losses
from dsp_plugin.hf.heads.importance import ExampleRanking, gating_of, head_importance, magnitudes
from dsp_plugin.hf.heads.layouts.locate import attentions_of

EPS = 1e-5


def with_task(name, **options):
    """A tiny BERT with another task head, as sensitive to every head as `tiny_model`."""
    torch.manual_seed(3)
    model = getattr(transformers, name)(transformers.BertConfig(**_ENCODER, **options))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3) if weight.dim() > 1 else None
    return model.double().eval()


def tagged(count):
    """Two labels of three a sequence are there."""
    return [
        {
            **row,
            "labels": torch.where(torch.arange(len(row["input_ids"])) % 3 > 0, row["input_ids"] % 2, IGNORED),
        }
        for row in sentences(count)
    ]


def spans(count):
    """The third answer lies outside the text, the fourth ends where a shorter one has its padding."""
    rows = [{"input_ids": row["input_ids"]} for row in sentences(count)]
    ends = [40 if i == 2 else len(row["input_ids"]) if i == 3 else i % 3 for i, row in enumerate(rows)]
    return [
        {**row, "start_positions": 40 if i == 2 else 1, "end_positions": ends[i]}
        for i, row in enumerate(rows)
    ]


def words(count):
    return [{**row, "labels": row["input_ids"]} for row in sentences(count)]


def bce(logits, row):
    return -sum(torch.log(torch.sigmoid(x if y else -x)) for x, y in zip(logits[0], row["labels"])) / 3


def span_loss(output, row):
    sides = [(output.start_logits, row["start_positions"]), (output.end_logits, row["end_positions"])]
    return sum(-logits.log_softmax(-1)[0, at] if at < logits.shape[1] else 0.0 for logits, at in sides) / 2


def next_words(output, row):
    log_p, ids = output.logits.log_softmax(-1)[0], row["labels"]
    return -sum(log_p[t, ids[t + 1]] for t in range(len(ids) - 1))


# task: model, examples, the loss of one example from its own output, how many tokens all of them have
CASES = {
    "classes": (
        lambda: tiny_model("bert"),
        lambda: sentences(5),
        lambda output, row: -output.logits.log_softmax(-1)[0, row["labels"]],
        lambda data: sum(len(row["input_ids"]) for row in data),
    ),
    "scores": (
        lambda: with_task("BertForSequenceClassification", num_labels=1, problem_type="regression"),
        lambda: [{**row, "labels": i / 3} for i, row in enumerate(sentences(5))],
        lambda output, row: (output.logits[0, 0] - row["labels"]) ** 2,
        lambda data: sum(len(row["input_ids"]) for row in data),
    ),
    "yes-or-no": (
        lambda: with_task(
            "BertForSequenceClassification", num_labels=3, problem_type="multi_label_classification"
        ),
        lambda: [{**row, "labels": [1.0, 0.0, float(i % 2)]} for i, row in enumerate(sentences(5))],
        lambda output, row: bce(output.logits, row),
        lambda data: sum(len(row["input_ids"]) for row in data),
    ),
    "answers": (
        lambda: with_task("BertForQuestionAnswering"),
        lambda: spans(5),
        span_loss,
        lambda data: sum(len(row["input_ids"]) for row in data),
    ),
    "tags": (
        lambda: with_task("BertForTokenClassification"),
        lambda: tagged(5),
        lambda output, row: (
            -sum(
                output.logits.log_softmax(-1)[0, t, y]
                for t, y in enumerate(row["labels"].tolist())
                if y != IGNORED
            )
        ),
        lambda data: sum(int((row["labels"] != IGNORED).sum()) for row in data),
    ),
    "next-words": (
        lambda: tiny_model("gpt2"),
        lambda: words(4),
        next_words,
        lambda data: sum(len(r["labels"]) - 1 for r in data),
    ),
    "translation": (
        lambda: tiny_model("bart"),
        lambda: words(3),
        lambda output, row: (
            -sum(output.logits.log_softmax(-1)[0, t, y] for t, y in enumerate(row["labels"].tolist()))
        ),
        lambda data: sum(len(row["labels"]) for row in data),
    ),
}


@torch.no_grad()
def differences(model, data, loss_of, keep=None) -> torch.Tensor:
    """Central differences of each example's loss, alone in its batch, by each gate: [examples, N]."""
    num_heads = head_map_of(model).num_heads
    start = torch.ones(num_heads, dtype=torch.float64) if keep is None else keep.double()
    found = torch.zeros(len(data), num_heads, dtype=torch.float64)
    with gating_of(model) as board:
        for number, row in enumerate(data):
            for head in range(num_heads):
                ends = []
                for sign in (1, -1):
                    gates = start.clone()
                    gates[head] += sign * EPS
                    with board.override(gates):
                        ends.append(float(loss_of(model(**padded([row])), row)))
                found[number, head] = (ends[0] - ends[1]) / (2 * EPS)
    return found


@pytest.mark.parametrize("task", CASES)
def test_importance_is_the_mean_absolute_derivative_of_every_example(task):
    build, examples, loss_of, tokens = CASES[task]
    model, data = build(), examples()
    expected = differences(model, data, loss_of)
    model.train()
    found = head_importance(model, data, padded, batch_size=3, progress=False)
    assert model.training and switchboard_of(model) is None  # as it was, though dropout was off meanwhile
    torch.testing.assert_close(found, expected.abs().sum(0) / tokens(data), rtol=1e-5, atol=1e-8)
    # the sign matters: examples would cancel
    assert (expected.sum(0).abs() < 0.9 * expected.abs().sum(0)).any()


def test_importance_under_a_mask():
    build, examples, loss_of, tokens = CASES["classes"]
    model, data = build(), examples()
    keep = torch.arange(8) % 3 != 1
    found = head_importance(model, data, padded, 2, progress=False, keep=keep)
    expected = differences(model, data, loss_of, keep).abs().sum(0) / tokens(data)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(
        found[keep], head_importance(model, data, padded, 2, progress=False)[keep], rtol=1e-2
    )
    # so it is that of the model without those heads
    prune_heads(model, keep)
    torch.testing.assert_close(
        head_importance(model, data, padded, 2, progress=False), found[keep], rtol=1e-6, atol=1e-10
    )


def test_importance_by_batch_is_another_figure():
    build, examples, loss_of, tokens = CASES["classes"]
    model, data = build(), sorted(examples(), key=lambda row: len(row["input_ids"]))
    each = differences(model, data, loss_of)
    found = head_importance(model, data, padded, 3, per_batch=True, progress=False)
    expected = (each[:3].sum(0).abs() + each[3:].sum(0).abs()) / tokens(data)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert (found < each.abs().sum(0) / tokens(data) - 1e-4).any()


def padded_left(examples):
    """As decoders are given their texts."""
    batch = padded(examples)
    turned = {name: value.flip(1) if value.dim() == 2 else value for name, value in batch.items()}
    lengths = batch["attention_mask"].sum(1)
    for name, value in turned.items():
        if value.dim() == 2:
            turned[name] = torch.stack(
                [torch.cat([row[:-n], row[-n:].flip(0)]) for row, n in zip(value, lengths)]
            )
    return turned


def labelled_padding(examples):
    """A collator that gives the padding a label."""
    batch = padded(examples)
    return {**batch, "labels": torch.where(batch["attention_mask"] == 0, 1, batch["labels"])}


PADDINGS = {
    **{task: (task, padded) for task in CASES},
    "next-words, padded on the left": ("llama", padded_left),
    "tags, with labels on the padding": ("tags", labelled_padding),
}


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_batch_size_does_not_matter(padding):
    task, collate = PADDINGS[padding]
    # of one that takes the distance of words, and not their places from the left
    build, examples = CASES[task][:2] if task in CASES else (lambda: tiny_model("llama"), lambda: words(5))
    model, data = build(), examples()
    one, all_of_them = (
        head_importance(model, data, collate, size, progress=False) for size in (1, len(data))
    )
    # Llama computes its norms in single precision
    close = dict(rtol=1e-4, atol=1e-6) if task == "llama" else dict(rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one, all_of_them, **close)


def test_padding_that_cannot_be_told_is_refused():
    model = with_task("BertForQuestionAnswering")
    stock = model.forward
    model.forward = lambda **given: type(out := stock(**given))(
        start_logits=out.start_logits[:, 1:], end_logits=out.end_logits[:, 1:]
    )
    with pytest.raises(ValueError, match="does not tell which of .* positions are padding"):
        example_losses(model, padded(spans(4)))


class Own(torch.nn.Module):
    """A user's own module: a mean over the text, a layer, a loss."""

    def __init__(self, loss, outputs, named="loss"):
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.loss, self.named = tiny_model("bert").bert, loss, named
        self.layer = torch.nn.Linear(32, outputs).double()

    def forward(self, input_ids, attention_mask, labels=None):
        states = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.layer(pooled)
        return {self.named: self.loss(logits, labels), "logits": logits}


LOSSES = {
    "classes": (2, torch.nn.functional.cross_entropy, lambda i: i % 2),
    "scores": (1, lambda x, y: torch.nn.functional.mse_loss(x[:, 0], y), lambda i: i / 3),
    "several scores": (2, torch.nn.functional.mse_loss, lambda i: [i / 3, 1.0]),
    "yes or no": (2, torch.nn.functional.binary_cross_entropy_with_logits, lambda i: [i % 2, 1.0]),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_losses_of_a_users_own_module(kind):
    outputs, loss, label = LOSSES[kind]
    model = Own(loss, outputs)
    data = [{**row, "labels": label(i)} for i, row in enumerate(sentences(4))]

    def collate(rows):
        batch = padded(rows)
        return {**batch, "labels": batch["labels"].double() if kind != "classes" else batch["labels"]}

    losses, tokens = example_losses(model, collate(data))
    alone = torch.stack([model(**collate([row]))["loss"] for row in data])
    torch.testing.assert_close(losses, alone)
    assert tokens == sum(len(row["input_ids"]) for row in data)


def test_what_is_refused_of_a_users_own_module():
    batch = padded(sentences(4))
    for model, said in (
        (
            Own(lambda x, y: 2 * torch.nn.functional.cross_entropy(x, y), 2),
            "Own works out its loss in a way not known here",
        ),
        (Own(torch.nn.functional.cross_entropy, 2, named="cost"), "Own gives no `loss` to check by"),
    ):
        with pytest.raises(ValueError, match=said):
            example_losses(model, batch)
    model = Own(torch.nn.functional.cross_entropy, 2)
    stock = model.forward
    model.forward = lambda **given: tuple(stock(**given).values())
    with pytest.raises(ValueError, match="Own gives no `logits`: its forward has to return a dict"):
        example_losses(model, batch)


def test_gates_of_the_model_play_no_part():
    data = sentences(4)
    expected = head_importance(tiny_model("bert"), data, padded, 4, progress=False)
    for gates in (
        lambda m: FixedGates(torch.arange(8) < 3),
        lambda m: RelaxedSubset(head_map_of(m), 4, constant_temperature(1.0)),
    ):
        model = tiny_model("bert")
        board = gate_heads(model, gates(model))
        model.train()
        assert torch.equal(head_importance(model, data, padded, 4, progress=False), expected)
        assert switchboard_of(model) is board


@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_losses_of_every_family_are_what_the_model_trains_on(family):
    """Their mean is the model's own loss; `example_losses` itself refuses a model where it is not."""
    model = tiny_model(family, dtype=torch.float32)
    data = words(4) if HEADS.get(family) or family in ("gpt2", "llama") else sentences(4)
    batch = padded(data)
    losses, tokens = example_losses(model, batch)
    assert losses.shape == (4,)
    own = float(model(**batch).loss.detach())
    assert float(losses.detach().sum()) / (tokens if batch["labels"].dim() == 2 else 4) == pytest.approx(
        own, rel=1e-5
    )


def test_a_loss_that_is_not_known_is_refused(monkeypatch):
    model, batch = tiny_model("bert"), padded(sentences(3))
    with pytest.raises(ValueError, match="no labels"):
        example_losses(model, {name: value for name, value in batch.items() if name != "labels"})
    stock = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **given: type(out := stock(**given))(loss=2 * out.loss, logits=out.logits)
    )
    with pytest.raises(
        ValueError, match="BertForSequenceClassification works out its loss in a way not known here"
    ):
        example_losses(model, batch)


def test_rankings():
    model, data = tiny_model("bert"), sentences(6)
    heads, keep = head_map_of(model), torch.arange(8) != 5
    raw = head_importance(model, data, padded, 2, progress=False, keep=keep)
    found = ExampleRanking(batch_size=2).source(model, data, padded, progress=False)(keep)
    torch.testing.assert_close(found, normalised(raw, heads, keep))
    plain = ExampleRanking(by_block=False, overall=False).source(model, data, padded, progress=False)(keep)
    torch.testing.assert_close(plain, raw * keep)
    chosen = ExampleRanking(samples=2, seed=3).sample(6)
    few = ExampleRanking(samples=2, seed=3, by_block=False, overall=False).source(
        model, data, padded, progress=False
    )(keep)
    expected = head_importance(model, [data[i] for i in chosen], padded, 2, progress=False, keep=keep)
    torch.testing.assert_close(few, expected * keep)
    one, other = (ExampleRanking("random", seed=seed).source(model, None, None)(keep) for seed in (1, 2))
    assert sorted(one.tolist()) == list(range(8)) and not torch.equal(one, other)
    assert torch.equal(ExampleRanking("magnitude").source(model, None, None)(keep), magnitudes(model))


def test_what_a_ranking_refuses():
    for options, said in (
        ({"rank_by": "size"}, "rank_by must be one of importance, magnitude, random, got 'size'"),
        ({"samples": 0}, "^samples must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            ExampleRanking(**options).check()


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitudes_add_up_to_the_norm_of_all_projections(family):
    """And a head's is gone from the sum once it is removed, so each is that head's own."""
    model = tiny_model(family)
    found = magnitudes(model)
    total = sum(float(p.module.weight.square().sum()) for a in attentions_of(model) for p in a.projections)
    assert math.isclose(float(found.square().sum()), total, rel_tol=1e-10)
    keep = torch.ones(len(found), dtype=torch.bool)
    keep[[1, len(found) - 2]] = False
    prune_heads(model, keep)
    torch.testing.assert_close(magnitudes(model), found[keep])
