"""Put checksums into files of earlier versions, or anew after an edit on purpose.

Of a file: the JSON of a record, its sentences, a mask, a step, settings, a certificate, or a history
(.jsonl). Of a folder: all of these in it and in the folders below, and the list checksums.json of every
folder of a pruned or gated model, of a Trainer's checkpoint, or of an export. Only the checksums change. The
files are taken as they are: look at them first.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and folders")


def run(args: argparse.Namespace) -> int:
    from dsp_plugin.records.sealing import seal_path

    files = folders = 0
    for path in args.paths:
        sealed = seal_path(path)
        files, folders = files + len(sealed.files), folders + len(sealed.folders)
        for reason in sealed.left_out:
            print(f"left out: {reason}")
    print(
        f"sealed: {files} file{'' if files == 1 else 's'}, {folders} folder{'' if folders == 1 else 's'} "
        "of weights"
    )
    return 0
