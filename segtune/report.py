"""`segtune report RUN`: a search run as one HTML page that needs no network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, CommandParser, add_run_argument, path_argument, run_command
from segtune.reporting.html import write_report
from segtune.runs.rundir import SearchDir
from segtune.tuning.study_reader import load_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _report(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune report",
        description="Write the HTML page of a search run, also while it is running: best trial, "
        "workers' time, learning curves, settings, and how each trial ended.",
    )
    add_run_argument(parser)
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="FILE",
        help="file to write (default: report.html in RUN)",
    )
    return parser


def _report(arguments: argparse.Namespace) -> int:
    run = SearchDir.open(arguments.run)
    out = Path(arguments.out) if arguments.out else None
    print(f"report: {write_report(load_study(run.study), run, out)}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
