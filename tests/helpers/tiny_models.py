"""Translation models of a few thousand weights, built without any data folder, and their checkpoints in
memory.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import build_model as fairseq_build_model
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf

import dsp_plugin
from dsp_plugin.gating import FixedGates, ScoreRate
from dsp_plugin.mt.checkpoints.built_in_types import to_built_in_types
from dsp_plugin.mt.heads.gated_transformer import head_map_of
from dsp_plugin.mt.heads.methods.dsp import DSPTransformerConfig, DSPTransformerModel

dsp_plugin.register()

# Encoder and decoder differ in width (16, 12), heads (2, 3) and head size (8, 4): 4 + 6 + 6 = 16 heads.
SIZES = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 20,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_embed_dim": 12,
    "decoder_ffn_embed_dim": 20,
    "decoder_attention_heads": 3,
    "decoder_input_dim": 12,
    "decoder_output_dim": 12,
    "share_decoder_input_output_embed": True,
}
N = 16


def dictionary() -> Dictionary:
    words = Dictionary()
    for word in range(11):
        words.add_symbol(f"w{word}")
    return words


TASK = SimpleNamespace(source_dictionary=dictionary(), target_dictionary=dictionary())


def options(**changes: Any) -> dict[str, Any]:
    """Every option of `dsp_transformer`, as a checkpoint holds them."""
    defaults = OmegaConf.structured(DSPTransformerConfig)
    cfg = OmegaConf.merge(defaults, {**SIZES, **changes})
    return {
        **to_built_in_types(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)),
        "_name": "dsp_transformer",
    }


def build(settings: dict[str, Any]) -> DSPTransformerModel:
    """A model in double precision and evaluation mode. Every weight is random, biases and norms too."""
    torch.manual_seed(3)
    model = DSPTransformerModel.build_model(OmegaConf.create(settings), TASK).double().eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("gating."):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def masked(keep: list[bool]) -> DSPTransformerModel:
    """The model that multiplies the other heads by 0."""
    model = build(options())
    model.add_gates(FixedGates(torch.tensor(keep)), rate=ScoreRate(0.1), joint=True)
    return model.eval()


def scored(k: int, **changes: Any) -> DSPTransformerModel:
    """A model with head scores that keeps the K best."""
    return build(options(num_of_heads=k, joint_pruning=True, **changes))


def checkpoint(model: torch.nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what fairseq's Trainer would save of it, as far as surgery is concerned."""
    return {
        "args": None,
        "cfg": {
            "common": {"user_dir": "dsp_plugin", "seed": 1},
            "task": {"_name": "dsp_translation", "data": "data-bin", "restore_file": "checkpoint_last.pt"},
            "criterion": {"_name": "dsp_label_smoothed_cross_entropy", "label_smoothing": 0.1},
            "optimizer": {"_name": "dsp_adam", "adam_betas": "(0.9, 0.98)", "lr": [0.1]},
            "model": dict(settings),
        },
        "model": model.state_dict(),
        "optimizer_history": [
            {"optimizer_name": "DSPAdam", "lr_scheduler_state": {"best": None}, "num_updates": 7}
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 2, "iterations_in_epoch": 0}, "metrics": object()},
        "last_optimizer_state": {"state": {0: torch.zeros(3)}},
    }


def load(state: dict[str, Any]) -> torch.nn.Module:
    """The model of a checkpoint, by fairseq's own builder; every key must fit."""
    model = (
        fairseq_build_model(OmegaConf.create(state["cfg"]["model"]), TASK, from_checkpoint=True)
        .double()
        .eval()
    )
    model.load_state_dict(state["model"], strict=True)
    return model


def batch():
    """Source [3, 6] padded on the left, its lengths [3], target input [3, 5] padded on the right."""
    generator = torch.Generator().manual_seed(5)
    source = torch.randint(4, 15, (3, 6), generator=generator)
    source[1, :2] = source[2, :1] = 1
    target = torch.randint(4, 15, (3, 5), generator=generator)
    target[:, 0] = 2
    return source, torch.tensor([6, 4, 5]), target


@torch.no_grad()
def teacher_forced(model) -> torch.Tensor:
    """Logits [3, 5, V]."""
    source, lengths, target = batch()
    return model(source, lengths, target)[0]


@torch.no_grad()
def incremental(model) -> torch.Tensor:
    """The same logits [3, 5, V], one target position at a time."""
    source, lengths, target = batch()
    encoder_out, steps, cache = model.encoder(source, src_lengths=lengths), [], {}
    for end in range(1, target.size(1) + 1):
        steps.append(model.decoder(target[:, :end], encoder_out=encoder_out, incremental_state=cache)[0])
    return torch.cat(steps, dim=1)


@torch.no_grad()
def beam_search(model) -> list[dict[str, torch.Tensor]]:
    """The best of 3 hypotheses of every sentence."""
    source, lengths, _ = batch()
    search = SequenceGenerator([model], TASK.target_dictionary, beam_size=3, max_len_b=6)
    found = search.generate([model], {"net_input": {"src_tokens": source, "src_lengths": lengths}})
    return [hypotheses[0] for hypotheses in found]


def assert_same(model, other, atol: float = 1e-12) -> None:
    """Same outputs, teacher-forced and incremental, and the same translations."""
    torch.testing.assert_close(teacher_forced(model), teacher_forced(other), rtol=0, atol=atol)
    torch.testing.assert_close(incremental(model), incremental(other), rtol=0, atol=atol)
    for mine, theirs in zip(beam_search(model), beam_search(other)):
        assert mine["tokens"].tolist() == theirs["tokens"].tolist()
        # fairseq's scores are float32
        torch.testing.assert_close(mine["score"], theirs["score"], rtol=0, atol=1e-5)


def head_map():
    return head_map_of(build(options()))
