"""`segtune data labelme`: LabelMe's JSON files to a data set in VOC layout."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import DONE, PARTLY_REFUSED, path_argument
from segtune.errors import ConfigError, DataError, first_of, setting
from segtune.reporting.progress import follow
from segtune.runs.atomic import naming, temporary_beside

if TYPE_CHECKING:
    from segtune.data.labelme import Classes, Conversion

log = logging.getLogger(__name__)
MAX_SHOWN = 8


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand; its arguments name the function that runs it."""
    parser = commands.add_parser(
        "labelme",
        help="LabelMe's JSON files to a data set in VOC layout",
        description="Write images, masks with class labels, class names, and the lists train and "
        "val into a new folder in VOC layout.",
    )
    add = parser.add_argument
    add("--input", required=True, type=path_argument, metavar="DIR", help="folder of JSON files")
    add("--out", required=True, type=path_argument, metavar="DIR", help="new folder to write")
    add(
        "--labels",
        metavar="FILE",
        help="labels.txt of LabelMe: __ignore__, _background_, then a class per line; or names "
        "separated by commas. Default: all labels of the JSON files, sorted",
    )
    add("--val-share", type=float, default=0.2, help="share of validation images (default: 0.2)")
    add("--seed", type=int, default=0, help="of the split (default: 0)")
    add(
        "--skip-broken",
        action="store_true",
        help="convert the other files if some are refused (exit code 1)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from segtune.data.labelme import Conversion, find_json, read_classes

    if not 0 <= arguments.val_share < 1:
        problem = f"--val-share: allowed is a number from 0, below 1; got {arguments.val_share}"
        raise ConfigError([problem])
    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--out: {out} exists and is not empty; choose a new folder, or remove it")
    listed = read_classes(arguments.labels) if arguments.labels else None
    conversion = Conversion(find_json(Path(arguments.input)), listed)
    total = len(conversion.files)
    refused = follow(conversion.check(), total, "check")
    if refused and not (arguments.skip_broken and conversion.files):
        raise DataError(
            f"{refused} of {total} JSON files are refused, so nothing is written; repair them, or "
            "convert the others: --skip-broken"
        )
    _write(conversion, out, arguments)
    return PARTLY_REFUSED if len(conversion.files) < total else DONE


def _write(conversion: Conversion, out: Path, arguments: argparse.Namespace) -> None:
    """Write the data set beside `out`, and rename it when it is complete."""
    from segtune.data.labelme import split_names, write_lists

    classes = conversion.classes
    staging = temporary_beside(out)
    try:
        with naming(out):
            staging.mkdir(parents=True)
            refused = follow(conversion.write(staging), len(conversion.files), "write")
            if refused and not arguments.skip_broken:
                raise DataError(f"{refused} JSON files or images have changed; run it again")
            train, val = split_names(list(conversion.files), arguments.val_share, arguments.seed)
            write_lists(staging, classes, train, val)
            if out.exists():
                out.rmdir()  # it is empty
            os.rename(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(conversion, classes, out, (len(train), len(val)))


def _report(conversion: Conversion, classes: Classes, out: Path, counts: tuple[int, int]) -> None:
    print(f"{out}: {counts[0]} training and {counts[1]} validation images in VOC layout")
    if conversion.num_empty:
        print(f"{conversion.num_empty} images have no shape: all of their pixels are background")
    if not counts[1]:
        print("there is no val.txt: set data.val to a list of your own before training")
    print(f"{len(classes.names)} classes: {first_of(classes.names, MAX_SHOWN)}")
    settings = [setting("data.root", str(out)), setting("data.classes", "class_names.txt")]
    print(f"to train on it: --set data.layout=voc {' '.join(settings)}")
