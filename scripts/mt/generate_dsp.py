#!/usr/bin/env python3
"""Translate and score with a DSP model: fairseq-generate's options and output, plus

  sacreBLEU with its signature, the kept heads as a map, and in --record-dir (default
  dsp_results/<model>-<subset>/) results.json, mask.json and translations.txt.

  --num-of-heads K     deploy the K best heads instead of the K the checkpoint was trained for
  --diff-pack FILE     put a diff pack into the model of --path, which must be the pack's base
                       (docs/diff-pruning.md); --dsee-checkpoint FILE and --delta FILE do so with a file of
                       DSEE (docs/dsee.md) and of Delta-Tuning (docs/delta-mt.md)
  --record-dir DIR     where the record goes         --record-name, --method   how it is labelled
  --record-seed N      of which seed it is, where not of the training's (heads that another seed has chosen)
  --no-detok           score the text as it is (default: Moses-detokenised unless --tokenizer is given)

  python scripts/mt/generate_dsp.py data-bin -s de -t en --path checkpoint_best.pt --quiet \\
    --batch-size 32 --beam 5 --remove-bpe
"""

import os
import sys


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.programs.common import generation_program

    generation_program(__doc__, sys.argv[1:])


if __name__ == "__main__":
    main()
