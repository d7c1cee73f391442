"""Rows, labels, batches, loss by token and generated text of causal language models, by brute force."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers")
from clm_data import gpt2, lines, tokenizer  # isort: skip

from transformers import BloomConfig, BloomForCausalLM, GenerationConfig, Trainer, TrainingArguments

from dsp_plugin.hf.data.clm import ClmDataset, Layout, PadRight, PromptDataset, perplexity, row_losses
from dsp_plugin.hf.data.clm_files import Line, references_of
from dsp_plugin.hf.data.clm_generation import generate
from dsp_plugin.options.errors import OptionError


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(tokenizer(), " => ")


def text(layout, ids) -> str:
    return layout.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_a_row_is_source_separator_target_end(layout):
    data = ClmDataset([Line("eins zwei", ("one two",)), Line("", ("one",))], layout, 64)
    first, alone = data[0], data[1]
    assert text(layout, first["input_ids"]) == "eins zwei => one two<|endoftext|>"
    assert text(layout, [label for label in first["labels"] if label >= 0]) == " one two<|endoftext|>"
    assert text(layout, alone["input_ids"]) == "<|endoftext|>one<|endoftext|>"
    assert alone["labels"] == [-100, *alone["input_ids"][1:]]
    assert data.cut == 0 and len(data) == 2


def test_every_target_is_a_row_and_the_source_can_be_learned_too(layout):
    data = ClmDataset([Line("eins", ("one", "two"))], layout, 64, loss_on_source=True)
    assert len(data) == 2 and data[0]["labels"] == [-100, *data[0]["input_ids"][1:]]


def test_prompts_are_the_beginnings_of_rows(layout):
    known = lines(20)
    rows, prompts = ClmDataset(known, layout, 64), PromptDataset(references_of(known), layout, 64)
    by_source = {line.source: number for number, line in enumerate(known)}
    for number, source in enumerate(references_of(known)):
        prompt, row = prompts[number]["input_ids"], rows[by_source[source]]
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["labels"][: len(prompt)] == [-100] * len(prompt) and row["labels"][len(prompt)] >= 0


@pytest.mark.parametrize(
    "source, target, room, kept",
    [
        (3, 3, 7, (3, 4)),  # all of it, with the end
        (3, 3, 6, (3, 3)),  # the end of the text is the first to go
        (9, 2, 7, (4, 3)),
        (2, 9, 7, (2, 5)),
        (9, 9, 7, (3, 4)),
        (9, 9, 2, (1, 1)),
    ],
)
def test_what_is_too_long_loses_the_end_of_the_longer_part(source, target, room, kept):
    layout = Layout(tokenizer(), "=>")
    line = Line("q" * source, ("q" * target,))  # a letter that it never saw, so a token each
    data = ClmDataset([line], layout, room + len(layout.separator))
    row = data[0]
    learned = sum(label >= 0 for label in row["labels"])
    assert (len(row["input_ids"]) - learned - len(layout.separator), learned) == kept
    assert row["input_ids"][kept[0] : -learned] == layout.separator
    assert data.cut == (sum(kept) < source + target + 1)
    assert (row["input_ids"][-1] == layout.end) == (kept[1] == target + 1)


def test_what_no_row_fits_in_is_refused(layout):
    with pytest.raises(OptionError, match="max_seq_length 2: 3 tokens are the least"):
        ClmDataset(lines(1), layout, 2)


def test_a_tokenizer_without_an_end_is_refused():
    made = tokenizer()
    made.eos_token = None
    with pytest.raises(OptionError, match="tokenizer_name has no token for the end"):
        Layout(made, " => ")


def test_a_tokenizer_that_begins_texts_by_itself_keeps_its_beginning():
    from tokenizers.processors import TemplateProcessing

    made = tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", made.bos_token_id)]
    )
    layout = Layout(made, " => ")
    (row,) = [ClmDataset([Line("eins", ("one",))], layout, 64)[0]]
    assert text(layout, row["input_ids"]) == "<|endoftext|>eins => one<|endoftext|>"


def by_hand(model, row) -> list[float]:
    """The loss of each labelled token of one row, alone, without padding."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    return [-float(logits[t - 1, label]) for t, label in enumerate(row["labels"]) if label >= 0]


@pytest.mark.parametrize("batch_size, smoothing", [(1, 0), (3, 0), (8, 0), (3, 0.2)])
def test_perplexity_counts_every_token_the_same_whatever_the_batches(layout, tmp_path, batch_size, smoothing):
    model, data = gpt2(len(layout.tokenizer)), ClmDataset(lines(11), layout, 64)
    with torch.no_grad():
        losses = [loss for number in range(len(data)) for loss in by_hand(model, data[number])]
    args = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=batch_size,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        label_smoothing_factor=smoothing,
    )
    trainer = Trainer(
        model=model,
        args=args,
        eval_dataset=data,
        data_collator=PadRight(layout.end),
        compute_metrics=lambda found: perplexity(found.predictions),
        preprocess_logits_for_metrics=row_losses,
    )
    found = trainer.evaluate()
    mean = sum(losses) / len(losses)
    assert found["eval_loss"] == pytest.approx(mean, abs=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)


def test_a_loss_that_is_no_number_is_told():
    with pytest.raises(ValueError, match="the model's loss is nan"):
        perplexity(torch.tensor([[float("nan"), 3.0]]).numpy())
    assert perplexity(torch.tensor([[9e9, 1.0]]).numpy())["perplexity"] == math.exp(700)


def alone(model, prompt, end, **options) -> list[int]:
    """What `model.generate` makes of one prompt, without padding."""
    ids = torch.tensor([prompt])
    settings = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end, **options)
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)[
        0, len(prompt) :
    ].tolist()
    return made[: made.index(end)] if end in made else made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_text_does_not_hang_on_its_neighbours(layout, dtype, beams):
    model = gpt2(len(layout.tokenizer)).to(dtype)
    prompts = PromptDataset(references_of(lines(7)), layout, 64)
    options = {"max_new_tokens": 8, "num_beams": beams}
    one_by_one = {
        number: alone(model, prompts[number]["input_ids"], layout.end, **options)
        for number in range(len(prompts))
    }
    assert len(set(map(tuple, one_by_one.values()))) > 3  # they are different texts
    for batch_size in (1, 3, 16):
        assert generate(model, prompts, layout.end, batch_size, **options) == one_by_one
    halves = [generate(model, prompts, layout.end, 2, share=(rank, 2), **options) for rank in (0, 1)]
    assert {**halves[0], **halves[1]} == one_by_one and not halves[0].keys() & halves[1].keys()


def test_a_model_that_padding_changes_gets_none(layout):
    """BLOOM's eager attention makes NaN of rows that see nothing."""
    torch.manual_seed(1)
    sizes = dict(vocab_size=len(layout.tokenizer), hidden_size=16, n_layer=2, n_head=2)
    model = BloomForCausalLM(BloomConfig(**sizes, initializer_range=0.4)).eval()
    prompts = PromptDataset(references_of(lines(9)), layout, 64)
    one_by_one = {
        number: alone(model, prompts[number]["input_ids"], layout.end, max_new_tokens=6)
        for number in range(len(prompts))
    }
    assert len(set(map(tuple, one_by_one.values()))) > 3
    assert generate(model, prompts, layout.end, 4, 6) == one_by_one


def test_greedy_text_is_the_largest_logit_step_by_step_and_stops_at_the_end(layout):
    model = gpt2(len(layout.tokenizer), seed=2)
    prompts = PromptDataset(references_of(lines(5)), layout, 64)
    expected = {}
    for number in range(len(prompts)):
        ids = list(prompts[number]["input_ids"])
        begin = len(ids)
        with torch.no_grad():
            while len(ids) < begin + 6:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        expected[number] = ids[begin:]
    end = expected[0][3]  # as if the text ended there
    cut = {number: row[: row.index(end)] if end in row else row for number, row in expected.items()}
    assert len(cut[0]) <= 3
    found = generate(model, prompts, end, 4, 6)
    assert found == cut


def test_a_models_own_way_of_generating_is_left_aside_and_given_back(layout):
    model = gpt2(len(layout.tokenizer)).train()
    prompts = PromptDataset(references_of(lines(3)), layout, 64)
    plain = generate(model, prompts, layout.end, 4, 6)
    own = GenerationConfig(repetition_penalty=9.0, do_sample=True, temperature=5.0, min_new_tokens=6)
    model.generation_config = own
    assert generate(model, prompts, layout.end, 4, 6) == plain
    assert model.generation_config is own and model.training
