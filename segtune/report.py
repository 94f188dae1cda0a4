"""`segtune report RUN`: a search run as one HTML page that needs no network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, CommandParser, add_run_argument, path_argument, run_command
from segtune.reporting.html import write_report
from segtune.runs.rundir import SearchDir
from segtune.tuning.search_config import DEFAULT_PICTURES
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _report(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune report",
        description="Write the HTML page of a search run, also while it is running: the outcome "
        "in sentences, what to do next, charts of trials and settings, what went wrong, pictures "
        "of the validation images, and how to repeat it.",
    )
    add_run_argument(parser)
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="FILE",
        help="file to write (default: report.html in RUN)",
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="first predict the validation images with the best trial and the config itself, in "
        "this process; a search does this at its end (search.pictures)",
    )
    return parser


def _report(arguments: argparse.Namespace) -> int:
    run = SearchDir.open(arguments.run)
    study, out = load_study(run.study), Path(arguments.out) if arguments.out else None
    if arguments.pictures:
        _draw_pictures(study, run)
    print(f"report: {write_report(study, run, out)}")
    return DONE


def _draw_pictures(study: Study, run: SearchDir) -> None:
    """Draw the pictures anew; after a search on a proxy, those at full length, too."""
    from segtune.training.comparison import write_comparison

    for part in (run, run.full):
        if part.trials.exists():
            write_comparison(part, study.search.pictures or DEFAULT_PICTURES)


if __name__ == "__main__":
    raise SystemExit(main())
