"""`segtune data`: check, show, generate or convert a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune import data_check, data_labelme, data_sbd, data_show
from segtune.cli import CommandParser, path_argument, run_command
from segtune.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 if the data set has a problem."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune data", description="Check, show, generate or convert a data set."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    data_check.add_parser(commands)
    shapes = commands.add_parser("shapes", help="generate the shapes data set, in VOC layout")
    shapes.add_argument("--out", required=True, type=path_argument, help="folder to write")
    shapes.add_argument("--seed", type=int, default=0)
    shapes.add_argument("--train", type=int, default=160, help="training images (default: 160)")
    shapes.add_argument("--val", type=int, default=40, help="validation images (default: 40)")
    shapes.set_defaults(run=_shapes)
    for subcommand in (data_sbd, data_labelme, data_show):
        subcommand.add_parser(commands)
    return parser


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


if __name__ == "__main__":
    raise SystemExit(main())
