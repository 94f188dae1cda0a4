"""`segtune status RUN`: the trials of a search run, from any shell, without Ray."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import (
    DONE,
    CommandParser,
    add_json_argument,
    add_run_argument,
    is_quiet,
    path_argument,
    prints_json,
    run_command,
    write_json,
)
from segtune.errors import RunError
from segtune.reporting.curve_sources import read_runs
from segtune.reporting.curve_table import print_numbers
from segtune.reporting.mmengine_logs import find_logs
from segtune.reporting.terminal import (
    REFRESH_S,
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
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _status(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
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
    add_json_argument(parser, "the whole state (docs/status.md)")
    parser.add_argument(
        "--watch",
        nargs="?",
        const=REFRESH_S,
        type=_seconds,
        metavar="SECONDS",
        help="redraw the table until the search has ended, at most every SECONDS (default: "
        f"{REFRESH_S:g}); without a terminal, print a line for each trial that ends. Works on any "
        "machine that sees the folder",
    )
    return parser


def _seconds(text: str) -> float:
    """Return a number of seconds above 0; the type of an argument."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text}: expected a number of seconds above 0, such as 5; the RUN comes before --watch"
        )
    return seconds


def _status(arguments: argparse.Namespace) -> int:
    path = Path(arguments.run)
    if not SearchDir(path).study.is_file() and not arguments.csv:
        if arguments.watch:
            SearchDir.open(path)  # raises: only a search run can be watched
        if _show_other(path, arguments):
            return DONE
    run = SearchDir.open(path)
    study, console = load_study(run.study), wide_console()
    if arguments.watch:
        from segtune.reporting.watching import watch

        shows_nothing = is_quiet(arguments) or prints_json(arguments)
        watch(study, run, console, arguments.watch, quiet=shows_nothing)
    if arguments.json:
        from segtune.reporting.status_tree import search_tree

        write_json(arguments, search_tree(study, run))
    if not prints_json(arguments):
        print_outcome(study, run, console)
        print_forecast(study, run, console)
    if arguments.csv:
        write_atomic(Path(arguments.csv), to_frame(read_trials(run)).to_csv(index=False))
    return DONE


def _show_other(path: Path, arguments: argparse.Namespace) -> bool:
    """Show a folder that is no search run; return False if it is nothing that can be shown."""
    from segtune.reporting.status_tree import runs_tree, training_tree

    console = wide_console()
    if search_runs_in(path):
        write_json(arguments, runs_tree(path))
        if not prints_json(arguments):
            print_runs(path, console)
    elif is_training_run(path):
        write_json(arguments, training_tree(TrialDir(path)))
        if not prints_json(arguments):
            print_training(TrialDir(path), console)
    elif find_logs(path):
        if arguments.json:
            raise RunError(f"--json: {path} is a log of mmengine; use segtune plot {path} --json")
        logged = read_runs([path])
        keys = [key for key in KEYS_OF_LOGS if key in logged[0].series]
        print_numbers(logged, keys, console)
    else:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
