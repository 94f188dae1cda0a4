"""`segtune data`: reads a whole data set and says what is wrong with it, or generates the shapes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import add_set_argument, run_command
from segtune.config.schema import load_config
from segtune.errors import DataError

if TYPE_CHECKING:
    pass
from segtune.data.statistics import SplitStatistics, read_split

MAX_PROBLEMS = 50


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 2 where a data set has a problem."""
    parser = argparse.ArgumentParser(
        prog="segtune data", description="Check a data set, or generate the shapes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="read every image and mask; print class frequencies and everything that is wrong",
    )
    check.add_argument("config", help="config file")
    add_set_argument(check)
    shapes = commands.add_parser("shapes", help="generate the shapes data set, in VOC layout")
    shapes.add_argument("--out", required=True, help="folder to write")
    shapes.add_argument("--seed", type=int, default=0)
    shapes.add_argument("--train", type=int, default=160, help="training images (default: 160)")
    shapes.add_argument("--val", type=int, default=40, help="validation images (default: 40)")
    arguments = parser.parse_args(argv)
    return run_command(
        lambda: _check(arguments) if arguments.command == "check" else _shapes(arguments)
    )


def _shapes(arguments: argparse.Namespace) -> int:
    from segtune.data import shapes

    shapes.generate_if_needed(
        Path(arguments.out), shapes.ShapesSpec(arguments.seed, arguments.train, arguments.val)
    )
    print(
        f"{arguments.out}: {arguments.train} training and {arguments.val} validation images in VOC layout"
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from segtune.data.layouts import class_names

    config = load_config(arguments.config, arguments.set)
    names = class_names(config.data)
    train, val = (read_split(config, split, len(names)) for split in ("train", "val"))
    table = Table(
        "label",
        "class",
        "train",
        "images",
        "val",
        "images",
        title=f"share of pixels by class, {config.data.root}",
        title_justify="left",
    )
    for label, name in enumerate(names):
        table.add_row(
            str(label), name, *(cell for split in (train, val) for cell in split.cells(label))
        )
    table.add_row(
        str(config.data.ignore_index),
        "(ignored)",
        *(cell for split in (train, val) for cell in split.cells(config.data.ignore_index)),
    )
    Console().print(table, markup=False)
    problems = train.problems + val.problems + _unseen(train, val, names)
    print(
        f"{train.num_images} training and {val.num_images} validation images, {len(names)} classes"
    )
    if problems:
        more = (
            f"\n… and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        )
        raise DataError(f"{len(problems)} problems:\n" + "\n".join(problems[:MAX_PROBLEMS]) + more)
    print("no problems found")
    return 0


def _unseen(train: SplitStatistics, val: SplitStatistics, names: Sequence[str]) -> list[str]:
    return [
        f"class {name!r} (label {label}) is in the validation images and in no training image"
        for label, name in enumerate(names)
        if val.images[label] and not train.images[label]
    ]


if __name__ == "__main__":
    raise SystemExit(main())
