"""Beam search through our caches and shared encoder outputs gives what stock fairseq gives, score for score.

Sentences are made to end one after the other, so that the batch shrinks in the middle of the search.
"""

from __future__ import annotations

import pytest
import torch

fairseq = pytest.importorskip("fairseq")

from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq_models import batch, build_dsp, build_stock

SENTENCES = 6


class EndsOneAfterTheOther(BeamSearch):
    """Makes the end of sentence ever likelier, sentence i from about step 2 i on."""

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None, **options):
        lprobs = lprobs.clone()
        lprobs[:, :, self.eos] += ((step - 2 * (original_batch_idxs + 1)) * 3.0).view(-1, 1)
        return super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs, **options)


@pytest.fixture
def double(monkeypatch):
    """Stock's decoding path works its softmax out in single precision."""
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))


def twins(data, seed: int = 0):
    """(task, stock, ours) in double precision with the same weights, far from their small initial values."""
    task, stock = build_stock(data)
    _, ours = build_dsp(data)
    torch.manual_seed(seed)
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(stock.state_dict())
    return task, stock.double().eval(), ours.double().eval()


def search(task, models, beam: int, alignment=None):
    for model in models:
        model.make_generation_fast_(need_attn=alignment)
    kind = SequenceGeneratorWithAlignment if alignment else SequenceGenerator
    words = task.target_dictionary
    generator = kind(models, words, beam_size=beam, max_len_b=20, search_strategy=EndsOneAfterTheOther(words))
    sample = batch(task, SENTENCES)
    sample["id"] = torch.arange(SENTENCES)
    return [hypothesis for sentence in generator.generate(models, sample) for hypothesis in sentence]


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected):
        assert mine["tokens"].tolist() == theirs["tokens"].tolist()
        torch.testing.assert_close(mine["positional_scores"], theirs["positional_scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_translations_equal_stock(tiny_data, double, beam):
    task, stock, ours = twins(tiny_data)
    expected = search(task, [stock], beam)
    assert len({len(hypothesis["tokens"]) for hypothesis in expected}) >= 4  # they do end one after the other
    assert_same(search(task, [ours], beam), expected)


def test_one_model_in_searches_of_different_width(tiny_data, double):
    task, stock, ours = twins(tiny_data)
    for beam in (5, 1, 3):
        assert_same(search(task, [ours], beam), search(task, [stock], beam))


def test_ensembles_with_a_stock_model_in_them(tiny_data, double):
    task, stock, ours = twins(tiny_data)
    _, other_stock, other_ours = twins(tiny_data, seed=1)
    expected = search(task, [stock, other_stock], 3)
    assert_same(search(task, [ours, other_ours], 3), expected)
    assert_same(search(task, [ours, other_stock], 3), expected)


def test_alignments_equal_stock_while_the_batch_shrinks(tiny_data, double):
    task, stock, ours = twins(tiny_data)
    expected, found = search(task, [stock], 3, alignment="hard"), search(task, [ours], 3, alignment="hard")
    assert_same(found, expected)
    for mine, theirs in zip(found, expected):
        assert torch.equal(torch.as_tensor(mine["alignment"]), torch.as_tensor(theirs["alignment"]))


def test_nobody_works_out_attention_weights_that_nobody_asked_for(tiny_data):
    task, _, ours = twins(tiny_data)
    sample = batch(task, 2)["net_input"]
    assert ours(**sample)[1]["attn"] == [None]
    encoder_out = ours.encoder(sample["src_tokens"], src_lengths=sample["src_lengths"])
    asked = ours.decoder(sample["prev_output_tokens"], encoder_out=encoder_out, alignment_layer=0)
    assert asked[1]["attn"][0].shape[:2] == sample["prev_output_tokens"].shape


class TestEncoderOutput:
    """What a beam search does to it, and what anybody else may."""

    def outputs(self, data):
        task, stock, ours = twins(data)
        sample = batch(task, 3)["net_input"]
        return [
            (m.encoder, m.encoder(sample["src_tokens"], src_lengths=sample["src_lengths"]))
            for m in (stock, ours)
        ]

    def test_a_beam_search_copies_nothing_until_a_sentence_ends(self, tiny_data):
        _, (encoder, out) = self.outputs(tiny_data)
        spread = encoder.reorder_encoder_out(out, torch.arange(3).repeat_interleave(2))
        assert spread["encoder_out"][0] is out["encoder_out"][0]
        inside = encoder.reorder_encoder_out(spread, torch.tensor([1, 1, 2, 3, 5, 4]))
        assert inside["encoder_out"][0] is out["encoder_out"][0]
        shrunk = encoder.reorder_encoder_out(inside, torch.tensor([0, 1, 5, 5]))
        assert torch.equal(shrunk["encoder_out"][0], out["encoder_out"][0][:, [0, 2]])
        assert torch.equal(shrunk["encoder_padding_mask"][0], out["encoder_padding_mask"][0][[0, 2]])
        again = encoder.reorder_encoder_out(shrunk, torch.tensor([3, 2]))
        assert torch.equal(again["encoder_out"][0], out["encoder_out"][0][:, [2]])

    @pytest.mark.parametrize("order", [[2, 0, 1], [1], [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2]])
    def test_any_other_order_is_taken_as_stock_takes_it(self, tiny_data, order):
        (stock, expected), (ours, found) = self.outputs(tiny_data)
        order = torch.tensor(order)
        expected, found = stock.reorder_encoder_out(expected, order), ours.reorder_encoder_out(found, order)
        torch.testing.assert_close(found["encoder_out"][0], expected["encoder_out"][0])
        assert torch.equal(found["encoder_padding_mask"][0], expected["encoder_padding_mask"][0])
