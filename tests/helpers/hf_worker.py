"""One of two processes that train together: `torchrun --nproc_per_node 2 hf_worker.py FOLDER`. Writes
FOLDER/rank<r>.pt.
"""

from __future__ import annotations

from hf_models import tiny_model  # isort: skip

import sys
from pathlib import Path

import torch
from glue_folders import write_task
from hf_data import arguments, padded, sentences, trainer
from hf_diffs import base_model, in_diff, state_of, with_mask, without_dropout
from hf_programs import on_task, start, write_bert
from hf_training import DATA, LAMBDA, K, QuietConcrete, Recorder, gated, prepared, scores_of
from transformers import TrainerCallback

from dsp_plugin.diffs import project
from dsp_plugin.hf import switchboard_of
from dsp_plugin.hf.heads.importance import ExampleRanking, head_importance
from dsp_plugin.hf.heads.importance_start import ImportanceStart
from dsp_plugin.hf.heads.sweep import prune_by_importance
from dsp_plugin.hf.heads.training import training_steps

GLOO = {"ddp_backend": "gloo"}


class Draws(TrainerCallback):
    """The gates of every update."""

    def __init__(self, model):
        self.gates, self.seen = switchboard_of(model).gates, []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.seen.append(self.gates._last_sample.clone())


def one_update(folder: Path):
    """The gradients of 8 rows, two micro-batches of 2 in each process."""
    model = gated(lambda heads: QuietConcrete(heads, K, LAMBDA), dropout=False)
    recorder = Recorder(model)
    options = dict(
        max_grad_norm=0.5, max_steps=1, gradient_accumulation_steps=2, per_device_train_batch_size=2
    )
    prepared(model, folder, DATA[:8], recorder=recorder, **options, **GLOO).train()
    return {"gradients": recorder.gradients[0]}


def relaxed(folder: Path, rank: int):
    """Four updates of DSP, each process with noise of its own, and the last two of them once more."""
    found = {}
    for name in ("whole", "resumed"):
        model = gated("relaxed")
        draws = Draws(model)
        torch.nn.init.normal_(scores_of(model))  # the first process's must win, or the checkpoint's
        run = prepared(
            model,
            folder,
            recorder=draws,
            more={"eval_dataset": DATA[:5]},
            max_steps=4,
            save_strategy="steps",
            save_steps=2,
            eval_strategy="steps",
            eval_steps=1,
            **GLOO,
        )
        torch.manual_seed(100 + rank)
        run.train(resume_from_checkpoint=str(folder / "checkpoint-2") if name == "resumed" else None)
        losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
        found[name] = {
            "state": model.state_dict(),
            "keep": switchboard_of(model).gates.keep(),
            "draws": draws.seen,
            "losses": losses,
            "optimizer": run.optimizer.state_dict()["state"],
        }
    return found


def michel(folder: Path):
    model, data = tiny_model("bert"), sentences(9)

    @torch.no_grad()
    def evaluate(subset):
        return {"loss": float(model(**padded(data)).loss)}

    options = dict(exact=True, ranking=ExampleRanking(batch_size=2), say=lambda line: None, progress=False)
    steps = prune_by_importance(model, data, padded, folder, 3, evaluate, **options)
    return {
        "importance": head_importance(model, data, padded, 2, progress=False),
        "keep": [step["keep"] for step in steps],
        "start": ImportanceStart(gated("relaxed", dropout=False), data, padded, batch_size=2)(),
    }


def steps(folder: Path):
    found = []
    for options in (
        {},
        {"gradient_accumulation_steps": 3},
        {"dataloader_drop_last": True, "num_train_epochs": 1.5},
    ):
        args = arguments(folder, **options, **GLOO)
        run = trainer(tiny_model("bert", dtype=torch.float32), args, sentences(22))
        *_, theirs = run.set_initial_training_values(args, run.get_train_dataloader())
        found.append((training_steps(args, 22), theirs))
    return found


def diff(folder: Path):
    """Three updates of a diff; the norm of its gradient over 8 rows; two updates of its largest 40
    changes.
    """
    run, optimizer = in_diff(folder / "1", max_steps=3, **GLOO)
    run.train()
    (mask,) = project(optimizer.vector.deltas(), [40])
    one, single = in_diff(
        folder / "norm", model=without_dropout(base_model()), data=DATA[:8], max_steps=1, **GLOO
    )
    one.train()
    last, kept = with_mask(folder / "3", mask, max_steps=2, **GLOO)
    last.train()
    return {
        "state": state_of(optimizer),
        "norm": single.metrics()["w_norm"],
        "values": kept.values,
        "model": last.model.state_dict(),
    }


def programs(folder: Path, rank: int):
    """Scores of run_dsp.py, of the same with tuning, and of the three stages of run_diff.py."""
    if rank == 0:
        write_bert(folder / "bert")
        write_task(folder / "CoLA", "CoLA", train=32, dev=7)
    torch.distributed.barrier()
    words = on_task(folder, "CoLA")
    words += (
        "--use_cpu --max_seq_length 24 --do_train --do_eval --do_predict --max_steps 2 --learning_rate 1e-3 "
        "--ddp_backend gloo"
    ).split()
    dsp = start(
        "glue/run_dsp",
        *words,
        "--num_of_heads",
        3,
        "--joint_pruning",
        "--use_ste",
        "--output_dir",
        folder / "dsp",
    )
    tuned = start(
        "glue/run_dsp",
        *words,
        "--num_of_heads",
        3,
        "--joint_pruning",
        "--use_ste",
        "--tune_epochs",
        1,
        "--output_dir",
        folder / "dsp",
    )
    diff = start("glue/run_diff", *words, "--target_sparsity", 0.01, "--output_dir", folder / "diff")
    return {"dsp": dsp["dev"], "tuned": tuned["dev"], "diff": diff["0.01"]["dev"]}


def main() -> None:
    folder = Path(sys.argv[1])
    rank = arguments(folder, **GLOO).process_index
    found = {"one_update": one_update(folder / "update"), "relaxed": relaxed(folder / "relaxed", rank)}
    found.update(diff=diff(folder / "diff"), michel=michel(folder / "michel"), steps=steps(folder / "steps"))
    found.update(programs=programs(folder / "programs", rank))
    found.update(world=torch.distributed.get_world_size())
    torch.save(found, folder / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
