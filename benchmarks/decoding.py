"""Speed of translation after the removal of heads, and the parts of the remaining time.

    python benchmarks/decoding.py [--quick] [--device cpu|cuda] [--fp16]

transformer_iwslt_de_en, fairseq's own SequenceGenerator, beam 5, 32 sentences of about 25 tokens. All arms
take the same number of steps (25, forced), so that no arm is faster by stopping earlier; the weights are
random.

`speedup_K<K>` is the time of stock fairseq's unpruned model over that of ours with K of its 72 heads left
(K72: the stock model's weights in ours): the median over all rounds. `attention_speedup_K<K>` is the same for
the time inside the attention modules alone. For two checkpoints of your own, see
`dsp_plugin.mt.programs.speed.translation_speed`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import wraps

from fairseq import utils
from fairseq.sequence_generator import SequenceGenerator
from iwslt import HEADS, decoding_batch, dsp_model, stock_model, toy_task  # first: it quietens fairseq
from timing import Clock, command_line, interleaved, ratio, start
from torch import nn

from dsp_plugin.gating import HeadMap
from dsp_plugin.mt.heads.gated_transformer import encode_kept_heads, head_map_of

BUDGETS = (72, 36, 18, 4)
BEAM, SENTENCES, LENGTH, STEPS = 5, 32, 25, 25
REPEATS = {"cpu": 7, "cuda": 20}
QUICK_REPEATS = {"cpu": 2, "cuda": 5}


def spread(head_map: HeadMap, k: int) -> dict[str, list[int]]:
    """Deal out K heads one a block, round after round.

    The order is the last cross-attention, the first encoder block, the first decoder block, the last but one
    cross-attention, and so on.

    Four heads are then two of cross-attention and one each of the others. Learned masks leave more blocks
    without any head, so they are no slower than this.
    """
    cross, encoder, decoder = (
        [block for block in head_map.blocks if block.kind == kind]
        for kind in ("decoder-cross", "encoder-self", "decoder-self")
    )
    order = [block for layer in zip(reversed(cross), encoder, decoder) for block in layer]
    heads: dict[str, list[int]] = {block.name: [] for block in head_map.blocks}
    for number in range(k):
        heads[order[number % len(order)].name].append(number // len(order))
    return heads


def translator(model: nn.Module, task, sample: dict) -> Callable:
    """Return a function that translates the batch as fairseq-generate does."""
    model.make_generation_fast_(beamable_mm_beam_size=BEAM, need_attn=False)
    # the end of sentence is forbidden before the last step, and forced there
    search = SequenceGenerator(
        [model], task.target_dictionary, beam_size=BEAM, min_len=STEPS - 1, max_len_b=STEPS - 1
    )
    return lambda _number=0: search.generate([model], sample)


class Parts:
    """Time by part of the model: a part's own time, without that of the parts it calls."""

    def __init__(self, clock: Clock):
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._running = ["beam search"]
        self._since = clock()

    def watch(self, part: str, owner: object, method: str = "forward") -> None:
        """Count the time in `owner.method` towards `part`."""
        inner = getattr(owner, method)

        @wraps(inner)
        def timed(*args, **kwargs):
            self._switch()
            self._running.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        setattr(owner, method, timed)

    def _switch(self) -> None:
        now = self._clock()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def of(self, function: Callable) -> dict[str, float]:
        """Time one call, in seconds by part."""
        self.seconds.clear()
        self._since = self._clock()
        function()
        self._switch()
        return dict(self.seconds)


ATTENTION = ("encoder attention", "decoder self-attention", "cross-attention")
OTHERS = ("feed-forward", "embeddings, norms, sums", "caches follow the beams", "output projection")
PARTS = (*ATTENTION, *OTHERS, "log-softmax", "beam search")


def watched(model: nn.Module, clock: Clock) -> Parts:
    """Return a timer of the parts of a translation model."""
    parts = Parts(clock)
    other = "embeddings, norms, sums"
    parts.watch(other, model.encoder)
    parts.watch(other, model.decoder, "extract_features")
    for layer in model.encoder.layers:
        parts.watch("encoder attention", layer.self_attn)
    for layer in model.decoder.layers:
        parts.watch("decoder self-attention", layer.self_attn)
        parts.watch("cross-attention", layer.encoder_attn)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        parts.watch("feed-forward", layer.fc1)
        parts.watch("feed-forward", layer.fc2)
    parts.watch("output projection", model.decoder, "output_layer")
    parts.watch("log-softmax", model, "get_normalized_probs")
    parts.watch("caches follow the beams", model.encoder, "reorder_encoder_out")
    parts.watch("caches follow the beams", model.decoder, "reorder_incremental_state_scripting")
    return parts


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--fp16", action="store_true", help="half precision, as fairseq-generate --fp16 (GPU)"
    )
    args = parser.parse_args()
    start(args)
    if args.fp16 and args.device != "cuda":
        raise SystemExit("--fp16 needs --device cuda")
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)[args.device]
    clock = Clock(args.device, args.clock)

    task = toy_task()
    stock = stock_model(task)
    unpruned = dsp_model(task, stock)
    heads = head_map_of(unpruned)
    models = {"stock": stock, f"K{HEADS}": unpruned}
    for k in BUDGETS[1:]:
        models[f"K{k}"] = dsp_model(task, kept_heads=encode_kept_heads(spread(heads, k)))
    sample = decoding_batch(SENTENCES, LENGTH)
    if args.device == "cuda":
        sample = utils.move_to_cuda(sample)
    for model in models.values():
        model.to(args.device)
        if args.fp16:
            model.half()
    arms = {name: translator(model, task, sample) for name, model in models.items()}
    print(
        f"{SENTENCES} sentences of about {LENGTH} tokens, beam {BEAM}, {STEPS} steps, "
        f"{'float16' if args.fp16 else 'float32'}; {repeats} rounds"
    )
    print("K4 keeps " + ", ".join(f"{name} {left}" for name, left in spread(heads, 4).items() if left))

    times = interleaved(arms, repeats, 1 if args.device == "cpu" else 3, clock)
    print("       parameters  median ms  sentences/s  speedup")
    for name, seconds in times.items():
        parameters = sum(p.numel() for p in models[name].parameters())
        median = statistics.median(seconds)
        print(
            f"{name:6} {parameters:10,}  {1000 * median:9.1f}  {SENTENCES / median:11.1f}"
            f"  {ratio(times['stock'], seconds):7.2f}",
            flush=True,
        )
    figures = [f"speedup_{name} {ratio(times['stock'], times[name]):.2f} ratio" for name in list(arms)[1:]]

    # apart from the times above: on a GPU the clock stops after every part, which is slow by itself
    shown = ("stock", f"K{HEADS}", f"K{BUDGETS[-1]}")
    parts = {name: watched(models[name], clock) for name in shown}
    count = 1 if args.quick else min(repeats, 5)
    rounds = [{name: parts[name].of(arms[name]) for name in shown} for _ in range(count)]
    median = {
        name: {p: statistics.median(r[name].get(p, 0.0) for r in rounds) for p in PARTS} for name in shown
    }
    print("\nWhere the time goes, ms and share (measured apart, with a clock around every part)")
    print(f"{'':26}" + "".join(f"{name:>16}" for name in shown))
    totals = {name: sum(median[name].values()) for name in shown}
    for part in PARTS:
        print(
            f"{part:26}"
            + "".join(f"{1000 * median[n][part]:10.1f} {median[n][part] / totals[n]:4.0%} " for n in shown)
        )
    print(f"{'sum':26}" + "".join(f"{1000 * totals[n]:10.1f}      " for n in shown) + "\n")

    def in_attention(name: str) -> list[float]:
        return [sum(r[name].get(p, 0.0) for p in ATTENTION) for r in rounds]

    for name in shown[1:]:
        speedup = ratio(in_attention("stock"), in_attention(name))
        figures.append(f"attention_speedup_{name} {speedup:.2f} ratio")
    print("targets: speedup_K72 at least 1.0, speedup_K4 at least 1.5")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
