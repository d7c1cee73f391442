#!/usr/bin/env python3
"""Draw few-shot data from the official GLUE files, byte for byte as LM-BFF and Delta-Tuning published them.

Reads DATA_DIR/TASK/train.tsv and dev.tsv, writes OUTPUT_DIR/MODE/TASK/K-SEED/{train,dev,test}.tsv: K examples
a class, K others (k-shot-10x: 10 K), and the whole dev.tsv (MNLI: dev_matched, and both of test_*). In
OUTPUT_DIR/k-shot it also writes `checksum`, the published MD5 of what is there: `md5sum -c checksum`.

  cd scripts/delta && bash data/download_dataset.sh && python tools/generate_k_shot_data.py
  python scripts/delta/tools/generate_k_shot_data.py --data_dir data/original --output_dir runs/delta/data \\
    --task SST-2 MRPC --k 16 --seed 13 42

CoLA's training file has no header and is shuffled in place from seed to seed, as in the published program:
the published samples of a seed need the seeds before it in the list 100 13 21 42 87; with others the program
says so.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

PUBLISHED = Path(__file__).resolve().parent / "published.md5"


def arguments(argv, modes, seeds):
    from dsp_plugin.options.numbers import number

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", help="folder with CoLA/, SST-2/ ... (default: data/original, or else "
                        "$DSP_DATA_DIR/glue)")  # fmt: skip
    parser.add_argument("--output_dir", default="data", help="MODE/TASK/K-SEED goes in there (default: data)")
    parser.add_argument("--task", nargs="+", help="default: each of the eight that DATA_DIR has")
    parser.add_argument("--k", type=number("count"), default=16, help="examples a class (default: 16)")
    parser.add_argument("--seed", type=number("seed"), nargs="+", default=list(seeds),
                        help=f"default: {' '.join(map(str, seeds))}")  # fmt: skip
    parser.add_argument("--mode", choices=modes, default="k-shot", help="k-shot-10x: ten times the dev set")
    return parser.parse_args(argv)


def source_folder(given):
    folder = Path(given or "data/original")
    local = os.environ.get("DSP_DATA_DIR")
    if given is None and not folder.is_dir() and local:
        folder = Path(local, "glue")
        print(f"| data/original is not here: {folder}")
    if not folder.is_dir():
        raise ValueError(f"--data_dir {folder} is no folder: data/download_dataset.sh makes data/original")
    return folder


def tasks_in(folder, named):
    """The tasks to draw from, each once. Without names, those with all their files."""
    from dsp_plugin.delta.few_shot import TASKS, TRAIN, find_task

    tasks = list(dict.fromkeys(map(find_task, named))) if named else list(TASKS.values())
    files = {task: [TRAIN, *(original for original, _ in task.dev_files)] for task in tasks}
    lacking = {
        task: [name for name in files[task] if not (folder / task.name / name).is_file()] for task in tasks
    }
    missing = [f"{task.name} ({', '.join(names)})" for task, names in lacking.items() if names]
    if named and missing:
        raise ValueError(f"--data_dir {folder} lacks files of {'; '.join(missing)}")
    found = [task for task in tasks if not lacking[task]]
    if not found:
        raise ValueError(f"--data_dir {folder} has no task: {', '.join(TASKS)} are looked for")
    if missing:
        print(f"| left out, because {folder} lacks their files: {'; '.join(missing)}")
    return found


def write_checksum(folder):
    """Write the published MD5 of the files that are there; return names that match, and others."""
    from dsp_plugin.records.files.whole import write_text

    lines = PUBLISHED.read_text("utf-8").splitlines()
    there = [line for line in lines if (folder / line.split()[1]).is_file()]
    if not there:
        return [], []
    write_text(folder / "checksum", "\n".join(there) + "\n")
    right, wrong = [], []
    for line in there:
        published, name = line.split()
        found = hashlib.md5((folder / name).read_bytes()).hexdigest()
        (right if found == published else wrong).append(name)
    return right, wrong


def program(argv):
    from dsp_plugin.delta.few_shot import DEV_TIMES, SEEDS, OfficialFiles, order_matters
    from dsp_plugin.options.errors import OptionError
    from dsp_plugin.records.files.whole import check_folder

    args = arguments(argv, list(DEV_TIMES), SEEDS)
    if len({*args.seed}) < len(args.seed):
        raise OptionError("seed", f"{' '.join(map(str, args.seed))}: one seed stands there twice")
    check_folder("output_dir", args.output_dir)
    folder = source_folder(args.data_dir)
    tasks = tasks_in(folder, args.task)
    output = Path(args.output_dir, args.mode)
    for name in order_matters(tasks, args.seed):
        print(
            f"| {name}: shuffled in place over the seeds {' '.join(map(str, args.seed))}, in this order; the "
            f"published samples need {' '.join(map(str, SEEDS))}, from the first one on"
        )
    files = [OfficialFiles(task, folder / task.name) for task in tasks]
    for one in files:
        one.training.check(args.k)
    for one in files:
        task, times = one.task, DEV_TIMES[args.mode]
        for written, drawn in one.write(output / task.name, args.k, args.seed, times):
            if drawn.short:
                print(f"| {written}: the development set has fewer of {', '.join(drawn.short)}")
        if drawn.skipped:
            print(
                f"| {task.name}: {drawn.skipped} rows of train.tsv have too few or too many cells: not drawn"
            )
        print(f"| {task.name}: {len(args.seed)} data sets of K = {args.k} in {output / task.name}")
    if args.mode == "k-shot":
        right, wrong = write_checksum(output)
        if right or wrong:
            print(f"| {output}/checksum: {len(right)} of {len(right) + len(wrong)} files as published")
        if wrong:
            print(f"| not as published: {', '.join(wrong)}")


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from dsp_plugin.options.errors import underscored
    from dsp_plugin.options.faults import one_line
    from dsp_plugin.options.launchers import without_local_rank

    try:
        program(without_local_rank(sys.argv[1:] if argv is None else argv))
    except (ValueError, OSError) as error:
        sys.exit(f"generate_k_shot_data.py: error: {one_line(error, underscored)}")


if __name__ == "__main__":
    main()
