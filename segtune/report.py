"""`segtune report RUN`: one page of a run that needs no network: winner, workers' time, curves, settings, and how each trial ended."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import run_command
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import load_study

if TYPE_CHECKING:
    pass
from segtune.reporting.html import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune report", description="Write the page of a run, also while it runs."
    )
    parser.add_argument("run", help="folder of the run, for example runs/loss_weights-1")
    parser.add_argument("--out", metavar="FILE", help="file to write (default: RUN/report.html)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    run = SearchDir.open(arguments.run)
    print(
        f"report: {write_report(load_study(run.study), run, Path(arguments.out) if arguments.out else None)}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
