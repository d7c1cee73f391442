"""Asked for a speed, which speed is reached: a BERT and a translation model, pruned by measured costs.

    python benchmarks/prune_to_speed.py [--quick] [--device cpu|cuda] [--hosts bert mt] [--asked 1.3 1.5 2 3]

What `dsp prune --target-speedup` does, without its scores: which units go plays no part for the time, so
they go by the magnitude of their weights. The BERT of 22.7 million parameters, 32 x 128 and 1 x 32 tokens, by
SDPA; transformer_iwslt_de_en, 16 sentences of 24 tokens, beam 5, outputs of equal length. Heads and groups
of 32 neurons may go. --quick takes the smallest shapes, one speed, and little time for each comparison.

`ceiling_<model>` is the time of the unpruned model over that without any unit. `reached_<model>_x<X>` is the
unpruned model's time over that of the model that came out where X was asked for, paired, by the same code;
missing where X is above 80 % of the ceiling, which is refused. `prune_seconds_<model>` is the time of it all
for all X, measured costs included; without the scores of calibration data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from timing import command_line, start

from dsp_plugin.choosing.cost_tables import CostTable
from dsp_plugin.choosing.host import Host, Meter, measure_blocks, measure_fixed
from dsp_plugin.choosing.paired_times import Effort
from dsp_plugin.choosing.search import Search, Worth, check_speedup
from dsp_plugin.options.errors import OptionError
from dsp_plugin.options.numbers import number

ASKED, QUICK_ASKED = (1.3, 1.5, 2.0, 3.0), (1.5,)
GROUP = 32
SHAPES = {"bert_32x128": (32, 128), "bert_1x32": (1, 32), "iwslt_16x24x5": (16, 24, 5)}
QUICK_SHAPES = {"bert_1x32": (1, 32), "iwslt_4x12x5": (4, 12, 5)}
# a comparison for the table of costs, and one for what is reached
EFFORTS = Effort(), Effort(pairs=9, most=400, seconds=20.0, precise=0.005)
QUICK_EFFORTS = Effort(pairs=1, most=8, seconds=0.5), Effort(pairs=2, most=20, seconds=2.0)


def bert(shape: tuple[int, ...], args: Any) -> tuple[Host, torch.Tensor]:
    """Return the host of the BERT, and the worth of its units."""
    from minilm import load

    from dsp_plugin.hf.heads.choosing.host import host_of
    from dsp_plugin.hf.heads.importance import magnitudes

    model = load().to(args.device)
    return host_of(model, shape, GROUP, clock=args.clock), magnitudes(model, GROUP)


def iwslt(shape: tuple[int, ...], args: Any) -> tuple[Host, torch.Tensor]:
    """Return the host of the translation model, and the worth of its units."""
    from iwslt import checkpoint, dsp_model, toy_task

    from dsp_plugin.mt.choosing.choosable import choosable
    from dsp_plugin.mt.choosing.host import host_of
    from dsp_plugin.mt.heads.importance import magnitudes
    from dsp_plugin.mt.surgery.fewer_heads import model_without

    task = toy_task()
    units = choosable(checkpoint(dsp_model(task)), GROUP, heads=True)
    everything = torch.ones(units.head_map.num_heads, dtype=torch.bool)
    worth = magnitudes(model_without(units.source, everything, task))
    return host_of(units, task, shape, args.device, args.clock), worth


HOSTS: dict[str, Callable[..., tuple[Host, torch.Tensor]]] = {"bert": bert, "mt": iwslt}


def reached(name: str, host: Host, worth: torch.Tensor, args: Any) -> list[str]:
    """Prune one model to every speed; return the closing lines."""
    usual, careful = QUICK_EFFORTS if args.quick else EFFORTS
    begin = time.perf_counter()
    meter = Meter(host, "latency", usual)
    table = CostTable(1.0, measure_fixed(meter))
    print(f"{name}: ceiling {table.ceiling:.2f}", flush=True)
    measure_blocks(meter, table, lambda line: print(f"  {line}", flush=True))
    search = Search(host, table, Worth(worth))
    figures = [f"ceiling_{name} {table.ceiling:.2f} ratio"]
    for asked in args.asked:
        try:
            check_speedup(asked, table)
        except OptionError:
            print(f"{name}: {asked:g} is above 80 % of the ceiling, and refused")
            continue
        attempt, _ = search.reach(asked, Meter(host, "latency", careful), lambda line: print(f"  {line}"))
        # once more: of several measurements of one round the luckiest was taken
        ratio = host.compared(search.model(attempt), careful).ratio
        speed = f"{asked:g}".replace(".", "_")  # names of figures are words
        figures.append(f"reached_{name}_x{speed} {ratio:.3f} ratio")
        print(f"{name}: asked {asked:g}, reached {ratio:.3f} ({ratio / asked - 1:+.1%})", flush=True)
    return [*figures, f"prune_seconds_{name} {time.perf_counter() - begin:.0f} s"]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--hosts", nargs="+", choices=list(HOSTS), default=list(HOSTS))
    parser.add_argument("--asked", nargs="+", type=number("positive"), help="speed-ups to ask for")
    args = parser.parse_args()
    start(args, "transformers" if args.hosts == ["bert"] else "fairseq")
    args.asked = args.asked or (QUICK_ASKED if args.quick else ASKED)
    figures = []
    for name, shape in (QUICK_SHAPES if args.quick else SHAPES).items():
        kind = "bert" if name.startswith("bert") else "mt"
        if kind in args.hosts:
            figures += reached(name, *HOSTS[kind](shape, args), args)
    print("target: every reached_... within 5 % of what was asked for")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
