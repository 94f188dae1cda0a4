"""`segtune compare RUN RUN…`: several searches in one table and on one page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, CommandParser, path_argument, run_command

DEFAULT_OUT = "comparison.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _compare(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune compare",
        description="Compare search runs: their winners and whether these are confirmed, the best "
        "mIoU over trials and over worker-hours, and the settings that differ. Prints a table and "
        "writes a page that needs no network.",
    )
    parser.add_argument(
        "runs", nargs="+", type=path_argument, metavar="RUN", help="two or more search runs"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=DEFAULT_OUT,
        metavar="FILE",
        help=f"page to write (default: {DEFAULT_OUT})",
    )
    return parser


def _compare(arguments: argparse.Namespace) -> int:
    from segtune.reporting.compare_page import compare_page
    from segtune.reporting.compare_table import print_comparison
    from segtune.reporting.compared_searches import open_searches
    from segtune.reporting.terminal import print_lines, wide_console
    from segtune.runs.atomic import write_atomic

    searches, console = open_searches(arguments.runs), wide_console()
    write_atomic(Path(arguments.out), compare_page(searches))
    print_comparison(searches, console)
    print_lines(console, f"page: {arguments.out}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
