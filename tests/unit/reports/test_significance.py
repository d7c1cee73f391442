"""Sentence statistics beside records, and the paired bootstrap from them against sacreBLEU's test on the
texts.
"""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from dsp_plugin.records.bleu import bleu, bleu_statistics
from dsp_plugin.records.files.packed import read_packed
from dsp_plugin.records.files.sealed import write_json
from dsp_plugin.records.record import Metric, Record, find_records, load_record, save_record
from dsp_plugin.records.sentences import load_statistics, save_sentences
from dsp_plugin.reports.significance import Comparison, compare_with_baseline, largest_p, paired_bootstrap
from dsp_plugin.reports.tables.rows import Setting

WORDS = "a man sits on the red chair and two dogs run over green grass near water".split()


def corpus(seed: int, lines: int = 80) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + " ." for _ in range(lines)]


REFERENCES = corpus(0)


def worse(share: float, seed: int) -> list[str]:
    """The references with that share of the words replaced."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else word for word in line.split())
        for line in REFERENCES
    ]


GOOD, SIMILAR, BAD = worse(0.2, 1), worse(0.21, 2), worse(0.6, 3)


def put(
    folder: Path, method: str, lines: list[str], kept: int = 6, seed: int = 1, subset: str = "test", **fields
):
    """A record of these translations with its sentences.json.xz."""
    score = bleu(lines, REFERENCES)
    metric = Metric("BLEU", score["value"], "", score["signature"], subset)
    heads = {
        "total": 24,
        "kept": kept,
        "blocks": [{"name": "a", "kind": "b", "num_heads": 24, "kept": [*range(kept)]}],
    }
    place = folder / f"{method}-{kept}-{seed}-{subset}"
    save_record(Record("mt-bleu", "small", method, seed=seed, metrics=[metric], heads=heads, **fields), place)
    statistics = bleu_statistics(lines, REFERENCES)
    save_sentences(place, {"metric": "BLEU", "signature": score["signature"], "statistics": statistics})
    return place


def test_statistics_count_n_grams():
    # translation: 4 tokens; reference: 5; matching: the, cat, sat | the cat, cat sat | the cat sat
    assert bleu_statistics(["the cat sat down"], ["so the cat sat there"]) == [[4, 5, 3, 2, 1, 0, 4, 3, 2, 1]]


def test_p_is_that_of_sacrebleu_on_the_texts():
    systems = [("base", GOOD), ("similar", SIMILAR), ("bad", BAD)]
    _, scores = PairedTest(systems, {"BLEU": BLEU()}, [REFERENCES], test_type="bs")()
    statistics = [bleu_statistics(lines, REFERENCES) for _, lines in systems]
    ours = paired_bootstrap(statistics[0], statistics[1:])
    assert ours == [result.p_value for result in scores["BLEU"][1:]]
    assert ours[1] < 0.01 < 0.05 < ours[0]  # the two cases are indeed different


def test_other_sentences_are_refused():
    statistics = bleu_statistics(GOOD, REFERENCES)
    with pytest.raises(ValueError, match="other references"):
        paired_bootstrap(statistics, [statistics[:-1]])


def test_runs_are_compared_with_the_baseline_of_their_seed(tmp_path):
    put(tmp_path, "unpruned", GOOD, 24, 1)
    put(tmp_path, "unpruned", BAD, 24, 2)
    put(tmp_path, "dsp", BAD, 6, 1)
    put(tmp_path, "dsp", BAD, 6, 3)
    by_seed = {one.seed: one for one in compare_with_baseline(find_records(tmp_path))}
    assert set(by_seed) == {1, 3}
    difference = bleu(BAD, REFERENCES)["value"] - bleu(GOOD, REFERENCES)["value"]
    assert by_seed[1].delta == pytest.approx(difference) and difference < 0
    assert (
        by_seed[1].p
        == paired_bootstrap(bleu_statistics(GOOD, REFERENCES), [bleu_statistics(BAD, REFERENCES)])[0]
    )
    assert (by_seed[3].p, by_seed[3].delta, by_seed[3].why) == (None, None, "no unpruned run of this seed")


def test_a_baseline_of_several_budgets_is_taken_at_the_same_one(tmp_path):
    put(tmp_path, "michel", GOOD, 12)
    put(tmp_path, "michel", BAD, 6)
    put(tmp_path, "dsp", SIMILAR, 6)
    put(tmp_path, "dsp", SIMILAR, 3)
    found = compare_with_baseline(find_records(tmp_path), baseline="michel")
    assert {one.setting.kept: one.baseline for one in found} == {
        6: pytest.approx(bleu(BAD, REFERENCES)["value"]),
        3: None,
    }


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda place: (place / "sentences.json.xz").unlink(), "no sentences.json.xz beside the record"),
        (lambda place: cut(place, b"{"), "damaged"),
        (lambda place: cut(place, lzma.compress(b"{")), "damaged"),
        (lambda place: cut(place, lzma.compress(b'{"metric": "BLEU"}')[:-3]), "damaged"),
        (lambda place: cut(place, lzma.compress(b'{"metric": "BLEU"}') * 2), "damaged"),
        (lambda place: cut(place, lzma.compress(b'{"metric": "BLEU"}')), "must have metric"),
        (lambda place: change(place, statistics=[[1, 2, 3]]), "lists of 10 integers"),
        (lambda place: change(place, statistics=[]), "at least one"),
        (lambda place: change(place, signature="tok:none"), "of BLEU tok:none"),
        (lambda place: change(place, statistics=bleu_statistics(GOOD, REFERENCES)), "its sentences give"),
    ],
)
def test_what_cannot_be_tested_says_why(tmp_path, spoil, why):
    put(tmp_path, "unpruned", GOOD, 24)
    spoil(put(tmp_path, "dsp", BAD))
    (one,) = compare_with_baseline(find_records(tmp_path))
    assert one.p is None and why in one.why
    assert one.delta == pytest.approx(bleu(BAD, REFERENCES)["value"] - bleu(GOOD, REFERENCES)["value"])


def test_other_data_is_not_compared(tmp_path):
    put(tmp_path, "unpruned", GOOD, 24, data="one")
    put(tmp_path, "dsp", BAD, data="other")
    assert [one.why for one in compare_with_baseline(find_records(tmp_path))] == ["scored on other data"]


def cut(place: Path, data: bytes) -> None:
    (place / "sentences.json.xz").write_bytes(data)


def change(place: Path, **fields) -> None:
    save_sentences(place, {**read_packed(place / "sentences.json.xz"), **fields})


def test_files_of_earlier_versions_are_read_and_replaced(tmp_path):
    place = put(tmp_path, "unpruned", GOOD, 24)
    (metric,) = load_record(place / "results.json").metrics
    new = load_statistics(place, metric)
    write_json(place / "sentences.json", json.dumps(read_packed(place / "sentences.json.xz")))
    (place / "sentences.json.xz").unlink()
    assert load_statistics(place, metric) == new
    save_sentences(place, read_packed(place / "sentences.json"))
    assert not (place / "sentences.json").exists() and load_statistics(place, metric) == new


def test_a_small_file_that_unpacks_to_more_than_any_is_refused(tmp_path):
    place = put(tmp_path, "unpruned", GOOD, 24)
    packer = lzma.LZMACompressor(preset=1)
    data = b"".join([*(packer.compress(bytes(2**24)) for _ in range(17)), packer.flush()])  # 272 MiB
    cut(place, data)
    with pytest.raises(ValueError, match="damaged"):
        read_packed(place / "sentences.json.xz")


def test_the_largest_p_counts_and_none_where_a_run_was_not_tested():
    first, second = Setting("small", "dsp", 6, 24), Setting("small", "dsp", 3, 24)
    found = [
        Comparison(first, 1, "BLEU", "test", 30.0, 31.0, 0.2),
        Comparison(first, 2, "BLEU", "test", 30.0, 31.0, 0.4),
        Comparison(second, 1, "BLEU", "test", 30.0, 31.0, 0.2),
        Comparison(second, 2, "BLEU", "test", 30.0, why="no unpruned run of this seed"),
    ]
    assert largest_p(found) == {(first, "BLEU", "test"): 0.4}


def test_generate_writes_the_statistics_of_what_it_scored(tmp_path):
    pytest.importorskip("fairseq")
    from dsp_plugin.mt.programs.generation_results import score, write_results

    args = SimpleNamespace(tokenizer=None, target_lang="en", gen_subset="test")
    hypotheses, references = (
        ["don &apos;t go , she said", "two dogs run ."],
        ["do n&apos;t go , she says", "two dogs run ."],
    )
    metrics, sentences = score(hypotheses, references, args, False, {}, "test")
    record = Record("mt-bleu", "small", "dsp", metrics=metrics)
    write_results(
        str(tmp_path), record, [SimpleNamespace(head_map=Blocks(), keep=Blocks())], hypotheses, sentences
    )
    assert load_statistics(tmp_path, metrics[0]) == sentences["statistics"]
    assert sentences["statistics"][1] == [4, 4, 4, 3, 2, 1, 4, 3, 2, 1]
    text = lzma.decompress((tmp_path / "sentences.json.xz").read_bytes()).decode()
    assert len(text.splitlines()) == 2  # a line a sentence
    assert score(hypotheses, [], args, False, {}, "test") == ([], None)
    write_results(str(tmp_path), record, [SimpleNamespace(head_map=Blocks(), keep=Blocks())], hypotheses)
    assert load_statistics(tmp_path, metrics[0]) is None  # those of other translations are gone


class Blocks:
    def to_dict(self):
        return {"blocks": []}

    def tolist(self):
        return []


def test_the_same_translations_do_not_differ():
    """sacreBLEU gives them its least p: a difference of 0 that is surely there."""
    references = [f"the {number} small cats sit on a mat of {number % 7}" for number in range(40)]
    base = bleu_statistics([line.replace("small ", "") for line in references], references)
    same, differing = paired_bootstrap(base, [[*base], bleu_statistics(references, references)])
    assert same == 1.0 and differing < 0.01
