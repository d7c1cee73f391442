"""Label words at the mask: the whole model's numbers, for every family; losses; answers; data sets."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
from delta_models import bert_tokenizer, masked_lm  # isort: skip
from hf_models import tiny_model  # isort: skip

from dsp_plugin.delta.templates import Template
from dsp_plugin.hf.data.glue_files import Example
from dsp_plugin.hf.data.glue_tasks import TASKS
from dsp_plugin.hf.delta.encoding import PromptEncoder
from dsp_plugin.hf.delta.prompt_data import (
    DemonstrationDataset,
    NewDraws,
    PromptCollator,
    PromptDataset,
    label_word_answers,
    label_word_metrics,
)
from dsp_plugin.hf.delta.prompting import PromptingModel, label_word_loss
from dsp_plugin.options.errors import OptionError

WORDS = [7, 3, 11]


def batch(size: int = 4, length: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (size, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([9, 7, 8, 5])[:size, None]).long()
    return {
        "input_ids": ids * mask + (1 - mask),
        "attention_mask": mask,
        "mask_pos": torch.tensor([3, 6, 0, 2]),
    }


@pytest.mark.parametrize(
    "family", ["Bert", "Roberta", "XLMRoberta", "Camembert", "MPNet", "DistilBert", "Electra", "Albert"]
)
def test_the_logits_are_the_whole_models(family):
    model = masked_lm(family, 60)
    given = batch()
    places = given.pop("mask_pos")
    with torch.no_grad():
        expected = model(**given).logits[torch.arange(4), places][:, WORDS]
        found = PromptingModel(model, WORDS)(**given, mask_pos=places).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_other_models_are_refused_by_name():
    with pytest.raises(OptionError, match="model_name_or_path: gpt2 cannot be prompted: albert, bert"):
        PromptingModel(tiny_model("gpt2"), WORDS)
    with pytest.raises(OptionError, match="BertForSequenceClassification has no masked-LM head"):
        PromptingModel(tiny_model("bert"), WORDS)
    with pytest.raises(ValueError, match="between two label words, and there are 3"):
        PromptingModel(masked_lm("Bert", 60), WORDS, regression=True)


def test_losses():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.0, 4.0]])
    q = logits.softmax(1)
    expected = -(q[0, 1] * q[1, 0] * q[2, 1]).log() / 3
    torch.testing.assert_close(label_word_loss(logits, torch.tensor([1, 0, 1])), expected)
    scores = torch.tensor([0.0, 2.5, 4.0])
    by_hand = [
        -sum(p * math.log(float(one)) for p, one in zip((1 - y / 5, y / 5), row))
        for y, row in zip(scores.tolist(), q)
    ]
    assert float(label_word_loss(logits, scores, True)) == pytest.approx(sum(by_hand) / 3)


def test_the_loss_of_scores_is_least_at_the_score():
    """What the published loss, a KL divergence of logarithms the wrong way round, does not do."""
    for score in (0.2, 1.0, 2.5, 4.8):
        logits = torch.zeros(1, 2, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=100)

        def closure(logits=logits, optimizer=optimizer, score=score):
            optimizer.zero_grad()
            loss = label_word_loss(logits, torch.tensor([score]), True)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert float(label_word_answers(TASKS["stsb"], logits.detach())[0]) == pytest.approx(score, abs=1e-2)


def test_answers_average_the_logits_of_the_draws():
    logits = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.5], [0.2, 0.0]])
    assert label_word_answers(TASKS["sst2"], logits, draws=3).tolist() == [0, 1]
    evaluation = SimpleNamespace(predictions=logits, label_ids=np.array([0, 0, 0, 1, 1, 1]))
    assert label_word_metrics(TASKS["sst2"], 3)(evaluation) == {"accuracy": 1.0}
    yes = label_word_answers(TASKS["stsb"], logits, draws=3)
    assert yes[0] == pytest.approx(5 / (1 + math.exp(1 / 3)))
    with pytest.raises(ValueError, match="1 of 2 outputs are not finite"):
        label_word_answers(TASKS["sst2"], [[0.0, float("nan")], [0, 1]])


def examples(count: int, task: str = "sst2") -> list[Example]:
    text, words = "the sailor sees", ("everything", "nothing")
    labels = (0.0, 5.0) if task == "stsb" else (0, 1)
    return [Example(str(n), f"{text} {words[n % 2]}", None, labels[n % 2]) for n in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return bert_tokenizer(tmp_path_factory.mktemp("bert"))


def encoder(tokenizer, shown: int = 0) -> PromptEncoder:
    template = Template.parse("*cls*prompt*sent_0*_It_was*mask*.*sep+*")
    template = template.with_demonstrations(shown, 1) if shown else template
    words = tokenizer.convert_tokens_to_ids(["terrible", "great"])
    return PromptEncoder(tokenizer, template, words, 64, 1, shown, prompt_num=2)


def test_batches(tokenizer):
    data = PromptDataset([*examples(2), Example("2", "a child", None, 1)], encoder(tokenizer))
    made = PromptCollator(tokenizer.pad_token_id)([data[0], data[2]])
    assert made["input_ids"].shape == made["prompt_ids"].shape == made["token_type_ids"].shape == (2, 12)
    assert made["attention_mask"].sum(1).tolist() == [12, 10] and made["labels"].tolist() == [0, 1]
    rows = torch.arange(2)
    assert (made["input_ids"][rows, made["mask_pos"]] == tokenizer.mask_token_id).all()
    assert PromptCollator(0, 20)([data[0]])["input_ids"].shape == (1, 20)
    scores = PromptDataset(examples(3, "stsb"), encoder(tokenizer))
    assert PromptCollator(0)([scores[0], scores[1]])["labels"].dtype == torch.float32


def test_demonstrations_are_one_a_class_drawn_by_seed_epoch_and_row(tokenizer):
    pool = examples(12)
    data = DemonstrationDataset(pool, encoder(tokenizer, 2), TASKS["sst2"], pool, seed=1, excludes=True)
    drawn = [data.shown(row) for row in range(12)]
    for row, (zero, one) in enumerate(drawn):
        assert pool[zero].label == 0 and pool[one].label == 1 and row not in (zero, one)
    assert drawn == [data.shown(row) for row in range(12)]
    NewDraws(data).on_epoch_begin(None, SimpleNamespace(epoch=1.4), None)
    later = [data.shown(row) for row in range(12)]
    assert data.epoch == 1 and later != drawn
    other = DemonstrationDataset(pool, encoder(tokenizer, 2), TASKS["sst2"], pool, seed=2, excludes=True)
    assert [other.shown(row) for row in range(12)] != drawn
    tokens = tokenizer.convert_ids_to_tokens(data[3]["input_ids"])
    assert tokens.count("[MASK]") == 1 and tokens.count("terrible") == tokens.count("great") == 1
    seen = {number for epoch in range(60) for number in shown_in(data, epoch, 3)}
    assert seen == {0, 2, 4, 6, 8, 10, 1, 5, 7, 9, 11}  # every one but the row itself


def shown_in(data: DemonstrationDataset, epoch: int, row: int) -> list[int]:
    data.epoch = epoch
    return data.shown(row)


def test_scoring_has_several_draws_of_each_row(tokenizer):
    pool = examples(6, "stsb")
    data = DemonstrationDataset(examples(3, "stsb"), encoder(tokenizer, 2), TASKS["stsb"], pool, 1, draws=16)
    assert len(data) == 48 and [data[row]["labels"] for row in (0, 15, 16, 47)] == [0.0, 0.0, 5.0, 0.0]
    assert len({tuple(data.shown(row)) for row in range(16)}) > 3
    assert data.largest("input_ids") == max(max(data[row]["input_ids"]) for row in range(48))
    with pytest.raises(IndexError):
        data[48]


def test_a_class_without_an_example_to_show(tokenizer):
    pool = examples(3)  # two of label 0, one of label 1
    DemonstrationDataset(pool, encoder(tokenizer, 2), TASKS["sst2"], pool, 1)
    with pytest.raises(OptionError, match="no example of 1 to show beside the example itself"):
        DemonstrationDataset(pool, encoder(tokenizer, 2), TASKS["sst2"], pool, 1, excludes=True)
    with pytest.raises(OptionError, match="no example of scores from 2.5"):
        DemonstrationDataset(pool, encoder(tokenizer, 2), TASKS["stsb"], examples(1, "stsb"), 1)
