"""`segtune export RUN`: write the config of the best trial, ready for `segtune train`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, add_run_argument, add_set_argument, path_argument, run_command
from segtune.config.yaml_io import parse_assignments, write_yaml
from segtune.errors import RunError
from segtune.reporting.format import broken_words, confirmation_line, format_miou
from segtune.runs.atomic import write_atomic
from segtune.runs.results import BAD_ENDS, TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir, is_training_run, search_of
from segtune.tuning.study_reader import load_study

log = logging.getLogger("segtune.export")  # under `python -m` __name__ is __main__


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
    if Path(arguments.out).is_dir():
        example = Path(arguments.out) / "best.yaml"
        raise RunError(f"--out: {arguments.out} is a folder; expected a file, as in {example}")
    run, number = _open(Path(arguments.run), arguments.trial)
    trial = _choose_trial(run, number)
    if not trial.may_win:
        log.warning("%s", _health(trial))
    config = load_study(run.study).config.override(trial.params)
    if arguments.set:
        config = config.override(*parse_assignments(arguments.set))
    score = "no mIoU"
    if trial.miou is not None:
        score = f"mIoU {format_miou(trial.miou)} at epoch {trial.best_epoch}"
    head = f"# trial {trial.id} of {run.path.name}: {score}\n"
    write_atomic(Path(arguments.out), head + write_yaml(config.dump()))
    print(f"{arguments.out}: trial {trial.id}, {score}")
    if number is None:  # the best trial
        print(f"confirmed: {confirmation_line(_part_of_best(run), trial)}")
    print(f"train it: python -m segtune.train --config {arguments.out} --out DIR")
    return DONE


def _open(path: Path, number: int | None) -> tuple[SearchDir, int | None]:
    """Return the search run and the number of the trial to export; None: the best.

    The folder of a trial stands for this trial. Raise RunError if there is no search run.
    """
    if SearchDir(path).study.is_file() or not is_training_run(path):
        run = SearchDir.open(path)
        if run.confirms:
            raise RunError(f"{path}: repeats trials of {run.confirms.path}; export that folder")
        return run, number
    run = search_of(path)
    if run is None:
        raise RunError(f"{path}: a single training run; its config is {TrialDir(path).config}")
    if number is not None or not path.absolute().name.isdigit():
        raise RunError(f"{path}: belongs to the search run {run.path}; export that folder")
    return run, int(path.absolute().name)


def _health(trial: TrialResult) -> str:
    """Return why a trial should not be trained again without a change."""
    if trial.state in BAD_ENDS:
        reason = f": {trial.reason}" if trial.reason else ""
        return f"trial {trial.id} is {trial.state}{reason}; its config may end the same way again"
    if trial.broken_guards:
        return f"trial {trial.id} {broken_words(trial)}"
    return f"trial {trial.id} is {trial.state} and has no validation yet"


def _part_of_best(run: SearchDir) -> SearchDir:
    """Return where the best trial is: after a search on a proxy, among those at full length."""
    return run.full if run.full.best.exists() else run


def _choose_trial(run: SearchDir, number: int | None) -> TrialResult:
    """Return trial `number`, or the best. Raise RunError if there is no such trial."""
    trials = read_trials(run)
    if number is None:
        chosen = best_trial(read_trials(_part_of_best(run)))
        states = ", ".join(f"{trial.id} {_state(trial)}" for trial in trials) or "none"
        kind = "healthy trial with a validation"
        kind += " that keeps the guards" if any(trial.broken_guards for trial in trials) else ""
        problem = f"no {kind} ({states}); --trial N exports another"
    else:
        chosen = next((trial for trial in trials if trial.number == number), None)
        problem = f"no trial {number}; trials: {', '.join(trial.id for trial in trials) or 'none'}"
    if chosen is None:
        raise RunError(f"{run.path}: {problem}")
    return chosen


def _state(trial: TrialResult) -> str:
    return f"{trial.state}, breaks a guard" if trial.broken_guards else trial.state


if __name__ == "__main__":
    raise SystemExit(main())
