"""What the program of all three stages on fairseq adds to a command line."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

from dsp_plugin.mt.programs.chassis.launch import training_options
from dsp_plugin.mt.programs.diffs.run import _stages, _training_options, own_options
from dsp_plugin.mt.training.same_command import settings_of

DATA = ["data", "--max-tokens", "9", "--base-checkpoint", "base.pt"]


def stages(*words: str):
    """fairseq's options of stage 1, and of one stage 3."""
    own, rest = own_options().split([*DATA, *words])
    first, (share,) = _stages(own, rest, _training_options(rest), {"0.1": None})
    return first.options, share.stage3.options


def schedule(options) -> tuple:
    return options.lr_scheduler, getattr(options, "total_num_update", None)


def test_the_rate_falls_linearly_where_the_updates_are_known_and_else_it_says_so(capsys):
    assert [schedule(each) for each in stages("--max-epoch", "3", "--max-update=7")] == [
        ("polynomial_decay", "7"),
        ("polynomial_decay", "7"),
    ]
    given = ["--max-update", "7", "--max-update", "5", "--finetune-max-update", "3"]
    assert [schedule(each)[1] for each in stages(*given)] == ["5", "3"]
    constant = stages("--max-epoch", "3", "--lr-scheduler", "fixed", "--finetune-max-update", "3")
    assert [schedule(each) for each in constant] == [("fixed", None)] * 2 and not capsys.readouterr().out
    for words in (["--max-epoch", "3"], ["--max-epoch", "3", "--max-update", "0"]):
        assert [schedule(each) for each in stages(*words)] == [("fixed", None)] * 2
        assert "without --max-update the rate does not fall" in capsys.readouterr().out
    later = stages("--max-epoch", "3", "--finetune-max-update", "3")
    assert [schedule(each) for each in later] == [("fixed", None), ("polynomial_decay", "3")]


FALLING = "--lr-scheduler polynomial_decay --total-num-update"


@pytest.mark.parametrize(
    "words, later",
    [
        ("--max-update 4", f"{FALLING} 4"),
        ("--max-update 4 --power 2 --adam-betas (0.9,0.98) --lr 1e-3 --seed 3 --cpu", f"{FALLING} 4"),
        ("--lr-scheduler inverse_sqrt --warmup-updates 2 --clip-norm 2 --update-freq 2,4", ""),
        ("--max-epoch 2 --warmup-updates 2 --no-progress-bar", "--max-update 4 " + FALLING + " 4"),
        ("--max-update 5", "--max-update 4 " + FALLING + " 4"),
    ],
)
def test_stage_3_has_the_options_that_fairseq_would_read_for_it(words, later, tmp_path, monkeypatch):
    """Those of stage 1, without what only its optimizer takes, and with what only the later one's takes."""
    monkeypatch.chdir(tmp_path)
    own = "--sparsity-pen 1e-3 --per-params-alpha 0 --finetune-lr 5e-4".split()
    if "--max-update" in later:
        own += ["--finetune-max-update", "4"]
    _, third = stages(*words.split(), *own)
    read = training_options(
        [*DATA, "--clip-norm", "1.0", *words.split(), *later.split(), "--lr", "5e-4"]
        + ["--user-dir", third.user_dir, "--task", "diff_translation", "--arch", "diff_transformer"]
        + ["--optimizer", "fixmask_adam", "--mask-pack", third.mask_pack, "--no-epoch-checkpoints"]
        + ["--save-dir", third.save_dir]
    )
    assert vars(read) == vars(third)


def test_what_a_resume_may_change(tmp_path):
    (tmp_path / "dict.en.txt").touch()
    words = ["--lr", "1", "--max-update", "2"]
    one, _ = stages(*words)
    other, _ = stages(*words, "--num-workers", "4", "--log-interval=9", "--cpu")
    for options in (one, other):
        options.data, options.base_checkpoint = str(tmp_path), None
    assert one.num_workers != other.num_workers and settings_of(one) == settings_of(other)
