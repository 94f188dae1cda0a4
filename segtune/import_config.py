"""`segtune import FILE`: a config of mmsegmentation as a config of segtune."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, PARTLY_REFUSED, CommandParser, path_argument, run_command
from segtune.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if something was not carried over."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _import(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune import",
        description="Convert a config of mmsegmentation (0.x or 1.x) to a config of segtune. The "
        "file is read with its _base_ files and never executed. The report on stderr names every "
        "key. Exit code 1: something that changes the numbers was not carried over.",
    )
    parser.add_argument(
        "file",
        type=path_argument,
        metavar="FILE",
        help="config (.py), or the output of mmsegmentation's print_config.py",
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="file to write (default: stdout)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --out FILE")
    parser.add_argument(
        "--gpus",
        type=_count,
        default=1,
        metavar="N",
        help="number of GPUs that the config was written for: the batch size is that of one GPU "
        "times N (default: 1)",
    )
    parser.add_argument(
        "--images",
        type=_count,
        metavar="N",
        help="number of training images, to convert iterations to epochs; known for PASCAL VOC, "
        "ADE20K and Cityscapes",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="write no config if something that changes the numbers was not carried over",
    )
    return parser


def _count(text: str) -> int:
    """Return a number from 1 on; the type of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"allowed is a whole number from 1; got {text!r}")
    return int(text)


def _import(arguments: argparse.Namespace) -> int:
    from segtune.mmseg.convert import as_yaml, changes_numbers, convert, report
    from segtune.mmseg.reader import read_mmseg_config
    from segtune.runs.atomic import create_once, write_atomic

    out = Path(arguments.out) if arguments.out else None
    if out and out.is_dir():
        raise ConfigError([f"--out: {out} is a folder; expected a file, as in {out / 'my.yaml'}"])
    if out and out.exists() and not arguments.overwrite:
        raise ConfigError([_exists(out)])
    config = read_mmseg_config(arguments.file)
    if out:
        _refuse_a_source(out, config.files)
    ledger = convert(config, arguments.gpus, arguments.images)
    # The report comes first: it has the reasons if the settings do not fit together.
    print("\n".join(report(ledger)), file=sys.stderr)
    text = as_yaml(ledger, arguments.file)
    code = PARTLY_REFUSED if changes_numbers(ledger) else DONE
    if code and arguments.strict:
        print("no config is written, because of --strict", file=sys.stderr)
    elif out is None:
        print(text, end="")
    elif arguments.overwrite:
        write_atomic(out, text)
    elif not create_once(out, text):
        raise ConfigError([_exists(out)])
    if out and not (code and arguments.strict):
        print(f"{out}: written; next: segtune data check {out}", file=sys.stderr)
    return code


def _refuse_a_source(out: Path, files: Sequence[str]) -> None:
    """Raise ConfigError if the config would replace a file that it was read from."""
    for file in files:
        if out.exists() and out.samefile(file):
            problem = f"--out: {out} is a file that is read here ({file})"
            other = out.with_name(f"{out.stem}_segtune.yaml")
            raise ConfigError([f"{problem}; choose another file, as in {other}"])


def _exists(path: Path) -> str:
    return f"--out: {path} exists; choose another file, or replace it with --overwrite"


if __name__ == "__main__":
    raise SystemExit(main())
