#!/usr/bin/env python3
"""Look at options of fairseq's programs before the first of many is started.

  check_flags.py DATA [options of fairseq-train] --- DATA [options of fairseq-generate]

Ends with one line that names the option which cannot be.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsp_plugin.mt.programs.chassis.refusals import one_line
from dsp_plugin.options.errors import as_typed, dashed


def main(words: list[str]) -> None:
    from fairseq import options

    from dsp_plugin import register
    from dsp_plugin.mt.programs.chassis.launch import parse_for_fairseq, training_options

    register()
    middle = words.index("---")
    training_options(words[:middle])
    parse_for_fairseq(options.get_generation_parser, words[middle + 1 :])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        sys.exit(one_line(error, as_typed(sys.argv, dashed)))
