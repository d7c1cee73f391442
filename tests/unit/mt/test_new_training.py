"""What a model asks of a training is asked under every task, by looking at the whole command line."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import checkpoint_utils, options, tasks
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_models import TINY

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.mt.heads.gated_criterion import GatedCrossEntropyCriterion
from dsp_plugin.mt.heads.new_training import _check_criterion, _check_optimizer
from dsp_plugin.options.errors import OptionError, dashed

OURS = "--optimizer dsp_adam --criterion {0}_label_smoothed_cross_entropy --task {0}_translation"
DSP = ["--arch", "dsp_transformer", *OURS.format("dsp").split(), "--num-of-heads", "6", "--joint-pruning"]
DSP += ["--pruning-lr", "0.2"]
VOITA = ["--arch", "voita_transformer", *OURS.format("voita").split(), "--l0-penalty", "5", "--joint-pruning"]
MICHEL = [
    "--arch",
    "michel_transformer",
    *OURS.format("dsp").split()[:-1],
    "michel_translation",
    "--num-of-heads",
    "6",
]
DIFF = ["--arch", "diff_transformer", "--optimizer", "adam", "--criterion", "label_smoothed_cross_entropy"]


@functools.cache
def parsed(*arguments):
    parser = options.get_training_parser(
        arguments[arguments.index("--task") + 1] if "--task" in arguments else "translation"
    )
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, list(arguments)))


def build(data, folder, *flags):
    """The model of a command line, built as fairseq-train builds it; a flag given twice is the last one."""
    cfg = copy.deepcopy(parsed(str(data), *TINY, "--save-dir", str(folder), *map(str, flags)))
    return cfg, tasks.setup_task(cfg.task).build_model(cfg.model)


@pytest.mark.parametrize(
    "task", ["translation", "translation_multi_simple_epoch", "translation_lev", "voita_translation"]
)
def test_the_optimizer_under_any_task(tiny_data, tmp_path, task):
    more = ["--langs", "de,en", "--lang-pairs", "de-en"] if task.endswith("epoch") else []
    with pytest.raises(ValueError, match="--optimizer adam .*--optimizer dsp_adam"):
        build(tiny_data, tmp_path, *DSP, "--task", task, *more, "--optimizer", "adam")


@pytest.mark.parametrize("flags", [[], ["--task", "translation"]], ids=["own task", "stock task"])
@pytest.mark.parametrize("method", [DSP, VOITA], ids=["dsp", "voita"])
def test_a_whole_method_is_built_under_its_task_and_the_stock_one(tiny_data, tmp_path, method, flags):
    _, model = build(tiny_data, tmp_path, *method, *flags)
    assert model.gating is not None


@pytest.mark.parametrize("task", ["translation", "dsp_translation"])
def test_pipelined_without_a_trained_model(tiny_data, tmp_path, task):
    flags = [flag for flag in DSP if flag != "--joint-pruning"]
    with pytest.raises(ValueError, match="needs a trained model"):
        build(tiny_data, tmp_path, *flags, "--task", task)
    with pytest.raises(ValueError, match="--restore-file /nowhere.pt: no such file"):
        build(tiny_data, tmp_path, *flags, "--task", task, "--restore-file", "/nowhere.pt")


@pytest.mark.parametrize("task", ["translation", "dsp_translation", "voita_translation"])
def test_heads_that_nothing_would_rank(tiny_data, tmp_path, task):
    with pytest.raises(ValueError, match=f"--task {task} does not rank the heads.*--task michel_translation"):
        build(tiny_data, tmp_path, *MICHEL, "--task", task)
    with pytest.raises(ValueError, match="heads are ranked by what they do in a trained model"):
        build(tiny_data, tmp_path, *MICHEL)


@pytest.mark.parametrize("task", ["translation", "dsp_translation"])
def test_a_diff_without_a_base(tiny_data, tmp_path, task):
    with pytest.raises(
        ValueError, match=f"--task {task} has no base .*--task diff_translation and --base-checkpoint"
    ):
        build(tiny_data, tmp_path, *DIFF, "--task", task)


@pytest.mark.parametrize("flags", [["--fp16"], ["--ddp-backend", "fully_sharded"]], ids=["fp16", "fsdp"])
def test_the_precision_under_the_stock_task(tiny_data, tmp_path, flags):
    with pytest.raises(ValueError, match="--fp16-no-flatten-grads|--ddp-backend fully_sharded"):
        build(tiny_data, tmp_path, *DSP, "--task", "translation", *flags)


def stock_criterions():
    return [name for name, cls in CRITERION_REGISTRY.items() if cls.__module__.startswith("fairseq.")]


@pytest.mark.parametrize("name", stock_criterions())
def test_no_stock_criterion_takes_the_penalty_in(name):
    with pytest.raises(OptionError, match=f"^criterion {name} leaves the penalty of open heads") as refused:
        _check_criterion(name, "voita")
    assert "use --criterion voita_label_smoothed_cross_entropy" in refused.value.spelled(dashed)


def test_criterions_that_do_or_may(monkeypatch):
    class Ours(GatedCrossEntropyCriterion):
        pass

    theirs = type("Theirs", (torch.nn.Module,), {"__module__": "somebody.criterions"})
    for name, cls in {"sub_of_ours": Ours, "somebodys": theirs}.items():
        monkeypatch.setitem(CRITERION_REGISTRY, name, cls)
        _check_criterion(name, "voita")
    for name in ("voita_label_smoothed_cross_entropy", "dsp_label_smoothed_cross_entropy"):
        _check_criterion(name, "voita")


@pytest.mark.parametrize(
    "flags", [[], ["--num-of-heads", "6"], ["--sentence-avg"]], ids=["lambda", "budget", "sentence-avg"]
)
@pytest.mark.parametrize("criterion", ["cross_entropy", "label_smoothed_cross_entropy", "adaptive_loss"])
def test_a_penalty_that_no_loss_takes_in(tiny_data, tmp_path, criterion, flags):
    with pytest.raises(ValueError, match=f"--criterion {criterion} leaves the penalty"):
        build(tiny_data, tmp_path, *VOITA, "--criterion", criterion, *flags)


def test_a_lambda_of_nothing_needs_no_criterion(tiny_data, tmp_path):
    build(tiny_data, tmp_path, *VOITA, "--criterion", "cross_entropy", "--l0-penalty", "0")


@pytest.mark.parametrize(
    "name", ["adam", "sgd", "nag", "adagrad", "adafactor", "composite", "diff_adam", "fixmask_adam"]
)
def test_optimizers_without_a_rate_for_scores(name):
    with pytest.raises(OptionError, match=f"^optimizer {name} would give the head scores") as refused:
        _check_optimizer(name)
    assert "use --optimizer dsp_adam" in refused.value.spelled(dashed)


def test_a_checkpoint_is_loaded_whatever_it_was_trained_with(tiny_data, tmp_path, monkeypatch):
    """Of no task in particular: the loader takes the checkpoint's own, and its whole configuration."""
    _, model = build(tiny_data, tmp_path, *VOITA)
    half = ["--task", "translation", "--criterion", "cross_entropy", "--optimizer", "adam"]
    cfg = parsed(str(tiny_data), *TINY, "--save-dir", str(tmp_path), *VOITA, *half)
    state = {"cfg": cfg, "model": model.state_dict(), "args": None}
    monkeypatch.setattr(
        checkpoint_utils, "load_checkpoint_to_cpu", lambda *args, **kwargs: copy.deepcopy(state)
    )
    (tmp_path / "old.pt").touch()
    (loaded,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "old.pt")])
    assert loaded.gating is not None
    with pytest.raises(ValueError, match="--criterion cross_entropy"):  # the same, to be trained
        build(tiny_data, tmp_path, *VOITA, *half)
