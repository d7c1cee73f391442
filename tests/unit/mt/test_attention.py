"""Gated attention beside fairseq's own module with the same weights. Shapes are those of
`attention_twins`.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

from attention_twins import B, C, D, H, S, T, causal, close, decode, double_precision, padding, twins

from dsp_plugin.mt.heads.attention import GatedMultiheadAttention


@pytest.fixture(autouse=True)
def double():
    with double_precision():
        yield


def test_same_parameters_and_names_as_stock():
    stock, gated = twins("cross", kdim=8, vdim=10)
    assert list(stock.state_dict()) == list(gated.state_dict())


@pytest.mark.parametrize("pad", [None, "bool", "float"])
@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_self_attention(pad, mask):
    stock, gated = twins("self")
    x = torch.randn(T, B, C)
    key_padding_mask = (
        None if pad is None else padding(B, T).to(torch.bool if pad == "bool" else torch.float64)
    )
    attn_mask = None if mask is None else causal(T) if mask == "float" else causal(T).bool()
    options = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask, "need_weights": False}
    expected, none = stock(x, x, x, **options)
    output, weights = gated(x, x, x, **options)
    close(output, expected)
    assert weights is None


@pytest.mark.parametrize(
    "options", [{}, {"kdim": 8, "vdim": 8}], ids=["same-size", "encoder-of-another-size"]
)
@pytest.mark.parametrize("pad", [False, True])
def test_cross_attention(options, pad):
    stock, gated = twins("cross", **options)
    query, memory = torch.randn(T, B, C), torch.randn(S, B, options.get("kdim", C))
    key_padding_mask = padding(B, S) if pad else None
    expected, _ = stock(query, memory, memory, key_padding_mask=key_padding_mask, static_kv=True)
    output, _ = gated(query, memory, memory, key_padding_mask=key_padding_mask, static_kv=True)
    close(output, expected)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_gradients(kind):
    gradients = []
    key_padding_mask = padding(B, T if kind == "self" else S)
    query, memory, probe = torch.randn(T, B, C), torch.randn(S, B, C), torch.randn(T, B, C)
    for module in twins(kind):
        module.train()
        q, m = query.clone().requires_grad_(), memory.clone().requires_grad_()
        attn_mask = causal(T) if kind == "self" else None
        k = q if kind == "self" else m
        output, _ = module(
            q, k, k, key_padding_mask=key_padding_mask, attn_mask=attn_mask, need_weights=False
        )
        (output * probe).sum().backward()
        inputs = {"query": q.grad, "memory": m.grad} if kind == "cross" else {"query": q.grad}
        gradients.append({**inputs, **{name: p.grad for name, p in module.named_parameters()}})
    expected, found = gradients
    assert set(found) == set(expected) and len(found) > 8
    for name in expected:
        close(found[name], expected[name])
    assert expected["query"].abs().max() > 0.01


@pytest.mark.parametrize("need_head_weights", [False, True])
def test_attention_weights_equal_stock(need_head_weights):
    stock, gated = twins("cross")
    query, memory = torch.randn(T, B, C), torch.randn(S, B, C)
    options = {"key_padding_mask": padding(B, S), "static_kv": True, "need_head_weights": need_head_weights}
    gated.make_generation_fast_(need_attn=True)
    expected, expected_weights = stock(query, memory, memory, **options)
    output, weights = gated(query, memory, memory, **options)
    close(output, expected)
    close(weights, expected_weights)
    assert weights.shape == ((H, B, T, S) if need_head_weights else (B, T, S))
    close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_attention_weights_only_where_asked():
    _, gated = twins("cross")
    query, memory = torch.randn(T, B, C), torch.randn(S, B, C)
    assert gated(query, memory, memory, need_weights=True)[1] is None  # as a decoder layer asks by default
    assert gated(query, memory, memory, need_head_weights=True)[1] is not None
    gated.make_generation_fast_(need_attn=True)
    assert gated(query, memory, memory, need_weights=True)[1] is not None
    assert gated(query, memory, memory, need_weights=False)[1] is None
    gated.make_generation_fast_(need_attn=None)  # fairseq hands over its --print-alignment, unset
    assert gated(query, memory, memory, need_weights=True)[1] is None


def pruned_to(gated: GatedMultiheadAttention, kept: list) -> GatedMultiheadAttention:
    """The block without its other heads."""
    pruned = GatedMultiheadAttention(C, H, encoder_decoder_attention=True).eval()
    pruned.resize(len(kept))
    rows = [head * D + row for head in kept for row in range(D)]
    state = {}
    for name, weights in gated.state_dict().items():
        if name.startswith("out_proj"):
            state[name] = weights[:, rows] if name.endswith("weight") else weights
        else:
            state[name] = weights[rows]
    pruned.load_state_dict({name: state[name] for name in pruned.state_dict()})
    pruned.make_generation_fast_(need_attn=True)
    return pruned


@pytest.mark.parametrize("need_head_weights", [False, True])
@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [1, 3], [2], []])
@pytest.mark.parametrize("rows", [False, True])
def test_a_masked_block_shows_the_weights_of_the_pruned_one(kept, need_head_weights, rows):
    _, gated = twins("cross")
    gated.make_generation_fast_(need_attn=True)
    gates = torch.tensor([float(head in kept) for head in range(H)])
    gated.read_gates = lambda: gates.expand(B, H) if rows else gates
    query, memory = torch.randn(T, B, C), torch.randn(S, B, C)
    options = {"key_padding_mask": padding(B, S), "static_kv": True, "need_head_weights": need_head_weights}
    output, weights = gated(query, memory, memory, **options)
    expected, expected_weights = pruned_to(gated, kept)(query, memory, memory, **options)
    close(output, expected)
    close(weights, expected_weights)
    assert weights.shape == ((max(1, len(kept)), B, T, S) if need_head_weights else (B, T, S))


def test_a_block_in_training_shows_the_weights_of_all_heads():
    """Gates are then neither open nor closed, even those that are 0 by chance."""
    stock, gated = twins("cross")
    gated.make_generation_fast_(need_attn=True)
    gated.read_gates = lambda: torch.tensor([1.0, 0.0, 0.3, 0.0])
    query, memory = torch.randn(T, B, C), torch.randn(S, B, C)
    close(gated.train()(query, memory, memory)[1], stock.train()(query, memory, memory)[1])


# ---- incremental decoding


def test_incremental_decoding_equals_teacher_forcing():
    stock, gated = twins("self")
    x = torch.randn(T, B, C)
    teacher, _ = gated(x, x, x, attn_mask=causal(T), need_weights=False)
    close(decode(gated, x), teacher)
    close(decode(gated, x), decode(stock, x))


def test_incremental_decoding_with_padding_in_the_past():
    stock, gated = twins("self")
    x = torch.randn(T, B, C)
    first = torch.tensor([[False], [True], [False]]).expand(B, 1)
    # a query whose every key is padding has no defined answer: leave out that step of that row
    expected, found = (decode(m, x, key_padding_mask=first) for m in (stock, gated))
    close(found[1:], expected[1:])
    assert not torch.allclose(found[1:], decode(gated, x)[1:])


@pytest.mark.parametrize("order", [[2, 2, 0], [1, 0, 1], [2]], ids=["swap", "copy", "shrink"])
def test_reordering_the_self_attention_cache(order):
    stock, gated = twins("self")
    order = torch.tensor(order)
    before, after = torch.randn(3, B, C), torch.randn(2, len(order), C)
    outputs = []
    for module in (stock, gated):
        state = {}
        decode(module, before, state)
        module.reorder_incremental_state(state, order)
        outputs.append(decode(module, after, state))
    close(outputs[1], outputs[0])
    whole = torch.cat([before[:, order], after])
    close(outputs[1], gated(whole, whole, whole, attn_mask=causal(5), need_weights=False)[0][3:])


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("weights", [False, True])
def test_the_cross_attention_cache_of_a_beam_search(beam, weights):
    """Steps, a reordering inside the beams, steps, one sentence finished (the batch shrinks), steps."""
    sentences = 3
    modules = twins("cross")
    modules[1].make_generation_fast_(need_attn=weights)
    memory, pad = torch.randn(S, sentences, C), padding(sentences, S)
    # what fairseq's search does to the encoder output
    spread = torch.arange(sentences).repeat_interleave(beam)
    queries = torch.randn(6, sentences * beam, C)
    inside = (torch.arange(sentences)[:, None] * beam + torch.randint(beam, (sentences, beam))).view(-1)
    shrunk = torch.arange(beam, sentences * beam)  # sentence 0 has finished
    results = []
    for module in modules:
        module.set_beam_size(beam)
        state, key, key_pad, rows, out = (
            {},
            memory[:, spread],
            pad[spread],
            torch.arange(sentences * beam),
            [],
        )
        for t, query in enumerate(queries):
            if t in (2, 4):
                order = inside if t == 2 else shrunk
                module.reorder_incremental_state(state, order)
                key, key_pad, rows = key[:, order], key_pad[order], rows[order] if t == 4 else rows
            step = query[None, rows]
            output, attention = module(
                step,
                key,
                key,
                key_padding_mask=key_pad,
                incremental_state=state,
                static_kv=True,
                need_weights=weights,
            )
            out.append((output, attention))
        results.append(out)
        cache = state[module._incremental_state_id + ".attn_state"]
        assert cache["prev_key"].shape == (sentences - 1, H, S, D)  # once a sentence, not once a hypothesis
    for (expected, expected_weights), (output, attention) in zip(*results):
        close(output, expected)
        if weights:
            close(attention, expected_weights)
        else:
            assert attention is None
    # and it is the cross-attention of the whole: nothing is lost in the cache
    module = modules[1]
    module.set_beam_size(1)
    direct = module(
        queries[:1, :beam], memory[:, :1].expand(S, beam, C), memory[:, :1].expand(S, beam, C), static_kv=True
    )[0]
    close(results[1][0][0][:, :beam], direct)


def test_hypotheses_that_share_a_source_with_an_attention_mask():
    """Several queries a hypothesis, as with a forced prefix: equal to a source repeated for every
    hypothesis.
    """
    _, gated = twins("cross")
    sentences, beam = 2, 3
    query, memory, pad = (
        torch.randn(T, sentences * beam, C),
        torch.randn(S, sentences, C),
        padding(sentences, S),
    )
    spread = torch.arange(sentences).repeat_interleave(beam)
    attn_mask = torch.zeros(T, S).masked_fill_(torch.rand(T, S) < 0.3, float("-inf"))
    attn_mask[:, 0] = 0
    expected, _ = gated(
        query, memory[:, spread], memory[:, spread], key_padding_mask=pad[spread], attn_mask=attn_mask
    )
    output, _ = gated(query, memory, memory, key_padding_mask=pad, attn_mask=attn_mask)
    close(output, expected)


def test_a_beam_size_left_over_from_validation_does_not_touch_training():
    """--eval-bleu searches with a beam between two epochs, and fairseq leaves its size on the modules."""
    _, gated = twins("cross")
    query, memory = torch.randn(T, B, C), torch.randn(S, B, C)
    options = {"key_padding_mask": padding(B, S), "static_kv": True}
    before = gated(query, memory, memory, **options)[0]
    gated.set_beam_size(B)
    assert torch.equal(gated(query, memory, memory, **options)[0], before)


# ---- dropout, and what is not offered


@pytest.mark.parametrize("weights", [False, True], ids=["fused", "explicit"])
def test_dropout_in_training_only(weights):
    _, gated = twins("self", dropout=0.5)
    x = torch.randn(T, B, C)

    def draw() -> torch.Tensor:
        return gated(x, x, x, need_head_weights=weights)[0].detach()

    assert torch.equal(draw(), draw())
    expected = draw()
    gated.train()
    draws = torch.stack([draw() for _ in range(3000)])
    assert draws.std(0).min() > 0.01
    # inverted dropout: right on average
    assert ((draws.mean(0) - expected).abs() / draws.std(0)).max() < 5 / 3000**0.5


def test_dropout_kept_at_inference_where_fairseq_is_told_so():
    _, gated = twins("self", dropout=0.5)
    gated.dropout_module.apply_during_inference = True
    x = torch.randn(T, B, C)
    assert not torch.equal(gated(x, x, x)[0], gated(x, x, x)[0])


@pytest.mark.parametrize(
    "option", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"xformers_att_config": "{}"}]
)
def test_options_that_gates_do_not_cover(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        GatedMultiheadAttention(C, H, **option)


def test_before_softmax_is_refused():
    _, gated = twins("self")
    x = torch.randn(T, B, C)
    with pytest.raises(NotImplementedError):
        gated(x, x, x, before_softmax=True)
