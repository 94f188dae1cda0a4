"""`segtune status RUN`: the trials of a search run, from any shell, without Ray."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, add_run_argument, path_argument, run_command
from segtune.reporting.curve_sources import read_runs
from segtune.reporting.curve_table import print_numbers
from segtune.reporting.mmengine_logs import find_logs
from segtune.reporting.terminal import (
    print_forecast,
    print_outcome,
    print_runs,
    print_training,
    wide_console,
)
from segtune.runs.atomic import write_atomic
from segtune.runs.results import read_trials, to_frame
from segtune.runs.rundir import SearchDir, TrialDir, is_training_run, search_runs_in
from segtune.tuning.study_reader import load_study

# What is shown of a log of mmengine, if it has them.
KEYS_OF_LOGS = ("loss", "miou", "macc", "aacc")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune status",
        description="Show the trials of a search run, also while it is running. A folder of search "
        "runs is listed, and the folder of a training run or a trial is shown in a few lines; so "
        "is a work_dir of mmengine.",
    )
    add_run_argument(parser)
    parser.add_argument(
        "--csv",
        type=path_argument,
        metavar="FILE",
        help="also write the trials to a CSV file, with one column for each searched setting",
    )
    arguments = parser.parse_args(argv)
    return run_command(lambda: _status(arguments))


def _status(arguments: argparse.Namespace) -> int:
    path = Path(arguments.run)
    if not SearchDir(path).study.is_file() and not arguments.csv:
        console = wide_console()
        if search_runs_in(path):
            print_runs(path, console)
            return DONE
        if is_training_run(path):
            print_training(TrialDir(path), console)
            return DONE
        if find_logs(path):
            logged = read_runs([path])
            keys = [key for key in KEYS_OF_LOGS if key in logged[0].series]
            print_numbers(logged, keys, console)
            return DONE
    run = SearchDir.open(path)
    study, console = load_study(run.study), wide_console()
    print_outcome(study, run, console)
    print_forecast(study, run, console)
    if arguments.csv:
        write_atomic(Path(arguments.csv), to_frame(read_trials(run)).to_csv(index=False))
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
