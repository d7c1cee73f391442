"""Export of pruned models to ONNX files, checked with ONNX Runtime against the masked model.

A block is as small in the graph as in the pruned model. Needs the packages onnx, onnxscript and onnxruntime.

Notation: B sequences, L tokens, V vocabulary, h key heads of a block, P tokens in a cache, d size of a head.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...records.certificate import NAME, Certificate
from ...records.files.whole import new_folder
from ..heads.interface import registered
from ..heads.layouts.locate import model_parts
from ..probes.comparison import compare, write_certificate
from ..probes.sample_batches import sample_batches
from .masked import pruned_and_masked
from .onnx_graphs import Graph, graphs_of

RELATIVE_TOLERANCE = 1e-4  # relative to the largest output; float32 has 6e-8 a sum


def export_onnx(
    model: PreTrainedModel,
    out: str | os.PathLike,
    batches: Sequence[Mapping[str, Tensor]] | None = None,
    data: str = "random ids",
    tokenizer: Any = None,
) -> Certificate:
    """Write a folder with the graphs of a model in float32, its configuration and a certificate.

    An encoder is `model.onnx`; a decoder is `model.onnx`, one step with its cache; an encoder-decoder is
    `encoder_model.onnx` and `decoder_model.onnx`. Their inputs and outputs are listed in `onnx_graphs`.
    Numbers of sequences and tokens are free. Attention is written out (eager): a padded row then is a number,
    never NaN.

    Args:
        model: pruned, gated (its closed heads are removed), or with all its heads; it is not changed.
        out: folder to write; an earlier export is replaced.
        batches: the model's inputs to check the outputs on, see `compare`; random ids where not given.
        data: description of the batches, for the certificate.
        tokenizer: saved with the graphs, if given.

    Returns:
        the comparison of ONNX Runtime's outputs with those of the masked model.

    Raises:
        ValueError: the model is not supported, or is of a kind that has no graph.
        ExportError: ONNX Runtime's outputs differ from those of the masked model; nothing is written.
        FileExistsError: `out` holds other things.
        ImportError: a package is missing.
    """
    if not isinstance(model, PreTrainedModel):
        name = type(model).__name__
        raise ValueError(
            f"{name} is no Transformers model, and has no graph to export; export_dense writes it"
        )
    import onnx  # noqa: F401  (the exporter needs these two, and looks for them only after a minute)
    import onnxscript  # noqa: F401

    pruned, masked = pruned_and_masked(model)
    pruned.float().cpu(), masked.float().cpu()
    for part in model_parts(pruned):
        part.config._attn_implementation_internal = registered("eager")
    graphs = graphs_of(pruned)
    with new_folder(out, NAME) as folder:
        for name, graph in graphs.items():
            write_graph(graph.eval(), folder / name)
        certificate = certify(masked, OnnxModel(folder, graphs), batches or sample_batches(masked), data)
        pruned.config.save_pretrained(folder)
        finish_export(folder, certificate, f"the ONNX export of {type(model).__name__}", tokenizer)
    return certificate


def finish_export(folder: Path, certificate: Certificate, name: str, tokenizer: Any | None) -> None:
    """Write the tokenizer and the certificate into the folder of an export.

    Raises:
        ExportError: the certificate says that the outputs differ; names the export by `name`.
    """
    certificate.require(name)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    write_certificate(certificate, folder)


def certify(
    masked: PreTrainedModel, other: nn.Module, batches: Sequence[Mapping[str, Tensor]], data: str
) -> Certificate:
    """Compare two models as `compare` does, with a tolerance relative to the largest output."""
    certificate = compare(masked, other, batches, data=data)
    return replace(certificate, tolerance=RELATIVE_TOLERANCE * max(1.0, certificate.largest_output))


def write_graph(graph: Graph, path: Path) -> None:
    """Trace a graph and write it.

    Raises:
        ValueError: it cannot be traced.
    """
    axes = tuple(graph.inputs.axes.values())
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of packages that nothing here uses
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            names = {"input_names": list(graph.inputs.shapes), "output_names": graph.outputs}
            options = {"dynamo": True, "verbose": False, "dynamic_shapes": (axes,)}
            program = torch.onnx.export(graph, graph.inputs.example(), **names, **options)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"{type(graph.model).__name__} cannot be traced for ONNX: {reason}") from error
    finally:
        exporter.setLevel(level)
    program.save(str(path))


class OnnxModel(nn.Module):
    """The graphs of an export, called with the keywords of the Transformers model and run by ONNX Runtime.

    A decoder reads the first half of the tokens in one step and the others one by one, through the cache.

    Args:
        folder: holds the .onnx files.
        graphs: the graphs they were made from, see `graphs_of`.
    """

    def __init__(self, folder: str | os.PathLike, graphs: Mapping[str, Graph]):
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(Path(folder) / name), options, providers=["CPUExecutionProvider"]
            )
            for name in graphs
        }
        self._graphs = {
            n: (tuple(graph.inputs.shapes.items()), tuple(graph.outputs)) for n, graph in graphs.items()
        }

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the model for a batch, by name: logits [B, L, V], for example."""
        if "encoder_model.onnx" in self._sessions:
            return self._encoder_decoder(batch)
        if self._takes_steps("model.onnx"):
            ids, mask = batch["input_ids"], batch.get("attention_mask")
            return self._by_steps("model.onnx", ids, torch.ones_like(ids) if mask is None else mask, {})
        ids = batch["input_ids"]
        inputs = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids), **batch}
        return self.run("model.onnx", inputs)

    def run(self, name: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a graph once; inputs that it does not have are left out."""
        shapes, outputs = self._graphs[name]
        given = {key: inputs[key].cpu().numpy() for key, _ in shapes}
        return dict(zip(outputs, map(torch.from_numpy, self._sessions[name].run(list(outputs), given))))

    def _takes_steps(self, name: str) -> bool:
        inputs = dict(self._graphs[name][0])
        return "position_ids" in inputs or any(".key" in key for key in inputs)

    def _encoder_decoder(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        source, ids = batch["input_ids"], batch["decoder_input_ids"]
        mask = batch.get("attention_mask", torch.ones_like(source))
        encoded = self.run("encoder_model.onnx", {"input_ids": source, "attention_mask": mask})
        fixed = {"encoder_attention_mask": mask, **_as_past(encoded)}
        own_mask = batch.get("decoder_attention_mask", torch.ones_like(ids))
        return self._by_steps("decoder_model.onnx", ids, own_mask, fixed)

    def _by_steps(self, name: str, ids: Tensor, mask: Tensor, fixed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits [B, L, V] of tokens [B, L], with a cache [B, h, P, d] that grows from P = 0."""
        shapes = self._graphs[name][0]
        caches = [(key, shape) for key, shape in shapes if len(shape) > 2]
        cache = {key: torch.zeros(ids.shape[0], shape[1], 0, shape[3]) for key, shape in caches}
        cache.update(fixed)
        half = max(1, ids.shape[1] // 2)
        logits, start = [], 0
        for end in range(half, ids.shape[1] + 1):
            positions = torch.arange(start, end).expand(ids.shape[0], -1)  # [new tokens] -> [B, new tokens]
            new = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "position_ids": positions}
            given = self.run(name, {**new, **cache})
            logits.append(given["logits"])
            cache.update(_as_past(given))
            start = end
        return {"logits": torch.cat(logits, dim=1)}


def _as_past(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the present.* of one run to the past_key_values.* of the next."""
    present = {key: value for key, value in outputs.items() if key.startswith("present.")}
    return {key.replace("present", "past_key_values", 1): value for key, value in present.items()}
