"""`segtune export RUN`: write the config of the best trial, ready for `segtune train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, add_run_argument, add_set_argument, path_argument, run_command
from segtune.config.yaml_io import parse_assignments, write_yaml
from segtune.errors import RunError
from segtune.reporting.format import format_miou
from segtune.runs.atomic import write_atomic
from segtune.runs.results import TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import load_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune export",
        description="Write the config of the best trial of a search run, at full length.",
    )
    add_run_argument(parser)
    parser.add_argument(
        "--out",
        default="best.yaml",
        type=path_argument,
        metavar="FILE",
        help="file to write (default: best.yaml)",
    )
    parser.add_argument(
        "--trial", type=int, metavar="N", help="export this trial instead of the best"
    )
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> int:
    run = SearchDir.open(arguments.run)
    trial = _choose_trial(run, arguments.trial)
    config = load_study(run.study).config.override(trial.params)
    if arguments.set:
        config = config.override(*parse_assignments(arguments.set))
    score = "no mIoU"
    if trial.miou is not None:
        score = f"mIoU {format_miou(trial.miou)} at epoch {trial.best_epoch}"
    head = f"# trial {trial.id} of {run.path.name}: {score}\n"
    write_atomic(Path(arguments.out), head + write_yaml(config.dump()))
    print(f"{arguments.out}: trial {trial.id}, {score}")
    print(f"train it: python -m segtune.train --config {arguments.out} --out DIR")
    return DONE


def _choose_trial(run: SearchDir, number: int | None) -> TrialResult:
    """Return trial `number`, or the best. Raise RunError if there is no such trial."""
    trials = read_trials(run)
    if number is None:
        # After a search on a proxy, the best of the trials at full length.
        chosen = best_trial(read_trials(run.full) if run.full.best.exists() else trials)
        problem = "no healthy trial"
    else:
        chosen = next((trial for trial in trials if trial.number == number), None)
        problem = f"no trial {number}"
    if chosen is None:
        names = ", ".join(trial.id for trial in trials) or "none"
        raise RunError(f"{run.path}: {problem}; trials: {names}")
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
