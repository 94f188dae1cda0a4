"""`segtune status RUN`: the trials of a run, from any shell, without Ray."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtune.cli import run_command
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import load_study


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune status", description="Show the trials of a run, also while it runs."
    )
    parser.add_argument("run", help="folder of the run, for example runs/loss_weights-1")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="also write the trials as a table with one column per searched setting",
    )
    arguments = parser.parse_args(argv)
    return run_command(lambda: _status(arguments))


def _status(arguments: argparse.Namespace) -> int:
    from segtune.reporting.terminal import print_outcome, wide_console
    from segtune.runs.atomic import write_atomic
    from segtune.runs.results import read_trials, to_frame

    run = SearchDir.open(arguments.run)
    print_outcome(load_study(run.study), run, wide_console())
    if arguments.csv:
        from pathlib import Path

        write_atomic(Path(arguments.csv), to_frame(read_trials(run)).to_csv(index=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
