"""Build fairseq models in the test process, from the flags of a command line."""

from __future__ import annotations

import copy
import functools
from argparse import Namespace
from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.mt.heads.gated_transformer import attention_blocks, encode_kept_heads

# d 16, ffn 20, 2+2 layers of 4 heads
TINY = (
    "--encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4 "
    "--encoder-embed-dim 16 "
    "--decoder-embed-dim 16 --encoder-ffn-embed-dim 20 --decoder-ffn-embed-dim 20 --share-all-embeddings "
    "--dropout 0"
).split()
TINY_HEADS = 24


@functools.cache
def _parsed(*arguments: str):
    return convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), list(arguments))
    )


def parse(data: Path, *flags: object, arch: str, task: str = "translation"):
    """The configuration that fairseq makes of a training command line (parsed once: it takes most of a
    second).
    """
    return copy.deepcopy(_parsed(str(data), "--task", task, "--arch", arch, *map(str, flags)))


def build(data: Path, *flags: object, arch: str, task: str = "translation", **changes: object):
    """(task, model) of a command line with some model options changed; the weights are those of seed 0."""
    cfg = parse(data, *flags, arch=arch, task=task)
    # a copy of the configuration still shares the namespace of an old-style model (stock's)
    model_options = Namespace(**vars(cfg.model)) if isinstance(cfg.model, Namespace) else cfg.model
    for name, value in changes.items():
        assert hasattr(model_options, name), name
        setattr(model_options, name, value)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(0)
    return task, task.build_model(model_options)


def build_stock(data: Path, **changes: object):
    """Stock fairseq's transformer, tiny; (task, model)."""
    return build(data, *TINY, arch="transformer", **changes)


def build_dsp(data: Path, **changes: object):
    """`dsp_transformer`, tiny; joint pruning by hand where heads are to be kept; (task, model)."""
    if "num_of_heads" in changes:
        changes.setdefault("joint_pruning", True)
        changes.setdefault("pruning_lr", 0.2)
    return build(data, *TINY, arch="dsp_transformer", task="dsp_translation", **changes)


def batch(task, sentences: int = 6, split: str = "valid") -> dict:
    """A collated batch of a split: sentences of different lengths, padded as fairseq does."""
    if split not in task.datasets:
        task.load_dataset(split)
    dataset = task.dataset(split)
    return dataset.collater([dataset[i] for i in range(sentences)])


def logits(model, sample: dict) -> torch.Tensor:
    """[B, T, vocabulary]"""
    return model(**sample["net_input"])[0]


def deployed_like(stock, keep: torch.Tensor) -> None:
    """Deploy a mask in a stock model, the way no code of ours does it: zero the output columns of dead heads.

    Args:
        keep: [N] bool in DSP's order: encoder-self, decoder-cross, decoder-self.
    """
    blocks = [layer.self_attn for layer in stock.encoder.layers]
    blocks += [layer.encoder_attn for layer in stock.decoder.layers]
    blocks += [layer.self_attn for layer in stock.decoder.layers]
    flags = keep.tolist()
    with torch.no_grad():
        for block in blocks:
            for head in range(block.num_heads):
                if not flags.pop(0):
                    block.out_proj.weight[:, head * block.head_dim : (head + 1) * block.head_dim] = 0
    assert not flags


def liven(model) -> None:
    """Give every parameter a value of its own: a new model's biases are 0, its norms 1, its output nearly
    flat.
    """
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


def twins(data, num_of_heads=None, **changes):
    """(task, stock, dsp) of equal weights in double precision, in evaluation mode."""
    task, stock = build_stock(data, **changes)
    _, dsp = build_dsp(data, **changes, **({} if num_of_heads is None else {"num_of_heads": num_of_heads}))
    stock.double(), dsp.double()
    liven(stock)
    dsp.load_state_dict(stock.state_dict(), strict=True)
    return task, stock.eval(), dsp.eval()


def record_of(data, dead: str = "", kept=(0, 2)) -> str:
    """A record that keeps `kept` of every block, and nothing of the block `dead`."""
    _, model = build_dsp(data)
    return encode_kept_heads({name: [] if name == dead else list(kept) for name in attention_blocks(model)})
