"""`segtune data`: check, show, generate or convert a data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune import data_labelme, data_sbd, data_show
from segtune.cli import add_set_argument, path_argument, run_command
from segtune.config.schema import load_config
from segtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from segtune.data.pairs import Pair
    from segtune.data.statistics import DataSetStatistics

# `data check` prints at most this many problems, and as many notes.
MAX_LINES = 50


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 if the data set has a problem."""
    parser = argparse.ArgumentParser(
        prog="segtune data", description="Check, show, generate or convert a data set."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check", help="read every image and mask; print class frequencies and all problems"
    )
    check.add_argument("config", help="config file")
    add_set_argument(check)
    check.set_defaults(run=_check)
    shapes = commands.add_parser("shapes", help="generate the shapes data set, in VOC layout")
    shapes.add_argument("--out", required=True, type=path_argument, help="folder to write")
    shapes.add_argument("--seed", type=int, default=0)
    shapes.add_argument("--train", type=int, default=160, help="training images (default: 160)")
    shapes.add_argument("--val", type=int, default=40, help="validation images (default: 40)")
    shapes.set_defaults(run=_shapes)
    for subcommand in (data_sbd, data_labelme, data_show):
        subcommand.add_parser(commands)
    arguments = parser.parse_args(argv)
    return run_command(lambda: arguments.run(arguments))


def _shapes(arguments: argparse.Namespace) -> int:
    from segtune.data.shapes import ShapesSpec, generate_if_needed

    lowest = {"seed": 0, "train": 1, "val": 1}
    problems = [
        f"--{name}: allowed is a number from {least}; got {getattr(arguments, name)}"
        for name, least in lowest.items()
        if getattr(arguments, name) < least
    ]
    if problems:
        raise ConfigError(problems)
    spec = ShapesSpec(arguments.seed, arguments.train, arguments.val)
    generate_if_needed(Path(arguments.out), spec)
    print(
        f"{arguments.out}: {spec.num_train} training and {spec.num_val} validation images "
        "in VOC layout"
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from segtune.data.statistics import check_data_set
    from segtune.reporting.terminal import wide_console

    config = load_config(arguments.config, arguments.set).data
    content = check_data_set(config, _with_progress)
    wide_console().print(_table(content, config.root, config.ignore_index), markup=False)
    print(
        f"{content.train.num_images} training and {content.val.num_images} validation images, "
        f"{len(content.classes)} classes"
    )
    if content.notes:
        print(_list("note", content.notes))
    if content.problems:
        raise DataError(_list("problem", content.problems))
    print("no problems found")
    return 0


def _table(content: DataSetStatistics, root: str, ignore_index: int) -> Table:
    from rich.table import Table

    table = Table(
        *("label", "class", "train", "images", "val", "images"),
        title=f"share of pixels by class, {root}",
        title_justify="left",
    )
    rows = list(enumerate(content.classes))
    if ignore_index < len(rows):
        rows[ignore_index] = (ignore_index, f"{content.classes[ignore_index]} (ignored)")
    else:
        rows.append((ignore_index, "(ignored)"))
    for label, name in rows:
        cells = [str(label), name]
        for split in (content.train, content.val):
            cells += [f"{100 * split.pixel_share(label):.2f} %", str(split.images[label])]
        table.add_row(*cells)
    return table


def _with_progress(split: str, pairs: Sequence[Pair]) -> Iterable[Pair]:
    """Yield the pairs of a split, with a progress bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        pairs,
        description=f"reading {split}",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _list(noun: str, lines: Sequence[str]) -> str:
    """Return the number of problems or notes, and at most MAX_LINES of them, one a line."""
    head = f"{len(lines)} {noun}{'' if len(lines) == 1 else 's'}:"
    more = [f"… and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n".join([head, *lines[:MAX_LINES], *more])


if __name__ == "__main__":
    raise SystemExit(main())
