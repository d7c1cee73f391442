"""Does a surgically pruned checkpoint translate as the masked one does?

For K = 0, 1, a quarter, half and all of the N heads: the heads beside the K best are once multiplied by 0
(masked) and once removed (pruned, through a file), and both models translate the same sentences. In float64
the translations must be the same, token by token: anything else is a fault, and the exit status is 1. In
float32 sums are rounded in another order, which can tip beam search where two hypotheses tie: the share of
equal translations is told, and by how much the scores differ at most.

    python scripts/mt/check_pruned.py data-bin/multi30k --path runs/dsp/checkpoint_best.pt \\
      --out results/pruned.json
"""

import argparse
import logging
import os
import sys
import tempfile
import time

import torch

from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.programs.chassis.refusals import raise_errors, run_program
from dsp_plugin.mt.surgery.pruning import prune_state
from dsp_plugin.mt.training.data_checks import data_fingerprint
from dsp_plugin.mt.training.option_checks import check_options
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task
from dsp_plugin.records.files.whole import check_output
from dsp_plugin.records.record import Metric, new_record, save_record


def main(argv: "list[str]") -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA_BIN", help="binarised data (fairseq-preprocess)")
    parser.add_argument("--path", required=True, help="a checkpoint with head scores")
    parser.add_argument("--gen-subset", default="test", help="what to translate (default: test)")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where to write the record")
    parser.add_argument("--limit", type=int, help="only the first so many sentences (default: all)")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="sentences (default: 64)")
    parser.add_argument(
        "--max-len-a", type=float, default=0, help="translations are at most A times the source ..."
    )
    parser.add_argument(
        "--max-len-b", type=int, default=200, help="... plus B tokens long (defaults: 0, 200)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    raise_errors(parser)
    args = parser.parse_args(argv)
    check_options(args)
    check_output("--out", args.out, {"--path": args.path})
    logging.getLogger("fairseq").setLevel(logging.WARNING)

    state = load_checkpoint(args.path)
    everything = prune_state(state, 0)
    n = everything.heads_before
    budgets = sorted({0, min(1, n), n // 4, n // 2, n})
    task = translation_task(args.data, args.gen_subset)
    search = {"max_len_a": args.max_len_a, "max_len_b": args.max_len_b}

    metrics, faults, seconds = [], 0, time.time()
    columns = ("K", 4), ("ones", 5), ("parameters", 12), ("float64 same", 13), ("float32 same", 13)
    print(*(f"{name:>{width}}" for name, width in columns), " largest score difference")
    for k in budgets:
        pruned = prune_state(state, k)
        ones = int(pruned.keep.sum())
        with tempfile.TemporaryDirectory() as folder:
            small = os.path.join(folder, "pruned.pt")
            save_checkpoint(pruned.state, small)
            same, difference = {}, {}
            for precision in (torch.float64, torch.float32):
                masked_model = load_model(args.path, task, {"num_of_heads": k})
                ones = ones if int(masked_model.gating.gates.keep().sum()) == ones else -1
                results = [
                    translate(
                        model.to(device=args.device, dtype=precision),
                        task,
                        args.gen_subset,
                        args.limit,
                        args.beam,
                        args.batch_size,
                        **search,
                    )
                    for model in (masked_model, load_model(small, task))
                ]
                pairs = list(zip(*results))
                same[precision] = sum(a.tokens == b.tokens for a, b in pairs) / len(pairs)
                difference[precision] = max(abs(a.score - b.score) for a, b in pairs)
        faults += same[torch.float64] < 1 or ones != k
        print(
            f"{k:>4} {ones:>5} {pruned.parameters_after:>12,} {same[torch.float64]:>13.2%} "
            f"{same[torch.float32]:>13.2%} {difference[torch.float32]:>25.2e}",
            flush=True,
        )
        subset = f"{args.gen_subset}, K={k}"
        metrics += [
            Metric("heads kept", ones, subset=subset),
            Metric("parameters", pruned.parameters_after, subset=subset),
            Metric("same translations, float64", 100 * same[torch.float64], "%", subset=subset),
            Metric(
                "largest score difference, float64", difference[torch.float64], "nats a token", subset=subset
            ),
            Metric("same translations, float32", 100 * same[torch.float32], "%", subset=subset),
            Metric(
                "largest score difference, float32", difference[torch.float32], "nats a token", subset=subset
            ),
        ]

    record = new_record(
        "mt-surgery",
        os.path.basename(os.path.dirname(os.path.abspath(args.path))),
        "masked against pruned",
        device=args.device,
        data=data_fingerprint(args.data),
        metrics=metrics,
        seconds={"translate": time.time() - seconds},
        updates=(state.get("optimizer_history") or [{}])[-1].get("num_updates"),
        extra={"sentences": len(pairs), "beam": args.beam, "heads": n, "passed": not faults},
    )
    print(f"{len(pairs)} sentences, beam {args.beam}; record: {save_record(record, args.out)}")
    if faults:
        sys.exit("FAULT: masked and pruned translate differently in float64, or the mask has not K ones")


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
