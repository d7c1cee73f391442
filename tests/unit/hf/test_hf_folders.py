"""The output folder of a training: with which options the program goes on in it, and with which it does
not.
"""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")
import hf_programs  # noqa: F401  (first: see there)  isort: skip
from transformers import TrainingArguments

from dsp_plugin.hf.programs.chassis.output_folder import SETTINGS, begin, starting_point, training_settings
from dsp_plugin.options.errors import OptionError

OPTIONS = dict(
    learning_rate=2e-5, per_device_train_batch_size=8, num_train_epochs=3, report_to="none", use_cpu=True
)


def go(folder, later=(), **options):
    """What a start of a program does in the folder: the checkpoint it goes on from."""
    args = TrainingArguments(str(folder), **{**OPTIONS, **options})
    settings = {"task": "CoLA", **training_settings(args), **dict(later)}
    checkpoint = starting_point(args, settings, False)
    begin(args, settings, checkpoint, False)
    return checkpoint


@pytest.fixture
def stopped(tmp_path):
    """The folder of a training that was stopped after its first checkpoint."""
    assert go(tmp_path, {"mask": "a"}) is None
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    return tmp_path


@pytest.mark.parametrize(
    "options, told",
    [
        (dict(learning_rate=9e-3), "learning_rate: 2e-05 there, 0.009 here"),
        (dict(per_device_train_batch_size=16), "examples_per_update: 8 there, 16 here"),
        (dict(gradient_accumulation_steps=2), "examples_per_update: 8 there, 16 here"),
        (dict(lr_scheduler_type="constant"), "lr_scheduler_type: linear there, constant here"),
        (dict(warmup_steps=10), "warmup_steps: 0 there, 10 here"),
        (dict(weight_decay=0.1), "weight_decay: 0.0 there, 0.1 here"),
        (dict(optim="adafactor"), "optim: adamw_torch.* there, adafactor here"),
        (dict(num_train_epochs=4), "num_train_epochs: 3 there, 4 here"),
        (dict(max_steps=4), "max_steps: -1 there, 4 here; num_train_epochs: 3 there, None here"),
        (dict(later={"mask": "b"}), "mask: a there, b here"),
        (dict(later={"mask": "a", "task": "RTE"}), "task: CoLA there, RTE here"),
    ],
)
def test_another_value_is_refused(stopped, options, told):
    noted = (stopped / SETTINGS).read_text()
    with pytest.raises(
        OptionError, match=rf"^output_dir .*other settings \({told}\): .* folder, or overwrite_output_dir$"
    ):
        go(stopped, **{"later": {"mask": "a"}, **options})
    assert (stopped / SETTINGS).read_text() == noted


def test_the_same_batch_in_other_parts_goes_on(stopped):
    parts = dict(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert go(stopped, {"mask": "a"}, **parts, save_steps=1, eval_strategy="epoch") == str(
        stopped / "checkpoint-2"
    )


def test_what_earlier_versions_did_not_note_is_not_compared_and_not_made_up(stopped):
    (stopped / SETTINGS).write_text('{"task": "CoLA"}')
    assert go(stopped, {"mask": "b"}, learning_rate=9e-3, max_steps=9) == str(stopped / "checkpoint-2")
    assert json.loads((stopped / SETTINGS).read_text()) == {"task": "CoLA"}
    # absent means not given
    with pytest.raises(ValueError, match=r"other settings \(fix_layer: None there, 1 here\)"):
        go(stopped, {"fix_layer": 1})


def test_a_training_that_begins_anew_leaves_no_record_of_the_one_before(stopped):
    for name in (
        "results.json",
        "mask.json",
        "dev/results.json",
        "dev/predictions.txt",
        "3rd/results.json",
        "3rd/settings.json",
    ):
        (stopped / name).parent.mkdir(exist_ok=True)
        (stopped / name).write_text("{}")
    args = TrainingArguments(str(stopped), **OPTIONS)
    begin(args, {}, None, True)
    left = sorted(str(path.relative_to(stopped)) for path in stopped.rglob("*") if path.is_file())
    assert left == ["3rd/results.json", "3rd/settings.json", "dev/predictions.txt", "settings.json"]


@pytest.mark.parametrize(
    "files, step, refused",
    [
        ((), 2, True),
        (("scheduler.pt",), 2, True),
        (("optimizer.pt",), 2, True),
        ((), 6, False),
        (("optimizer.pt", "scheduler.pt"), 2, False),
        (("optimizer_0/", "scheduler.pt"), 2, False),
        (("latest", "global_step2/"), 2, False),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_checkpoint_without_its_optimizer_is_none_to_go_on_from(stopped, files, step, refused, named):
    checkpoint = stopped / "checkpoint-2"
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 6}))
    for name in files:
        (checkpoint / name).mkdir() if name.endswith("/") else torch.save({}, checkpoint / name)
    options = {"resume_from_checkpoint": str(checkpoint)} if named else {}
    if refused:
        told = "checkpoint-2: the checkpoint has no optimizer.pt: .*, without save_only_model if"
        told += " it is to be resumed$" if named else ".*; overwrite_output_dir trains anew$"
        with pytest.raises(OptionError, match=f"^resume_from_checkpoint .*{told}"):
            go(stopped, {"mask": "a"}, **options)
    else:
        assert go(stopped, {"mask": "a"}, **options) == str(checkpoint)
