#!/usr/bin/env python3
"""Draw docs/picture.png: the heads that stay, and score and speed before and after, from records alone.

python scripts/picture.py [--results results/multi30k/small] [--out docs/picture.png]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dsp_plugin.options.launchers import without_local_rank
from dsp_plugin.records.files.whole import replacing
from dsp_plugin.records.kept_heads import mask_of
from dsp_plugin.records.record import load_record
from dsp_plugin.reports.pictures.bars import comparison_png
from dsp_plugin.reports.pictures.heads import head_map_png

# label -> folder of the run: joint DSP, one seed
RUNS = {"all 24 heads": "unpruned-seed1", "12 heads": "joint-K12-seed1", "6 heads": "joint-K6-seed1"}
SHOWN = "joint-K12-seed1"


def figure_of(run: Path, folder: str, metric: str) -> float:
    """Return a run's figure, from the record of its scoring or of its speed.

    Raises:
        OSError, ValueError: there is no whole record, or it lacks the metric.
    """
    found = [one.value for one in load_record(run / folder / "results.json").metrics if one.name == metric]
    if len(found) != 1:
        raise ValueError(f"{run / folder}: one {metric} is wanted, there are {len(found)}")
    return found[0]


def draw(results: Path, out: Path) -> None:
    """Draw the picture of the runs in `results`, whole or not at all."""
    from PIL import Image

    measures = {
        "BLEU": [figure_of(results / run, "test", "BLEU") for run in RUNS.values()],
        "speed (sentences/s)": [figure_of(results / run, "speed", "speed") for run in RUNS.values()],
    }
    heads = load_record(results / SHOWN / "test" / "results.json").heads
    with tempfile.TemporaryDirectory() as folder:
        top, bottom = Path(folder) / "heads.png", Path(folder) / "bars.png"
        head_map_png(heads, mask_of(heads), top, "Multi30k de-en: the 12 of 24 heads that stay")
        comparison_png(list(RUNS), measures, bottom)
        images = [Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE) for path in (top, bottom)]
        size = (max(image.width for image in images), sum(image.height for image in images))
        sheet = Image.new("RGB", size, "white")
        sheet.paste(images[0], (0, 0))
        sheet.paste(images[1], (0, images[0].height))
        with replacing(out) as temporary:
            sheet.convert("P", palette=Image.Palette.ADAPTIVE).save(temporary, format="PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "multi30k" / "small")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "picture.png")
    options = parser.parse_args(without_local_rank(sys.argv[1:]))
    try:
        draw(options.results, options.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(options.out)


if __name__ == "__main__":
    main()
