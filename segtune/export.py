"""`segtune export RUN`: the config of the best trial, ready to train, also at another length."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import add_set_argument, run_command
from segtune.config.yaml_io import parse_assignments, write_yaml
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import load_study


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune export", description="Write the best config of a run."
    )
    parser.add_argument("run", help="folder of the run, for example runs/loss_weights-1")
    parser.add_argument("--out", default="best.yaml", help="file to write (default: best.yaml)")
    parser.add_argument("--trial", type=int, help="another trial than the best")
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> int:
    run = SearchDir.open(arguments.run)
    study = load_study(run.study)
    # Behind a proxy stand the trials of full length; a trial of the proxy is exported at full length too.
    trials = (
        read_trials(run.full)
        if arguments.trial is None and run.full.best.exists()
        else read_trials(run)
    )
    chosen = (
        best_trial(trials)
        if arguments.trial is None
        else next((t for t in trials if t.number == arguments.trial), None)
    )
    if chosen is None:
        have = ", ".join(t.id for t in trials) or "none"
        raise RunError(
            f"{run.path}: "
            + ("no healthy trial" if arguments.trial is None else f"no trial {arguments.trial}")
            + f"; trials: {have}"
        )
    config = study.config.override(chosen.params)
    if arguments.set:
        config = config.override(*parse_assignments(arguments.set))
    score = (
        f"mIoU {100 * chosen.miou:.2f} at epoch {chosen.best_epoch}"
        if chosen.miou is not None
        else "without a score"
    )
    write_atomic(
        Path(arguments.out),
        f"# trial {chosen.id} of {run.path.name}: {score}\n{write_yaml(config.dump())}",
    )
    print(
        f"{arguments.out}: trial {chosen.id}, {score}\ntrain it: python -m segtune.train --config {arguments.out} --out DIR"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
