"""Groups of neurons beside heads, by the command lines a user types: train, prune, translate, tune, sweep."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, run
from fairseq_training import ANNEALING, DSP, SETTINGS, SIZES, STOCK, checkpoint, train, updates

from dsp_plugin.cli.main import main as dsp
from dsp_plugin.mt.surgery.pruning import prune_state
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task
from dsp_plugin.records.record import kept_heads, load_record

SCRIPTS = PACKAGE.parent / "scripts" / "mt"
# 8 + 8 + 8 heads, and of every layer's 20 neurons 5 groups
PER_KIND = "encoder-self=3,decoder-cross=4,decoder-self=2,encoder-ffn=4,decoder-ffn=3"
COUNTS = dict(part.split("=") for part in PER_KIND.split(","))
UNITS = ["--neurons", 4, "--heads-per-kind", PER_KIND]
JOINT = [*DSP, *UNITS, "--joint-pruning", *ANNEALING]
SAID = "9 of 24 heads and 7 of 20 groups of neurons"
SIZED = [*SIZES, *SETTINGS]
SEARCH = {"max_len_a": 1.2, "max_len_b": 10}


def by_kind(heads: dict) -> dict[str, str]:
    """The number of units kept of every kind in a record's `heads`."""
    found = dict.fromkeys(COUNTS, 0)
    for block in heads["blocks"]:
        found[block["kind"]] += len(block["kept"])
    return {kind: str(count) for kind, count in found.items()}


def translations(data, path):
    task = translation_task(str(data), "test")
    return translate(load_model(str(path), task).double(), task, "test", beam=3, **SEARCH)


def same(one, other) -> None:
    assert [t.tokens for t in one] == [t.tokens for t in other]
    assert [t.score for t in one] == pytest.approx([t.score for t in other], abs=1e-5)


@pytest.fixture(scope="module")
def joint(tiny_data, tmp_path_factory):
    """(save folder, what was printed) of a joint training over heads and groups, pruned and tuned."""
    folder = tmp_path_factory.mktemp("neurons") / "run"
    flags = [tiny_data, "--save-dir", folder, *JOINT[2:], "--max-update", 5, "--tune-updates", 3]
    return folder, run(str(SCRIPTS / "run_dsp.py"), flags, folder).succeeded()


def test_it_trains_removes_and_tunes(joint, tiny_data):
    folder, done = joint
    lines = updates(done)
    assert [int(line["num_updates"]) for line in lines] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert 0 < float(lines[4]["heads_open"]) <= 44 and "heads_open" not in lines[5]
    record, tuned = load_record(folder / "results.json"), load_record(folder / "tuned" / "results.json")
    assert by_kind(record.heads) == COUNTS and tuned.heads == record.heads
    assert record.heads["total"] + record.heads["groups"]["total"] == 44
    assert f"| units: {SAID}" in done.output and f"{SAID} kept" in done.output
    pruned, last = (checkpoint(folder, name) for name in ("checkpoint_pruned.pt", "tuned/checkpoint_last.pt"))
    for state in (pruned, last):
        assert state["cfg"]["model"]["neurons"] == 4
        assert state["cfg"]["model"]["kept_heads"] == pruned["cfg"]["model"]["kept_heads"]
    assert {n: t.shape for n, t in last["model"].items()} == {n: t.shape for n, t in pruned["model"].items()}
    moments = checkpoint(folder)["last_optimizer_state"]["state"]
    assert any(state["exp_avg"].shape == (44,) for state in moments.values())
    same(*(translations(tiny_data, folder / f"checkpoint_{name}.pt") for name in ("best", "pruned")))


def test_generation_takes_both_as_they_are(joint, tiny_data, tmp_path):
    folder, _ = joint
    search = ["--batch-size", 16, "--beam", 3, "--cpu", "--max-len-b", 10]
    found = {}
    for name in ("checkpoint_best", "checkpoint_pruned"):
        flags = [tiny_data, "--path", folder / f"{name}.pt", "--record-dir", tmp_path / name, *search]
        run(str(SCRIPTS / "generate_dsp.py"), flags, tmp_path / name).succeeded()
        found[name] = load_record(tmp_path / name / "results.json")
    one, two = found.values()
    assert one.heads == two.heads and by_kind(one.heads) == COUNTS and one.parameters == two.parameters
    shared = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    tensors = checkpoint(folder, "checkpoint_pruned.pt")["model"]
    counted = [name for name in tensors if name not in shared and not name.endswith(("version", "_tensor"))]
    assert one.parameters["after"] == sum(tensors[name].numel() for name in counted)
    assert (tmp_path / "checkpoint_best/translations.txt").read_text() == (
        tmp_path / "checkpoint_pruned/translations.txt"
    ).read_text()
    # its mask prunes the checkpoint just as its scores do
    masked = tmp_path / "masked.pt"
    mask = tmp_path / "checkpoint_best/mask.json"
    assert dsp(["prune", str(folder / "checkpoint_best.pt"), "--out", str(masked), "--mask", str(mask)]) == 0
    again = checkpoint(tmp_path, "masked.pt")["model"]
    assert again.keys() == tensors.keys() and all(torch.equal(tensors[name], again[name]) for name in again)
    flags = [tiny_data, "--user-dir", PACKAGE, "--path", masked, *search]
    assert "Generate test" in run("fairseq_cli.generate", flags, tmp_path).succeeded().output


def test_another_budget_by_kind(joint, tiny_data, tmp_path):
    folder, _ = joint
    other = "encoder-self=1,decoder-cross=2,decoder-self=0,encoder-ffn=2,decoder-ffn=5"
    wanted = dict(part.split("=") for part in other.split(","))
    search = ["--batch-size", 16, "--beam", 2, "--cpu", "--max-len-b", 10, "--heads-per-kind", other]
    flags = [tiny_data, "--path", folder / "checkpoint_best.pt", "--record-dir", tmp_path / "record", *search]
    run(str(SCRIPTS / "generate_dsp.py"), flags, tmp_path).succeeded()
    record = load_record(tmp_path / "record" / "results.json")
    assert by_kind(record.heads) == wanted
    words = [
        "prune",
        folder / "checkpoint_best.pt",
        "--out",
        tmp_path / "pruned.pt",
        "--heads-per-kind",
        other,
    ]
    assert dsp(list(map(str, words))) == 0
    kept = json.loads(checkpoint(tmp_path, "pruned.pt")["cfg"]["model"]["kept_heads"])
    assert kept == {block["name"]: block["kept"] for block in record.heads["blocks"]}


def test_one_number_for_both_is_refused(joint, tmp_path, capsys):
    words = ["prune", joint[0] / "checkpoint_best.pt", "--out", tmp_path / "pruned.pt", "--num-of-heads", 5]
    assert dsp(list(map(str, words))) == 1
    said = capsys.readouterr().err
    assert "--num-of-heads counts heads and groups of neurons together" in said
    assert "give a number a kind with --heads-per-kind" in said and not (tmp_path / "pruned.pt").exists()


def test_scores_of_other_units_and_a_size_that_cannot_be_are_refused(joint, tiny_data, tmp_path):
    start = ["--finetune-from-model", joint[0] / "checkpoint_best.pt", "--max-update", 2]
    other = train(tiny_data, tmp_path, *DSP, "--neurons", 5, *UNITS[2:], *ANNEALING, *start).failed()
    assert "--neurons 5: " in other and "has scores of other units (groups of 4)" in other
    wrong = [tiny_data, "--save-dir", tmp_path, *STOCK, "--neurons", 8, *UNITS[2:], *start]
    said = run(str(SCRIPTS / "run_dsp.py"), wrong, tmp_path).failed()
    assert "--neurons 8: it must divide --encoder-ffn-embed-dim, which is 20: give one of 1, 2, 4" in said
    assert not list(tmp_path.glob("*.pt"))


def test_the_schedule_is_worked_out(tiny_data, tmp_path):
    """Importance of all units as a start, 32 masks a pass, cooling to the deployed mask."""
    done = train(tiny_data, tmp_path, *DSP, *UNITS, "--joint-pruning", "--max-update", 100).succeeded()
    assert "the scores begin with the importance of 44 units, after 33 updates" in done.output
    assert float(updates(done)[-1]["heads_open"]) == 16
    state = checkpoint(tmp_path)
    pruned = prune_state(state)
    assert by_kind(kept_heads(pruned.head_map.to_dict(), pruned.keep.tolist())) == COUNTS
    # every block has a unit: the minimum that the schedule found
    assert all(pruned.record.values())


@pytest.mark.parametrize("way", ["pipelined straight-through", "voita", "michel"])
def test_other_methods(way, tiny_data, stock_run, tmp_path):
    start = ["--finetune-from-model", stock_run / "checkpoint_last.pt", "--max-update", 3]
    if way == "voita":
        flags = [*STOCK, *UNITS, "--l0-penalty", 5, "--pruning-lr", 0.5, "--joint-pruning", *start]
        done = run(str(SCRIPTS / "run_voita.py"), [tiny_data, "--save-dir", tmp_path, *flags], tmp_path)
    elif way == "michel":
        flags = ["--task", "michel_translation", "--arch", "michel_transformer", "--optimizer", "adam"]
        flags = ["--user-dir", PACKAGE, *flags, "--criterion", "label_smoothed_cross_entropy", *UNITS]
        done = train(tiny_data, tmp_path, *flags, "--exact-pruning", "--heads-per-step", 14, *SIZED, *start)
    else:
        done = train(tiny_data, tmp_path, *DSP, *UNITS, "--use-ste", *start)
    done.succeeded()
    before, state = checkpoint(stock_run), checkpoint(tmp_path)
    pruned = prune_state(state)
    assert by_kind(kept_heads(pruned.head_map.to_dict(), pruned.keep.tolist())) == COUNTS
    name = "encoder.layers.0.fc2.weight"
    assert torch.equal(before["model"][name], state["model"][name]) == (way.startswith("pipelined"))


def test_a_sweep_over_both_and_what_its_mask_is_good_for(tiny_data, stock_run, tmp_path):
    stock = stock_run / "checkpoint_last.pt"
    flags = [tiny_data, "-s", "de", "-t", "en", "--restore-file", stock, "--save-dir", tmp_path / "sweep"]
    flags += ["--batch-size", 32, "--beam", 2, "--max-len-b", 10, "--cpu", "--num-of-heads", 14]
    flags += ["--exact-pruning", "--neurons", 4, "--score-only-budgets"]
    refused = run(str(SCRIPTS / "run_michel.py"), flags, tmp_path).failed()
    assert "--heads-per-kind is missing: heads and groups of neurons are not of one size" in refused
    done = run(str(SCRIPTS / "run_michel.py"), [*flags, "--heads-per-kind", PER_KIND], tmp_path).succeeded()
    assert SAID in done.output
    record = load_record(tmp_path / "sweep" / "results.json")
    assert by_kind(record.heads) == COUNTS and [step["kept"] for step in record.extra["curve"]] == [
        44,
        30,
        16,
    ]
    assert record.parameters["after"] < record.parameters["before"]
    # the checkpoint itself knows nothing of groups: the mask says their size
    mask, data = ["--mask", tmp_path / "sweep" / "mask-K16.json"], ["--data", tiny_data, "--sentences", 5]
    outs = [tmp_path / name for name in ("pruned.pt", "stock.pt", "ctranslate2")]
    assert dsp(list(map(str, ["prune", stock, "--out", outs[0], *mask]))) == 0
    assert dsp(list(map(str, ["export", stock, "--out", outs[1], *mask, *data]))) == 0
    kept = {block["name"]: block["kept"] for block in record.heads["blocks"]}
    options = checkpoint(tmp_path, "pruned.pt")["cfg"]["model"]
    assert json.loads(options["kept_heads"]) == kept and options["neurons"] == 4
    assert checkpoint(tmp_path, "stock.pt")["model"]["encoder.layers.0.fc2.weight"].shape == (16, 20)
    if importlib.util.find_spec("ctranslate2"):
        words = ["export", outs[0], "--out", outs[2], "--format", "ctranslate2", *data]
        assert dsp(list(map(str, words))) == 0
