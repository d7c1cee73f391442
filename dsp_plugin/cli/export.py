"""Write a model that loads without this plugin.

Of a fairseq checkpoint:
  fairseq      (default) stock fairseq's `transformer` with every head in its place; what belonged to the
               heads that are not kept is zero, so that the file is not smaller and no faster than the
               unpruned one (`dsp prune` is for that). It holds plain values only, so that it loads where
               torch (2.6 and later) refuses stock fairseq's own checkpoints.
  ctranslate2  a folder for CTranslate2, as small as one head count a stack allows. The dictionaries
               are read from --data.
Of a Transformers folder, pruned or with --mask:
  dense        (default) a folder of the original sizes with zeros for the heads that are not kept, for stock
               Transformers
  onnx         a folder for ONNX Runtime, as small as the pruned model. A decoder is one step with its cache.

A model without head scores keeps the heads it has. Every export is compared with the masked model: on real
text where there is some (--data, --text), else on random tokens; the outcome is written beside it
(certificate.json), and an export that differs is not written."""

from __future__ import annotations

import argparse
import os

from dsp_plugin.cli import doctor
from dsp_plugin.cli.surgery_arguments import add_surgery_arguments, megabytes, start
from dsp_plugin.options.numbers import number

OF_CHECKPOINTS = ("fairseq", "ctranslate2")
OF_FOLDERS = ("dense", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_surgery_arguments(parser, folders=True)
    parser.add_argument(
        "--format",
        choices=[*OF_CHECKPOINTS, *OF_FOLDERS],
        help="for which program (default: fairseq for a checkpoint, dense for a folder)",
    )
    data = "checkpoints: binarised data, for its dictionaries and text"
    parser.add_argument("--data", metavar="DATA_BIN", help=data)
    subset = "checkpoints: the set of it to compare on (default: valid)"
    parser.add_argument("--gen-subset", metavar="NAME", help=subset)
    parser.add_argument(
        "--sentences",
        type=number("count"),
        default=100,
        metavar="N",
        help="checkpoints: at most so many (default: 100)",
    )
    parser.add_argument("--text", metavar="FILE", help="folders: sentences to compare on, one a line")


def run(args: argparse.Namespace) -> int:
    folder = os.path.isdir(args.checkpoint)
    form = args.format or (OF_FOLDERS if folder else OF_CHECKPOINTS)[0]
    _check(args, form, folder)
    return _of_folder(args, form) if folder else _of_checkpoint(args, form)


def _check(args: argparse.Namespace, form: str, folder: bool) -> None:
    """Refuse what cannot go well, before anything slow is imported.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: a path, a format or an option that does not fit.
        ImportError: a package the format needs is missing.
    """
    if form != "fairseq":
        # the rest of what `start` looks at is for a file as --out
        if not os.path.exists(args.checkpoint):
            raise FileNotFoundError(f"no checkpoint at {args.checkpoint}")
        if os.path.exists(args.out) and os.path.samefile(args.checkpoint, args.out):
            lost = "is the model itself, which would be lost: name another folder"
            raise ValueError(f"--out {args.out} {lost}")
    kind = "a Transformers folder" if folder else "a fairseq checkpoint"
    possible = OF_FOLDERS if folder else OF_CHECKPOINTS
    if form not in possible:
        forms = ", ".join(possible)
        raise ValueError(f"--format {form} is not for {kind} ({args.checkpoint}); possible are {forms}")
    wrong = {"--text": args.text}
    if folder:
        wrong = {
            "--data": args.data,
            "--gen-subset": args.gen_subset,
            "--heads-per-kind": args.heads_per_kind,
        }
    for option in [option for option, value in wrong.items() if value is not None]:
        raise ValueError(f"{option} is not for {kind}")
    if args.sentences < 1:
        raise ValueError(f"--sentences must be at least 1, not {args.sentences}")
    if args.text is not None and not os.path.isfile(args.text):
        raise FileNotFoundError(f"--text {args.text}: no such file")
    if form == "fairseq":
        start(args)
    else:
        from dsp_plugin.records.certificate import NAME
        from dsp_plugin.records.files.whole import check_output_folder

        check_output_folder("--out", args.out, NAME)
    needed = doctor.EXPORTS.get(form, {})
    missing = [name for module, name in needed.items() if not doctor.is_importable(module)]
    if missing:
        raise ImportError(f"--format {form} needs {', '.join(missing)}: {doctor.pip(*missing)}")


def _of_checkpoint(args: argparse.Namespace, form: str) -> int:
    from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
    from dsp_plugin.mt.surgery.pruning import prepare
    from dsp_plugin.mt.surgery.stock_export import certify_fairseq, export_source, keep_of
    from dsp_plugin.records.certificate import write_certificate
    from dsp_plugin.records.files.whole import replacing
    from dsp_plugin.reports.pictures.heads import head_map_text
    from dsp_plugin.surgery import read_mask, units_of_mask

    state = load_checkpoint(args.checkpoint)
    source = prepare(state, units_of_mask(args.mask)[0] if args.mask else None)
    mask = read_mask(args.mask, source.head_map) if args.mask else None
    keep = keep_of(source, args.num_of_heads, mask, args.heads_per_kind)
    text = args.data, args.gen_subset, args.sentences
    if form == "ctranslate2":
        from dsp_plugin.mt.surgery.ctranslate2_export import export_ctranslate2

        exported, certificate = export_ctranslate2(source, keep, args.out, *text)
    else:
        exported = export_source(source, keep)
        certificate = certify_fairseq(source, keep, exported, *text)
        with replacing(args.out) as file:
            save_checkpoint(exported.state, str(file))
            write_certificate(certificate, file, args.out)  # first: there is no export without one
    print(head_map_text(exported.head_map.to_dict(), exported.keep.tolist()))
    print(certificate.sentence())
    if form == "fairseq":
        print(f"parameters: {exported.parameters_after:,}, those of the other heads zero")
        # the option, because stock fairseq drops a last batch of another size than 8, 16, ...
        command = f"fairseq-generate DATA --path {args.out} --required-batch-size-multiple 1"
        print(f"written: {args.out} ({megabytes(args.out)}); translate with: {command}")
        return 0
    for side, heads in certificate.extra["stacks"].items():
        noun = "head" if heads["num_heads"] == 1 else "heads"
        print(f"{side}: every block has {heads['num_heads']} {noun} of size {heads['head_dim']}")
    found = certificate.extra["translations"]
    same = f"{found['same']} of {found['sentences']} the same, word by word"
    print(f"translations by beam {found['beam']}: {same}")
    print(
        f'written: {args.out}; translate with: ctranslate2.Translator("{args.out}").translate_batch([["a", '
        '"sentence"]])'
    )
    return 0


def _of_folder(args: argparse.Namespace, form: str) -> int:
    from dsp_plugin.hf.export.exports import export_folder  # isort: skip  (before transformers)
    from transformers.utils.logging import disable_progress_bar

    from dsp_plugin.reports.pictures.heads import head_map_text

    disable_progress_bar()
    exported = export_folder(args.checkpoint, args.out, form, args.num_of_heads, args.mask, args.text)
    print(head_map_text(exported.head_map.to_dict(), exported.keep.tolist()))
    print(exported.certificate.sentence())
    files = sorted(name for name in os.listdir(args.out) if name.endswith((".onnx", ".safetensors")))
    sizes = ", ".join(f"{name} {megabytes(os.path.join(args.out, name))}" for name in files)
    print(f"written: {args.out} ({sizes})")
    return 0
