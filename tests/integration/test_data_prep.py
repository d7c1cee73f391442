"""The data-prep commands from end to end: tiny corpora, resuming, bad input, no network."""

from __future__ import annotations

import functools
import http.server
import io
import json
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

PREP = Path(__file__).resolve().parents[2] / "data-prep"
sys.path.insert(0, str(PREP))

import embedded_corpus
from data_prep_programs import failed, lines, ok, run, write

MULTI30K = {"train": "train", "valid": "val", "test": "test_2016_flickr", "test1": "test_2017_flickr"}


def raw(sentence: str) -> str:
    """A tokenised sentence as people write it."""
    return sentence.capitalize().replace(" ,", ",").replace(" .", ".").replace(" ?", "?")


def write_multi30k(folder: Path, train: int = 80) -> dict[str, list[tuple[str, str]]]:
    pairs = embedded_corpus.corpus({"train": train, "valid": 6, "test": 5, "test1": 4}, seed=2)
    for split, name in MULTI30K.items():
        for side, lang in enumerate(("de", "en")):
            write(folder / f"{name}.{lang}", [raw(pair[side]) for pair in pairs[split]])
    return pairs


def test_multi30k_resume_whole_rerun(tmp_path):
    pairs = write_multi30k(tmp_path / "raw")
    # Two pairs to be cleaned away, an empty line in a test set that has to stay, a line separator that ends
    # no line.
    for lang, extra in (("de", ["Ja.", "Nein."]), ("en", ["", "No " * 40])):
        write(tmp_path / f"raw/train.{lang}", lines(tmp_path / f"raw/train.{lang}") + extra)
        test1 = tmp_path / f"raw/test_2017_flickr.{lang}"
        write(test1, lines(test1) + ["", "A\u2028b"])
    command = ("prepare-multi30k.sh", "--data", "raw")
    text, binary = tmp_path / "data/multi30k", tmp_path / "data-bin/multi30k"

    said = ok(run(*command, "--text-only", cwd=tmp_path, BPE_OPS="100"))
    assert not binary.exists()
    assert "2 of 82 pairs dropped" in said
    assert "published set has 29,000" in said
    assert lines(text / "tmp/train.de") == [german for german, _ in pairs["train"]]
    assert lines(text / "tmp/train.en") == [english for _, english in pairs["train"]]
    assert lines(text / "tmp/test1.de")[4:] == ["", "a b"]
    assert [line.replace("@@ ", "") for line in lines(text / "valid.en")] == [
        english for _, english in pairs["valid"]
    ]
    assert any("@@" in line for line in lines(text / "valid.en"))

    # As if it had been killed on the way: one side missing, a half-written file and folder left.
    whole, when = (text / "valid.en").read_bytes(), (text / "train.de").stat().st_mtime_ns
    (text / "valid.en").unlink()
    (binary.parent / ".multi30k.abcdefgh.tmp/multi30k").mkdir(parents=True)
    (binary.parent / ".multi30k.abcdefgh.tmp/multi30k/dict.de.txt").write_text("half\n")
    ok(run(*command, cwd=tmp_path, BPE_OPS="100", WORKERS="1"))
    assert (text / "valid.en").read_bytes() == whole
    assert (text / "train.de").stat().st_mtime_ns == when
    record = json.loads((binary / "prepared.json").read_text())
    assert record["pairs"] == {"train": 80, "valid": 6, "test": 5, "test1": 6}
    assert (binary / "dict.de.txt").read_bytes() == (binary / "dict.en.txt").read_bytes()
    assert (binary / "test1.de-en.en.idx").is_file()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]

    # Again: nothing is written.
    def state():
        files = [path for folder in (text, binary) for path in folder.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.name != "settings"}

    before = state()
    said = ok(run(*command, cwd=tmp_path, BPE_OPS="100"))
    assert "done before" in said and "learning" not in said
    assert state() == before

    # Other settings, other data: no mixture.
    assert "other settings" in failed(run(*command, cwd=tmp_path, BPE_OPS="50"))
    write(tmp_path / "raw/val.de", ["Etwas anderes."] * 6)
    assert "from other data" in failed(run(*command, cwd=tmp_path, BPE_OPS="100"))
    assert "made from another text" in failed(
        run("binarise.py", "--text", text, "--dest", binary, cwd=tmp_path)
    )

    # The dictionaries of that folder for other text, which on its own would have one for each language.
    domain = ["binarise.py", "--text", text, "--dest", "domain", "--dictionaries"]
    assert "there is no dict.de.txt" in failed(run(*domain, text, cwd=tmp_path))
    ok(run(*domain, binary, cwd=tmp_path))
    assert (tmp_path / "domain/dict.en.txt").read_bytes() == (binary / "dict.en.txt").read_bytes()


def test_misaligned_empty_missing_damaged(tmp_path):
    def attempt() -> str:
        said = failed(run("prepare-multi30k.sh", "--data", "raw", cwd=tmp_path))
        assert not (tmp_path / "data").exists() and not (tmp_path / "data-bin").exists()
        return said

    write_multi30k(tmp_path / "raw", train=20)
    english = lines(tmp_path / "raw/train.en")
    write(tmp_path / "raw/train.en", english[:-1])
    said = attempt()
    assert "misaligned corpus: raw/train.de has 20 lines, raw/train.en has 19" in said

    write(tmp_path / "raw/train.en", [])
    assert "raw/train.en is empty (0 lines, none with text)" in attempt()

    write(tmp_path / "raw/train.en", english)
    (tmp_path / "raw/test_2017_flickr.en").unlink()
    assert "raw/test_2017_flickr.en is missing" in attempt()

    (tmp_path / "raw/test_2017_flickr.en.gz").write_bytes(b"no archive")
    assert "raw/test_2017_flickr.en.gz cannot be read" in attempt()

    (tmp_path / "raw/test_2017_flickr.en").write_bytes("für".encode("latin-1"))
    assert "raw/test_2017_flickr.en cannot be read" in attempt()


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        (["--data", "nowhere"], {}, "--data nowhere does not exist"),
        (["--data"], {}, "--data needs a value"),
        (["--bpe", "5"], {}, "unknown option --bpe"),
        (["--codes", "nowhere"], {}, "--codes nowhere is missing"),
        ([], {"BPE_OPS": "many"}, "BPE_OPS=many"),
        ([], {"DSP_PYTHON": "/nowhere/python"}, "there is no /nowhere/python"),
    ],
)
def test_bad_options(tmp_path, arguments, environment, message):
    assert message in failed(run("prepare-multi30k.sh", *arguments, cwd=tmp_path, **environment))


@pytest.mark.parametrize(
    "script, folder", [("prepare-multi30k.sh", "multi30k"), ("prepare-iwslt.sh", "iwslt14")]
)
def test_without_network_or_data(tmp_path, script, folder):
    start = time.monotonic()
    said = failed(run(script, cwd=tmp_path, DSP_DATA_DIR=str(tmp_path)))
    assert time.monotonic() - start < 10
    assert f"has no folder {folder}: fetching" in said
    assert "cannot fetch https://" in said and "--data" in said and f"$DSP_DATA_DIR/{folder}" in said


def test_fetch(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served/corpus").write_bytes(b"x" * 100_000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        direct = {"no_proxy": "127.0.0.1"}
        ok(run("fetch.py", f"{address}/corpus", "got/corpus", cwd=tmp_path, **direct))
        assert "404" in failed(run("fetch.py", f"{address}/other", "got/other", cwd=tmp_path, **direct))
        server.shutdown()
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["corpus"]
    assert (tmp_path / "got/corpus").read_bytes() == b"x" * 100_000


# -- IWSLT14
# ----------------------------------------------------------------------------------------------------


def iwslt_archive(path: Path, pairs: dict[str, list[tuple[str, str]]]) -> None:
    """An archive laid out as the real one."""
    files = {}
    for side, lang in enumerate(("de", "en")):
        head = [
            "<url>http://x</url>",
            "<keywords>a, b</keywords>",
            "<talkid>1</talkid>",
            "<title>Der Titel</title>",
        ]
        files[f"train.tags.de-en.{lang}"] = [*head, *(raw(pair[side]) for pair in pairs["train"])]
        names = ["TED.dev2010", "TED.tst2010", "TED.tst2011", "TED.tst2012", "TEDX.dev2012"]
        for name, pair in zip(names, pairs["test"], strict=True):
            files[f"IWSLT14.{name}.de-en.{lang}.xml"] = [
                "<refset>",
                "<title>none</title>",
                f'<seg id="1"> {raw(pair[side])} </seg>',
                "</refset>",
            ]
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = "".join(f"{line}\n" for line in content).encode()
            member = tarfile.TarInfo(f"de-en/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_iwslt14_archive(tmp_path):
    pairs = embedded_corpus.corpus({"train": 69, "test": 5}, seed=6)
    curly = {**pairs, "test": [("Wie geht\u2019s?", "How\u2019s it?"), *pairs["test"][1:]]}
    pairs["test"][0] = ("wie geht&apos;s ?", "how &apos;s it ?")
    iwslt_archive(tmp_path / "de-en.tgz", curly)
    said = ok(run("prepare-iwslt14.sh", "--data", tmp_path, "--text-only", cwd=tmp_path, BPE_OPS="60"))
    assert "published set has 160,239" in said
    text = tmp_path / "data/iwslt14"
    for side, lang in enumerate(("de", "en")):
        # The title is the first pair of 70, so the 23rd, 46th and 69th are the sentences 21, 44 and 67.
        sentences = ["der titel"] + [pair[side] for pair in pairs["train"]]
        assert lines(text / f"tmp/valid.{lang}") == [sentences[22], sentences[45], sentences[68]]
        assert lines(text / f"tmp/train.{lang}") == [
            s for i, s in enumerate(sentences) if i not in (22, 45, 68)
        ]
        assert len(lines(text / f"train.{lang}")) == 67
    assert lines(text / "tmp/test.en") == [english for _, english in pairs["test"]]
    assert not (tmp_path / "data-bin").exists()

    damaged = tmp_path / "cut/de-en.tgz"
    damaged.parent.mkdir()
    damaged.write_bytes((tmp_path / "de-en.tgz").read_bytes()[:500])
    said = failed(run("prepare-iwslt14.sh", "--data", damaged, "--text", "other", cwd=tmp_path))
    assert "cut/de-en.tgz cannot be read" in said

    bad = bytearray((tmp_path / "de-en.tgz").read_bytes())
    bad[100:400] = bytes(byte ^ 0xFF for byte in bad[100:400])
    damaged.write_bytes(bad)
    said = failed(run("prepare-iwslt14.sh", "--data", damaged, "--text", "another", cwd=tmp_path))
    assert "cut/de-en.tgz cannot be read" in said and "Traceback" not in said


def test_iwslt14_tokenised_sample(tmp_path):
    pairs = embedded_corpus.corpus({"train_sample": 60, "valid": 5, "test": 5}, seed=7)
    pairs["train_sample"] += [pairs["valid"][0], pairs["test"][3]]
    for split, content in pairs.items():
        for side, lang in enumerate(("de", "en")):
            write(tmp_path / f"iwslt14/{split}.{lang}", [pair[side] for pair in content])
    write(tmp_path / "iwslt14/bpe_codes.10k", ["#version: 0.2", "e n</w>"])
    said = ok(run("prepare-iwslt.sh", "--text-only", cwd=tmp_path, DSP_DATA_DIR=str(tmp_path)))
    assert "only train_sample" in said and "2 of 62 pairs dropped" in said
    assert lines(tmp_path / "data/iwslt14/code") == ["#version: 0.2", "e n</w>"]
    assert [len(lines(tmp_path / f"data/iwslt14/{split}.de")) for split in ("train", "valid", "test")] == [
        60,
        5,
        5,
    ]


# -- real text
# ----------------------------------------------------------------------------------------------------


def test_real_multi30k(tmp_path, data_dir):
    """The first 500 training pairs, and validation and test sets whole."""
    if not (data_dir / "multi30k").is_dir():
        pytest.skip(f"DSP_DATA_DIR={data_dir} has no folder multi30k")
    for name in MULTI30K.values():
        for lang in ("de", "en"):
            content = lines(data_dir / f"multi30k/{name}.{lang}")
            write(tmp_path / f"multi30k/{name}.{lang}", content[: 500 if name == "train" else None])
    ok(run("prepare-multi30k.sh", "--text-only", cwd=tmp_path, DSP_DATA_DIR=str(tmp_path), BPE_OPS="150"))
    text = tmp_path / "data/multi30k"
    for split, count in {"valid": 1014, "test": 1000, "test1": 1000}.items():
        assert len(lines(text / f"{split}.de")) == len(lines(text / f"{split}.en")) == count
    assert 480 <= len(lines(text / "train.de")) == len(lines(text / "train.en")) <= 500
    assert lines(text / "tmp/test.de")[0] == "ein mann mit einem orangefarbenen hut , der etwas anstarrt ."
