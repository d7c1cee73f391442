"""`dsp_transformer` beside fairseq's transformer: same weights, same numbers; and its gates."""

from __future__ import annotations

import copy

import pytest
import torch

fairseq = pytest.importorskip("fairseq")

from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq_models import (
    TINY,
    TINY_HEADS,
    batch,
    build,
    build_dsp,
    build_stock,
    deployed_like,
    liven,
    logits,
    parse,
    record_of,
    twins,
)

from dsp_plugin.mt.heads.gated_transformer import head_map_of

VARIANTS = {
    "post-norm": {},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True},
    "cross+self": {"cross_self_attention": True, "no_cross_attention": True},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Stock's decoding works softmaxes out in single precision; let both sides be exact, so that they can
    be compared.
    """
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    monkeypatch.setattr(
        fairseq.utils, "log_softmax", lambda x, dim, onnx_trace=False: torch.log_softmax(x, dim)
    )


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def translate(task, model, beam: int = 5, generator=SequenceGenerator, **settings):
    """[(tokens, score, hypothesis)] of every hypothesis of every sentence of a batch."""
    search = generator(
        [model], task.target_dictionary, beam_size=beam, max_len_a=1.2, max_len_b=10, **settings
    )
    found = search.generate([model], batch(task))
    return [(h["tokens"].tolist(), float(h["score"]), h) for sentence in found for h in sentence]


def same_translations(found, expected) -> None:
    assert [tokens for tokens, *_ in found] == [tokens for tokens, *_ in expected]
    assert [score for _, score, _ in found] == pytest.approx([score for _, score, _ in expected], rel=1e-9)
    assert len({tuple(tokens) for tokens, *_ in found}) >= 5  # the model does say something


# ---- beside the stock model


def test_a_stock_state_has_exactly_our_keys(tiny_data):
    _, stock = build_stock(tiny_data)
    _, plain = build_dsp(tiny_data)
    _, pruning = build_dsp(tiny_data, num_of_heads=6)
    assert list(plain.state_dict()) == list(stock.state_dict())
    assert set(pruning.state_dict()) - set(stock.state_dict()) == {"gating.gates.scores"}


@every_variant
@pytest.mark.parametrize("gated", [False, True], ids=["no-gates", "all-heads-kept"])
def test_the_same_logits_as_stock(tiny_data, changes, gated):
    heads = 16 if "no_cross_attention" in changes else TINY_HEADS
    task, stock, dsp = twins(tiny_data, num_of_heads=heads if gated else None, **changes)
    sample = batch(task)
    assert (sample["net_input"]["src_tokens"] == task.source_dictionary.pad()).any()
    close(logits(dsp, sample), logits(stock, sample))


def test_the_same_gradients_as_stock(tiny_data):
    task, stock, dsp = twins(tiny_data)
    sample, gradients = batch(task), []
    for model in (stock, dsp):
        model.train()
        logits(model, sample).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert set(gradients[0]) == set(gradients[1])
    for name, expected in gradients[0].items():
        close(gradients[1][name], expected)


@pytest.mark.parametrize("budget", [0, 1, 6, 23, 24])
def test_a_mask_is_the_stock_model_with_dead_output_columns(tiny_data, budget):
    task, stock, dsp = twins(tiny_data, num_of_heads=budget)
    keep = dsp.gating.gates.keep()
    assert int(keep.sum()) == budget
    deployed_like(stock, keep)
    close(logits(dsp, batch(task)), logits(stock, batch(task)))


@every_variant
def test_the_same_translations_as_stock(tiny_data, changes):
    task, stock, dsp = twins(tiny_data, **changes)
    same_translations(translate(task, dsp), translate(task, stock))


@pytest.mark.parametrize("beam", [1, 3])
def test_ensembles_and_forced_prefixes_as_stock(tiny_data, beam):
    """`--path a:b --prefix-size 2`: models of different heads search together, after words that are given."""
    task, stock, dsp = twins(tiny_data, num_of_heads=24)
    sample = batch(task)
    found = []
    for model in (stock, dsp):
        other = copy.deepcopy(model)
        liven(other)
        search = SequenceGenerator(
            [model, other], task.target_dictionary, beam_size=beam, max_len_a=1.2, max_len_b=10
        )
        found.append(search.generate([model, other], sample, prefix_tokens=sample["target"][:, :2]))
    for theirs, ours in zip(*found):
        assert [h["tokens"].tolist() for h in ours] == [h["tokens"].tolist() for h in theirs]
        assert [float(h["score"]) for h in ours] == pytest.approx(
            [float(h["score"]) for h in theirs], rel=1e-9
        )
    assert [h[0]["tokens"][:2].tolist() for h in found[1]] == sample["target"][:, :2].tolist()


@pytest.mark.parametrize("budget", [0, 6, 24])
def test_the_same_translations_as_a_stock_model_with_the_mask(tiny_data, budget):
    task, stock, dsp = twins(tiny_data, num_of_heads=budget)
    deployed_like(stock, dsp.gating.gates.keep())
    same_translations(translate(task, dsp), translate(task, stock))


def test_alignments_equal_stock(tiny_data):
    """As `fairseq-generate --print-alignment` asks for them."""
    task, stock, dsp = twins(tiny_data)
    cfg = parse(tiny_data, arch="transformer")
    cfg.generation.print_alignment = "hard"
    for model in (stock, dsp):
        model.prepare_for_inference_(cfg)
    expected, found = (translate(task, m, generator=SequenceGeneratorWithAlignment) for m in (stock, dsp))
    same_translations(found, expected)
    for (*_, mine), (*_, theirs) in zip(found, expected):
        close(mine["attention"], theirs["attention"])
        assert mine["alignment"] == theirs["alignment"] and len(mine["alignment"])


def test_alignments_where_the_last_block_has_no_head(tiny_data):
    task, model = build_dsp(tiny_data, kept_heads=record_of(tiny_data, dead="decoder.layers.1.encoder_attn"))
    cfg = parse(tiny_data, arch="transformer")
    cfg.generation.print_alignment = "hard"
    model.prepare_for_inference_(cfg)
    assert all(
        len(h["alignment"]) for *_, h in translate(task, model, generator=SequenceGeneratorWithAlignment)
    )


def test_an_encoder_and_a_decoder_of_different_sizes(tiny_data):
    """Cross-attention then has keys of another size than its queries."""
    flags = [f for f in TINY if f != "--share-all-embeddings"] + ["--decoder-embed-dim", 8]
    task, stock = build(tiny_data, *flags, arch="transformer")
    _, dsp = build(tiny_data, *flags, arch="dsp_transformer", task="dsp_translation")
    dsp.load_state_dict(stock.state_dict(), strict=True)
    stock.double().eval(), dsp.double().eval()
    assert dsp.decoder.output_projection.weight.shape[1] == 8
    close(logits(dsp, batch(task)), logits(stock, batch(task)))


# ---- checkpoints of other kinds


def test_scores_start_fresh_where_a_checkpoint_has_none(tiny_data, caplog):
    _, stock, dsp = twins(tiny_data, num_of_heads=6)
    scores = dsp.gating.gates.scores.detach().clone()
    with caplog.at_level("INFO"):
        dsp.load_state_dict(stock.state_dict(), strict=True)
    assert torch.equal(dsp.gating.gates.scores, scores)
    assert "start fresh" in caplog.text


def test_scores_are_left_out_where_nothing_is_pruned(tiny_data):
    _, pruning = build_dsp(tiny_data, num_of_heads=6)
    _, plain = build_dsp(tiny_data)
    plain.load_state_dict(pruning.state_dict(), strict=True)
    assert torch.equal(plain.encoder.layers[0].fc1.weight, pruning.encoder.layers[0].fc1.weight)


def test_scores_of_a_checkpoint_are_loaded(tiny_data):
    _, saved = build_dsp(tiny_data, num_of_heads=6)
    _, model = build_dsp(tiny_data, num_of_heads=6)
    with torch.no_grad():
        saved.gating.gates.scores.normal_()
    model.eval()
    logits(model, batch(build_stock(tiny_data)[0]))  # the mask of the old scores has been worked out
    model.load_state_dict(saved.state_dict(), strict=True)
    assert torch.equal(model.gating.gates.scores, saved.gating.gates.scores)
    seen = [model.gating.block_gates(i) for i in range(6)]
    seen = torch.cat([torch.ones(4) if g is None else g for g in seen])
    assert torch.equal(seen.bool(), saved.gating.gates.keep())


# ---- gates


def test_head_order_and_kinds(tiny_data):
    _, model = build_dsp(tiny_data)
    assert [(b.name, b.kind) for b in head_map_of(model).blocks] == [
        ("encoder.layers.0.self_attn", "encoder-self"),
        ("encoder.layers.1.self_attn", "encoder-self"),
        ("decoder.layers.0.encoder_attn", "decoder-cross"),
        ("decoder.layers.1.encoder_attn", "decoder-cross"),
        ("decoder.layers.0.self_attn", "decoder-self"),
        ("decoder.layers.1.self_attn", "decoder-self"),
    ]


@pytest.mark.parametrize("position", range(6))
def test_every_block_reads_its_own_gates(tiny_data, position):
    """Closing all heads of block i equals removing that block's contribution, and no other's."""
    task, stock, dsp = twins(tiny_data, num_of_heads=24)
    gates = torch.ones(24, dtype=torch.float64)
    gates[4 * position : 4 * position + 4] = 0
    deployed_like(stock, gates.bool())
    with dsp.gating.override(gates):
        close(logits(dsp, batch(task)), logits(stock, batch(task)))


def test_every_example_has_gates_and_gradients_of_its_own(tiny_data):
    """What importance scores need: gates [B, N] of ones in evaluation mode, one gradient an example and a
    head.
    """
    task, _, dsp = twins(tiny_data, num_of_heads=24)
    sample = batch(task, sentences=4)

    def gradient(net_input, rows: int) -> torch.Tensor:
        gates = torch.ones(rows, 24, dtype=torch.float64, requires_grad=True)
        with dsp.gating.override(gates):
            out = dsp(**net_input)[0]
            loss = (out.log_softmax(-1)[..., 5]).sum()
            loss.backward()
        return gates.grad

    together = gradient(sample["net_input"], 4)
    for b in range(4):
        alone = {name: value[b : b + 1] for name, value in sample["net_input"].items()}
        close(together[b], gradient(alone, 1)[0])
    assert together.abs().min() > 0


def test_training_samples_and_evaluation_does_not(tiny_data):
    task, _, dsp = twins(tiny_data, num_of_heads=6)
    dsp.gating.gates.temperature = 0.5
    sample = batch(task)
    assert torch.equal(logits(dsp, sample), logits(dsp, sample))
    dsp.train()
    assert not torch.equal(logits(dsp, sample), logits(dsp, sample))
    dsp.eval()
    assert torch.equal(logits(dsp, sample), logits(dsp, sample))


def test_the_temperature_follows_the_number_of_updates(tiny_data):
    cooling = {"annealing": True, "initial_temperature": 1.0, "final_temperature": 0.01, "cooldown_steps": 10}
    _, model = build_dsp(tiny_data, num_of_heads=6, **cooling)
    seen = []
    for updates in (0, 5, 10, 5):
        model.set_num_updates(updates)
        seen.append(model.gating.gates.metrics()["temperature"])
    assert seen == pytest.approx([1.0, 0.1, 0.01, 0.1])


@pytest.mark.parametrize("option", ["checkpoint_activations", "offload_activations"])
@pytest.mark.parametrize("frozen", [False, True], ids=["joint", "pipelined"])
def test_activation_checkpointing_changes_no_gradient(tiny_data, option, frozen):
    gradients, losses = [], []
    for changes in ({}, {option: True}):
        # dropout, so that the recomputed layers must also see the random numbers they saw before
        task, model = build_dsp(tiny_data, num_of_heads=6, final_temperature=0.5, dropout=0.3, **changes)
        if frozen:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith("gating."))
        torch.manual_seed(3)
        loss = logits(model.train(), batch(task)).square().mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert losses[0] == losses[1]
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected)
    assert gradients[1]["gating.gates.scores"].abs().max() > 0


def test_pipelined_leaves_only_scores_to_learn(tiny_data, tmp_path):
    trained = tmp_path / "trained.pt"
    torch.save({"model": {}, "cfg": {"model": {"_name": "transformer"}}}, trained)
    start = ["--restore-file", trained, "--pruning-lr", 0.2]
    _, model = build(tiny_data, *TINY, *start, arch="dsp_transformer", task="dsp_translation", num_of_heads=6)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["gating.gates.scores"]


def test_a_copy_has_gates_of_its_own(tiny_data):
    """fairseq's moving average (--store-ema) works on a copy of the model."""
    task, _, dsp = twins(tiny_data, num_of_heads=6)
    sample = batch(task)
    dsp.train()
    logits(dsp, sample)  # with a drawn sample, part of a graph
    twin = copy.deepcopy(dsp)
    dsp.eval(), twin.eval()
    before = logits(dsp, sample)
    assert torch.equal(logits(twin, sample), before)
    with torch.no_grad():
        twin.gating.gates.scores.neg_()
    twin.train(), twin.eval()
    assert not torch.equal(logits(twin, sample), before)
    assert torch.equal(logits(dsp, sample), before)


def test_a_half_precision_model_keeps_its_mask(tiny_data):
    _, model = build_dsp(tiny_data, num_of_heads=6)
    with torch.no_grad():
        model.gating.gates.scores.copy_(1 + 1e-5 * torch.arange(24))
    keep = model.gating.gates.keep()
    model.half()
    assert model.encoder.layers[0].fc1.weight.dtype == torch.float16
    assert torch.equal(model.gating.gates.keep(), keep)
