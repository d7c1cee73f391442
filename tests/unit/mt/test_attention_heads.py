"""Gates on attention heads, against the formula written out; blocks with fewer heads, or with none."""

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


def by_hand(module, query, key, gates, attn_mask=None):
    """Attention with gated heads, head by head: gates [B, h]. Returns [T, B, C]."""
    outputs = []
    for b in range(query.size(1)):
        contexts = []
        for head in range(module.num_heads):
            rows = slice(head * D, (head + 1) * D)

            def project(layer, x):
                return x @ layer.weight[rows].T + layer.bias[rows]

            q, k, v = (
                project(module.q_proj, query[:, b]),
                project(module.k_proj, key[:, b]),
                project(module.v_proj, key[:, b]),
            )
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
    small = GatedMultiheadAttention(
        C, H, **({"self_attention": True} if kind == "self" else {"encoder_decoder_attention": True})
    )
    small.resize(len(kept))
    assert small.num_heads == len(kept) and small.head_dim == D
    rows = torch.tensor([head * D + i for head in kept for i in range(D)])
    state = {
        name: value[:, rows]
        if name == "out_proj.weight"
        else value
        if name == "out_proj.bias"
        else value[rows]
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
        "k_proj.weight": (D, 8),
        "v_proj.weight": (D, 10),
        "q_proj.weight": (D, C),
        "out_proj.weight": (C, D),
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
        block = GatedMultiheadAttention(
            C, H, self_attention=kind == "self", encoder_decoder_attention=kind == "cross"
        )
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
