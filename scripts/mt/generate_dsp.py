#!/usr/bin/env python3
"""Translate and score with a DSP model: fairseq-generate's options and output, plus

  sacreBLEU with its signature, the kept heads as a map, and in --record-dir (default
  dsp_results/<model>-<subset>/) results.json, mask.json and translations.txt.

  --num-of-heads K     deploy the K best heads instead of the K the checkpoint was trained for
  --record-dir DIR     where the record goes         --record-name, --method   how it is labelled
  --no-detok           score the text as it is (default: Moses-detokenised unless --tokenizer is given)

  python scripts/mt/generate_dsp.py data-bin -s de -t en --path checkpoint_best.pt --quiet --batch-size 32 --beam 5 --remove-bpe
"""

import os
import sys


def main() -> None:
    if len(sys.argv) == 1:
        sys.exit(__doc__ + "\nGive the prepared data folder and --path; --help lists fairseq-generate's options too.")
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from dsp_plugin.mt.generate import generate

    if "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__ + "\nfairseq-generate's options:")
    try:
        generate(sys.argv[1:])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"generate_dsp.py: error: {error}")


if __name__ == "__main__":
    main()
