#!/usr/bin/env python3
"""The main job from end to end: an unpruned translation model beside one that keeps a quarter of its heads.

Prepares the corpus, trains both models (joint DSP, annealed), scores them, takes the dead heads out of the
second for good, scores the smaller model, measures the speed of both, and leaves in the output folder:
table.md, heads.png, comparison.png, results.json, and every checkpoint and record beside them.

  python scripts/demo.py                       a generated corpus: minutes on two cores
  python scripts/demo.py --dataset multi30k    real text (DSP_DATA_DIR/multi30k, else fetched)

Started again, it goes on where it stopped.
"""

import argparse
import logging
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from dsp_plugin.mt.programs.refusals import run_program
from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.whole import check_folder

LENGTH = 20  # tokens of every translation when the speed is measured: none is faster by stopping earlier
SETTINGS = {"embedded": {"heads": 24, "subset": "test"}, "multi30k": {"heads": 36, "subset": "test"}}


def run_both(jobs: dict[str, dict[str, str]]) -> None:
    """Run pipelines side by side, one core each, showing their progress; stop if one fails.

    Args:
        jobs: script name -> its environment variables.
    """
    running = {}
    for script, settings in jobs.items():
        os.makedirs(settings["SAVE_DIR"], exist_ok=True)
        log = os.path.join(settings["SAVE_DIR"], "pipeline.log")
        stream = open(log, "a", encoding="utf-8")
        process = subprocess.Popen(
            [f"scripts/mt/{script}.sh"],
            env={**os.environ, **settings},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        running[script] = (process, log, stream)
    shown = {}
    started = time.time()
    while any(process.poll() is None for process, _, _ in running.values()):
        time.sleep(1)
        for script, (_, log, _) in running.items():
            line = last_news(log)
            if line and shown.get(script) != line:
                shown[script] = line
                print(f"  {time.time() - started:4.0f} s  {script:10s} {line}", flush=True)
    for script, (process, log, stream) in running.items():
        stream.close()
        if process.returncode:
            tail = "".join(open(log, encoding="utf-8").readlines()[-15:])
            sys.exit(
                f"{tail}\n{script} failed; its whole output: {log}. Mend it and start again: finished "
                "steps are kept."
            )


def last_news(log: str) -> str:
    """Return the latest step or figures in a pipeline's log, short."""
    news = ""
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            is_validation = "INFO:valid:" in line or "| valid |" in line
            if is_validation or "train_inner" in line:
                words = line.replace("|", " ").replace("=", " ").replace(",", " ").split()
                wanted = ("loss", "bleu") if is_validation else ("num_updates", "loss", "heads_open")
                figures = ", ".join(
                    f"{name} {words[words.index(name) + 1]}" for name in wanted if name in words
                )
                news = f"{'valid' if is_validation else 'train'}: {figures}"
            elif line.startswith("| BLEU on"):
                news = line[2:].split("  ")[0]
    return news


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=sorted(SETTINGS), default="embedded")
    parser.add_argument("--out", help="output folder (default demo/<dataset>)")
    parser.add_argument("--num-of-heads", type=number("amount"), help="heads to keep (default: a quarter)")
    parser.add_argument("--seed", type=number("seed"), default=1)
    parser.add_argument("--gpu", action="store_true", help="train and translate on the GPU")
    parser.add_argument("--traceback", action="store_true", help="show all that led to an error")
    options = parser.parse_args(argv)
    if options.out is not None:  # it starts in the user's folder, not in the repository's
        options.out = os.path.abspath(options.out)
        check_folder("--out", options.out)
    if options.gpu:
        import torch

        if not torch.cuda.is_available():
            parser.error("--gpu: torch finds no GPU here; without it the demo runs on the processor")
    os.chdir(ROOT)
    setting = SETTINGS[options.dataset]
    budget = setting["heads"] // 4 if options.num_of_heads is None else options.num_of_heads
    if not 0 <= budget <= setting["heads"]:
        parser.error(f"--num-of-heads must be in 0..{setting['heads']} (heads of the model), got {budget}")
    out = options.out or os.path.join("demo", options.dataset)

    try:
        check_folder("--out", out)
    except ValueError as error:
        parser.error(str(error))
    started = time.time()

    print(
        f"1/3  train, score, remove dead heads: all {setting['heads']} heads beside exactly {budget} of them",
        flush=True,
    )
    common = {
        "DATASET": options.dataset,
        "DATA_BIN": os.path.join("data-bin", options.dataset),
        "SEED": str(options.seed),
        "PYTHON": sys.executable,
        "RECORD_NAME": options.dataset,
        "K": str(budget),
        "SCORE_PRUNED": "1",
        "FLAGS": "--no-progress-bar" + ("" if options.gpu else " --cpu --num-workers 0"),
        # of 6 attention blocks; with none left in cross-attention the model would not see the source
        **(
            {"PRUNING_FLAGS": "--min-heads-per-block 1"}
            if options.dataset == "embedded" and budget >= 6
            else {}
        ),
        **({} if options.gpu else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}),
    }
    # by K and seed: what was trained for others is not taken for these
    names = {"unpruned": f"unpruned-seed{options.seed}", "joint": f"joint-K{budget}-seed{options.seed}"}
    folders = {script: os.path.join(out, name) for script, name in names.items()}
    prepare = subprocess.call(
        ["bash", "-c", "source scripts/mt/lib.sh && prepare_data"], env={**os.environ, **common}
    )
    if prepare:
        sys.exit("the corpus could not be prepared: see above")
    run_both({script: {**common, "SAVE_DIR": folder} for script, folder in folders.items()})

    records = load_scores(folders, setting["subset"])
    checkpoints = [
        os.path.join(folders["unpruned"], "checkpoint_best.pt"),
        os.path.join(folders["joint"], "checkpoint_pruned.pt"),
    ]

    print("2/3  speed of both models, in turn", flush=True)
    logging.disable(logging.INFO)  # before the host is imported, which says what could be installed
    import torch

    from dsp_plugin.mt.programs.speed import translation_speed

    # such small matrices gain nothing from a second core, and lose much where it is busy
    torch.set_num_threads(1)
    speeds = translation_speed(
        common["DATA_BIN"], checkpoints, setting["subset"], cpu=not options.gpu, length=LENGTH
    )
    print("3/3  table, pictures, record", flush=True)
    report(out, options, records, dict(zip(("unpruned", "pruned"), speeds)), time.time() - started)


def load_scores(folders: dict[str, str], subset: str):
    """Read the records of the three models' scores, which the pipelines wrote."""
    from dsp_plugin.records.record import load_record

    places = {
        "unpruned": (folders["unpruned"], subset),
        "masked": (folders["joint"], subset),
        "pruned": (folders["joint"], f"{subset}-pruned"),
    }
    return {
        name: load_record(os.path.join(folder, "records", s, "results.json"))
        for name, (folder, s) in places.items()
    }


def report(out: str, options, records, speeds: dict[str, float], seconds: float) -> None:
    """Write and print the summary; every number comes from the records, the files and the measured speeds."""
    from dsp_plugin.records.files.whole import write_text
    from dsp_plugin.records.kept_heads import mask_of
    from dsp_plugin.records.record import Metric, new_record, save_record
    from dsp_plugin.reports.pictures.bars import comparison_png
    from dsp_plugin.reports.pictures.heads import head_map_png
    from dsp_plugin.reports.tables.rows import markdown_table

    subset = SETTINGS[options.dataset]["subset"]
    labels = {"unpruned": "all heads", "masked": "a mask on the heads", "pruned": "dead heads removed"}
    rows: list[dict] = []
    for name, record in records.items():
        bleu = record.metric("BLEU", subset)
        kept = record.heads
        rows.append(
            {
                "model": labels[name],
                "heads": f"{kept['kept']} of {kept['total']}",
                "BLEU": bleu.value,
                "parameters": record.parameters["after" if name == "pruned" else "before"],
                "sentences/s": speeds.get(name),
            }
        )
    heads = records["masked"].heads
    table = markdown_table(rows, ["model", "heads", "BLEU", "parameters", "sentences/s"])
    text = (
        f"# {options.dataset}: all heads, and {heads['kept']} of {heads['total']}\n\n{table}\n\nBLEU: "
        f"{records['unpruned'].metric('BLEU', subset).signature}\n"
    )
    write_text(os.path.join(out, "table.md"), text)
    head_map_png(heads, mask_of(heads), os.path.join(out, "heads.png"), f"{options.dataset}: heads kept")
    comparison_png(
        [labels["unpruned"], labels["pruned"]],
        {
            "BLEU": [rows[0]["BLEU"], rows[2]["BLEU"]],
            "parameters (millions)": [rows[0]["parameters"] / 1e6, rows[2]["parameters"] / 1e6],
            "sentences/s": [speeds["unpruned"], speeds["pruned"]],
        },
        os.path.join(out, "comparison.png"),
    )
    record = new_record(
        "demo",
        options.dataset,
        "dsp-joint",
        device=None if options.gpu else "cpu",
        seed=options.seed,
        data=records["masked"].data,
        heads=heads,
        parameters={"before": rows[0]["parameters"], "after": rows[2]["parameters"]},
        updates=records["masked"].updates,
        seconds={"demo": seconds},
        metrics=[
            Metric(
                f"BLEU {name}",
                row["BLEU"],
                signature=records[name].metric("BLEU", subset).signature,
                subset=subset,
            )
            for name, row in zip(records, rows)
        ]
        + [Metric(f"speed {name}", value, "sentences/s", subset=subset) for name, value in speeds.items()],
    )
    save_record(record, os.path.join(out, "results.json"))
    print("\n" + table)
    print(
        f"\nspeed: {speeds['pruned'] / speeds['unpruned']:.2f} times the unpruned model's (medians of 3, in "
        f"turn, {LENGTH} tokens each)\n"
        f"in {out}: table.md  heads.png  comparison.png  results.json    ({seconds:.0f} s in all)"
    )


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
