"""Gated attention against fairseq's own module with the same weights, and against the formula written out.

Shapes as in the module: T queries, S keys, B sentences, C = embed_dim, h heads, d = head_dim. All in float64.
"""

from __future__ import annotations

import pytest
import torch

fairseq = pytest.importorskip("fairseq")

from fairseq.modules import MultiheadAttention

from dsp_plugin.mt.attention import GatedMultiheadAttention

C, H, T, S, B = 12, 4, 5, 6, 3
D = C // H


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Double precision throughout: stock's own decoding path works its softmax out in single precision."""
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def twins(kind: str, **options):
    """(stock, gated) with the same random weights, in evaluation mode. kind: 'self' or 'cross'."""
    options["self_attention" if kind == "self" else "encoder_decoder_attention"] = True
    stock = MultiheadAttention(C, H, **options).eval()
    for parameter in stock.parameters():  # biases too: fairseq starts them at 0
        torch.nn.init.normal_(parameter, std=0.5)
    gated = GatedMultiheadAttention(C, H, **options).eval()
    gated.load_state_dict(stock.state_dict())
    return stock, gated


def padding(rows: int, length: int) -> torch.Tensor:
    """[B, S] bool: row 0 has no padding, row 1 one at the end, row 2 two, ..."""
    return torch.arange(length)[None, :] >= length - torch.arange(rows)[:, None]


def causal(length: int) -> torch.Tensor:
    return torch.full((length, length), float("-inf")).triu(1)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_same_parameters_and_names_as_stock():
    stock, gated = twins("cross", kdim=8, vdim=10)
    assert list(stock.state_dict()) == list(gated.state_dict())


@pytest.mark.parametrize("pad", [None, "bool", "float"])
@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_self_attention(pad, mask):
    stock, gated = twins("self")
    x = torch.randn(T, B, C)
    key_padding_mask = None if pad is None else padding(B, T).to(torch.bool if pad == "bool" else torch.float64)
    attn_mask = None if mask is None else causal(T) if mask == "float" else causal(T).bool()
    options = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask, "need_weights": False}
    expected, none = stock(x, x, x, **options)
    output, weights = gated(x, x, x, **options)
    close(output, expected)
    assert weights is None


@pytest.mark.parametrize("options", [{}, {"kdim": 8, "vdim": 8}], ids=["same-size", "encoder-of-another-size"])
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
        output, _ = module(q, k, k, key_padding_mask=key_padding_mask, attn_mask=attn_mask, need_weights=False)
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


# ---- incremental decoding


def decode(module, x, state=None, key_padding_mask=None):
    """Self-attention over x [T, B, C] one step at a time; returns [T, B, C]. Padding is given with the first step."""
    state = {} if state is None else state
    steps = []
    for t in range(len(x)):
        step = x[t : t + 1]
        pad = key_padding_mask[:, :1] if key_padding_mask is not None and t == 0 else None
        steps.append(module(step, step, step, key_padding_mask=pad, incremental_state=state, need_weights=False)[0])
    return torch.cat(steps)


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
    spread = torch.arange(sentences).repeat_interleave(beam)  # what fairseq's search does to the encoder output
    queries = torch.randn(6, sentences * beam, C)
    inside = (torch.arange(sentences)[:, None] * beam + torch.randint(beam, (sentences, beam))).view(-1)
    shrunk = torch.arange(beam, sentences * beam)  # sentence 0 has finished
    results = []
    for module in modules:
        module.set_beam_size(beam)
        state, key, key_pad, rows, out = {}, memory[:, spread], pad[spread], torch.arange(sentences * beam), []
        for t, query in enumerate(queries):
            if t in (2, 4):
                order = inside if t == 2 else shrunk
                module.reorder_incremental_state(state, order)
                key, key_pad, rows = key[:, order], key_pad[order], rows[order] if t == 4 else rows
            step = query[None, rows]
            output, attention = module(
                step, key, key, key_padding_mask=key_pad, incremental_state=state, static_kv=True, need_weights=weights
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
    direct = module(queries[:1, :beam], memory[:, :1].expand(S, beam, C), memory[:, :1].expand(S, beam, C), static_kv=True)[0]
    close(results[1][0][0][:, :beam], direct)


def test_hypotheses_that_share_a_source_with_an_attention_mask():
    """Several queries a hypothesis, as with a forced prefix: equal to a source repeated for every hypothesis."""
    _, gated = twins("cross")
    sentences, beam = 2, 3
    query, memory, pad = torch.randn(T, sentences * beam, C), torch.randn(S, sentences, C), padding(sentences, S)
    spread = torch.arange(sentences).repeat_interleave(beam)
    attn_mask = torch.zeros(T, S).masked_fill_(torch.rand(T, S) < 0.3, float("-inf"))
    attn_mask[:, 0] = 0
    expected, _ = gated(query, memory[:, spread], memory[:, spread], key_padding_mask=pad[spread], attn_mask=attn_mask)
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


# ---- gates and head counts


def by_hand(module, query, key, gates, attn_mask=None):
    """Attention with gated heads, head by head: gates [B, h]. Returns [T, B, C]."""
    outputs = []
    for b in range(query.size(1)):
        contexts = []
        for head in range(module.num_heads):
            rows = slice(head * D, (head + 1) * D)

            def project(layer, x):
                return x @ layer.weight[rows].T + layer.bias[rows]

            q, k, v = project(module.q_proj, query[:, b]), project(module.k_proj, key[:, b]), project(module.v_proj, key[:, b])
            logits = q @ k.T / D**0.5
            if attn_mask is not None:
                logits = logits + attn_mask
            contexts.append(gates[b, head] * (torch.softmax(logits, -1) @ v))
        outputs.append(torch.cat(contexts, -1) @ module.out_proj.weight.T + module.out_proj.bias)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("rows", [None, B], ids=["one-a-head", "one-an-example"])
@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("weights", [False, True], ids=["fused", "explicit"])
def test_gates_by_the_formula(rows, kind, weights):
    _, gated = twins(kind)
    gates = torch.rand(H) if rows is None else torch.rand(B, H)
    gated.read_gates = lambda: gates
    query = torch.randn(T, B, C)
    key = query if kind == "self" else torch.randn(S, B, C)
    attn_mask = causal(T) if kind == "self" else None
    output, _ = gated(query, key, key, attn_mask=attn_mask, need_head_weights=weights)
    close(output, by_hand(gated, query, key, gates.expand(B, H), attn_mask))


def test_gates_in_incremental_decoding():
    _, gated = twins("self")
    gated.read_gates = lambda: torch.tensor([0.0, 1.0, 0.5, 0.0])
    x = torch.randn(T, B, C)
    close(decode(gated, x), gated(x, x, x, attn_mask=causal(T), need_weights=False)[0])


def test_every_example_has_a_gradient_of_its_own():
    """Row b of the gradient of gates [B, h] is that of a batch with example b alone."""
    _, gated = twins("cross")
    query, memory = torch.randn(T, B, C), torch.randn(S, B, C)
    gates = torch.ones(B, H, requires_grad=True)
    gated.read_gates = lambda: gates
    gated(query, memory, memory)[0].square().sum().backward()
    for b in range(B):
        own = torch.ones(H, requires_grad=True)
        gated.read_gates = lambda: own
        gated(query[:, b : b + 1], memory[:, b : b + 1], memory[:, b : b + 1])[0].square().sum().backward()
        close(gates.grad[b], own.grad)


def test_no_gates_are_open_gates():
    _, gated = twins("self")
    x = torch.randn(T, B, C)
    plain = gated(x, x, x)[0]
    gated.read_gates = lambda: None
    assert torch.equal(gated(x, x, x)[0], plain)
    gated.read_gates = lambda: torch.ones(H)
    assert torch.equal(gated(x, x, x)[0], plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_precision_gates_on_a_half_precision_block(dtype):
    _, gated = twins("self")
    gated = gated.to(dtype)
    gated.read_gates = lambda: torch.ones(H, dtype=torch.float32, requires_grad=True)
    x = torch.randn(T, B, C, dtype=dtype)
    assert gated(x, x, x, key_padding_mask=padding(B, T))[0].dtype == dtype


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("kept", [[2], [0, 3], [0, 1, 2, 3]])
def test_fewer_heads_equal_closed_gates(kind, kept):
    _, full = twins(kind)
    full.read_gates = lambda: torch.tensor([float(head in kept) for head in range(H)])
    small = GatedMultiheadAttention(C, H, **({"self_attention": True} if kind == "self" else {"encoder_decoder_attention": True}))
    small.resize(len(kept))
    assert small.num_heads == len(kept) and small.head_dim == D
    rows = torch.tensor([head * D + i for head in kept for i in range(D)])
    state = {
        name: value[:, rows] if name == "out_proj.weight" else value if name == "out_proj.bias" else value[rows]
        for name, value in full.state_dict().items()
    }
    small.load_state_dict(state)
    small.eval()
    query = torch.randn(T, B, C)
    key = query if kind == "self" else torch.randn(S, B, C)
    close(small(query, key, key, key_padding_mask=None)[0], full(query, key, key)[0])
    if kind == "self":
        close(decode(small, query), decode(full, query))
    assert small(query, key, key, need_head_weights=True)[1].shape[0] == len(kept)


def test_an_encoder_of_another_size_keeps_its_size_when_resized():
    module = GatedMultiheadAttention(C, H, kdim=8, vdim=10, encoder_decoder_attention=True)
    module.resize(1)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "k_proj.weight": (D, 8), "v_proj.weight": (D, 10), "q_proj.weight": (D, C), "out_proj.weight": (C, D)
    }


def test_resizing_without_biases():
    module = GatedMultiheadAttention(C, H, self_attention=True, bias=False)
    module.resize(1)
    assert module.k_proj.bias is None
    x = torch.randn(T, B, C)
    assert module(x, x, x)[0].shape == (T, B, C)


class TestNoHeads:
    """A block whose heads are all gone: its output bias, and nothing else."""

    def block(self, kind: str) -> GatedMultiheadAttention:
        stock, gated = twins(kind)
        gated.resize(0)
        assert torch.equal(gated.out_proj.bias, stock.out_proj.bias)
        return gated

    def test_it_has_a_bias_and_no_other_parameter(self):
        assert list(self.block("self").state_dict()) == ["out_proj.bias"]

    @pytest.mark.parametrize("kind", ["self", "cross"])
    def test_it_equals_the_module_with_every_gate_closed(self, kind):
        stock, closed = twins(kind)
        closed.read_gates = lambda: torch.zeros(H)
        block = GatedMultiheadAttention(C, H, self_attention=kind == "self", encoder_decoder_attention=kind == "cross")
        block.resize(0)
        block.load_state_dict({"out_proj.bias": stock.out_proj.bias})
        query = torch.randn(T, B, C)
        close(block(query, query, query)[0], closed(query, query, query)[0])

    def test_it_keeps_no_cache(self):
        block, state = self.block("cross"), {}
        query, memory = torch.randn(1, 6, C), torch.randn(S, 6, C)
        block.set_beam_size(2)
        block(query, memory, memory, incremental_state=state, static_kv=True)
        assert state == {}
        block.reorder_incremental_state(state, torch.tensor([1, 0, 2, 2, 4, 5]))
        assert not any("prev_key" in value for value in state.values())

    @pytest.mark.parametrize("beam", [1, 2])
    def test_its_weights_are_even_over_the_source(self, beam):
        block = self.block("cross")
        query, memory, pad = torch.randn(T, B * beam, C), torch.randn(S, B, C), padding(B, S)
        weights = block(query, memory, memory, key_padding_mask=pad, need_head_weights=True)[1]
        assert weights.shape == (1, B * beam, T, S)
        for row in range(B * beam):
            visible = S - row // beam
            expected = torch.tensor([1 / visible] * visible + [0.0] * (S - visible))
            close(weights[0, row], expected.expand(T, S))

    def test_gradient_reaches_the_bias(self):
        block = self.block("self")
        x = torch.randn(T, B, C)
        block(x, x, x)[0].sum().backward()
        close(block.out_proj.bias.grad, torch.full((C,), float(T * B)))


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


@pytest.mark.parametrize("option", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"xformers_att_config": "{}"}])
def test_options_that_gates_do_not_cover(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        GatedMultiheadAttention(C, H, **option)


def test_before_softmax_is_refused():
    _, gated = twins("self")
    x = torch.randn(T, B, C)
    with pytest.raises(NotImplementedError):
        gated(x, x, x, before_softmax=True)
