"""How fast models translate, measured side by side."""

import statistics
import time
from collections.abc import Sequence
from typing import Optional

import torch

from ..checkpoints.checkpoint import load_checkpoint
from .chassis.launch import hush_hosts


def translation_speed(
    data: str,
    paths: Sequence[str],
    subset: str,
    beam: int = 5,
    batch_size: int = 32,
    repeats: int = 3,
    cpu: bool = False,
    length: Optional[int] = None,
) -> list[float]:
    """Measure sentences a second of each checkpoint on a subset: medians over `repeats` interleaved passes.

    Interleaved (A B A B ...), so that a machine that slows down slows all of them. Loading, batching and
    scoring are not counted; a first batch each warms up.

    Args:
        data: binarised folder.
        paths: checkpoints, all of one language pair.
        length: tokens of every translation, so that no model is faster by stopping earlier; None: as they
            end.

    Raises:
        ValueError, FileNotFoundError: a checkpoint that cannot be read.
    """
    from fairseq import checkpoint_utils, options, tasks, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from ... import register

    register()
    hush_hosts()
    for path in paths:
        load_checkpoint(path)  # says clearly what is wrong with a file
    arguments = [
        data,
        "--path",
        paths[0],
        "--task",
        "dsp_translation",
        "--beam",
        str(beam),
        "--gen-subset",
        subset,
    ]
    if length is not None:
        arguments += ["--min-len", str(length), "--max-len-a", "0", "--max-len-b", str(length)]
    parsed = options.parse_args_and_arch(options.get_generation_parser(), arguments)
    cfg = convert_namespace_to_omegaconf(parsed)
    task = tasks.setup_task(cfg.task)
    task.load_dataset(subset)
    use_cuda = torch.cuda.is_available() and not cpu
    generators, models = [], []
    for path in paths:
        ensemble, _ = checkpoint_utils.load_model_ensemble([path], task=task)
        for model in ensemble:
            model.prepare_for_inference_(cfg)
            if use_cuda:
                model.cuda()
        models.append(ensemble)
        generators.append(task.build_generator(ensemble, cfg.generation))
    batches = list(
        task.get_batch_iterator(
            task.dataset(subset), max_sentences=batch_size, max_positions=models[0][0].max_positions()
        ).next_epoch_itr(shuffle=False)
    )
    if use_cuda:
        batches = [utils.move_to_cuda(batch) for batch in batches]
    sentences = sum(batch["nsentences"] for batch in batches)

    # on one thread of a CPU the processor's own clock: other programs on the machine do not blur it
    clock = time.process_time if not use_cuda and torch.get_num_threads() == 1 else time.perf_counter

    def one_pass(position: int, which: list[dict]) -> float:
        _wait(use_cuda)
        started = clock()
        for batch in which:
            task.inference_step(generators[position], models[position], batch)
        _wait(use_cuda)
        return clock() - started

    for position in range(len(paths)):
        one_pass(position, batches[:1])
    seconds: list[list[float]] = [[] for _ in paths]
    for _ in range(repeats):
        for position in range(len(paths)):
            seconds[position].append(one_pass(position, batches))
    return [sentences / statistics.median(times) for times in seconds]


def _wait(use_cuda: bool) -> None:
    if use_cuda:
        torch.cuda.synchronize()
