"""What our programs score is, sentence for sentence, what stock fairseq-generate prints of the same model."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

from fairseq_commands import run
from fairseq_training import STOCK, train, write_corpus
from generation_log import read_log

from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.programs.generate import generate
from dsp_plugin.mt.surgery.stock_export import export_fairseq
from dsp_plugin.records.bleu import bleu, bleu_statistics
from dsp_plugin.records.files.packed import read_packed
from dsp_plugin.records.record import load_record
from dsp_plugin.records.sentences import SENTENCES_NAME

COMMON = (
    "-s de -t en --cpu --num-workers 0 --no-progress-bar --max-len-b 8 --required-batch-size-multiple 1"
).split()


@pytest.fixture(scope="module")
def subwords(tmp_path_factory):
    """(data folder, codes of BPE, a checkpoint that needs no plugin): every word is of two subwords."""
    folder = tmp_path_factory.mktemp("subwords")
    data = write_corpus(folder, "@@ 7")
    (folder / "codes").write_text("#version: 0.2\ne 1</w>\n")
    train(data, folder / "run", *STOCK, "--max-update", 6).succeeded()
    exported = export_fairseq(load_checkpoint(str(folder / "run" / "checkpoint_last.pt")))
    save_checkpoint(exported.state, str(folder / "model.pt"))
    return data, folder / "codes", folder / "model.pt"


@pytest.mark.parametrize(
    "flags",
    [
        "--beam 2 --batch-size 5",
        "--beam 3 --batch-size 1 --remove-bpe",
        "--beam 4 --max-tokens 60 --remove-bpe --sacrebleu --nbest 2",
        "--beam 2 --batch-size 12 --remove-bpe --prefix-size 2",
        "--beam 1 --batch-size 7 --remove-bpe --score-reference",
        "--beam 2 --batch-size 5 --bpe subword_nmt --bpe-codes CODES --tokenizer moses --sacrebleu",
        "--beam 2 --batch-size 5 --remove-bpe --gen-subset train --print-alignment",
    ],
)
def test_hypotheses_in_memory_are_those_of_the_log(subwords, tmp_path, flags):
    data, codes, path = subwords
    words = [str(data), "--path", str(path), *COMMON, *flags.replace("CODES", str(codes)).split()]
    hypotheses, references = read_log(run("fairseq_cli.generate", words, tmp_path).succeeded().output)
    assert len(hypotheses) == len(references) == (120 if "train" in flags else 12)
    assert any("@@" in text for text in references) == ("bpe" not in flags)

    ours = tmp_path / "ours"
    generate([*words, "--quiet", "--no-detok", "--record-dir", str(ours)])
    assert (ours / "translations.txt").read_text("utf-8").split("\n") == [*hypotheses, ""]
    expected = bleu(hypotheses, references)
    (score,) = load_record(ours / "results.json").metrics
    assert (score.value, score.signature) == (expected["value"], expected["signature"])
    kept = read_packed(ours / SENTENCES_NAME)
    assert kept["statistics"] == bleu_statistics(hypotheses, references)
