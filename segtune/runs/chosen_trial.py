"""The trial of a search run that a user means: the best, or one by number. Writes nothing."""

from __future__ import annotations

from pathlib import Path

from segtune.errors import RunError
from segtune.runs.results import TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir, is_training_run, search_of


def open_chosen(path: Path, number: int | None, verb: str) -> tuple[SearchDir, int | None]:
    """Return the search run and the number of the chosen trial; None: the best.

    The folder of a trial stands for this trial. `verb` says what to do with another folder. Raise
    RunError if there is no search run.
    """
    if SearchDir(path).study.is_file() or not is_training_run(path):
        run = SearchDir.open(path)
        if run.confirms:
            raise RunError(f"{path}: repeats trials of {run.confirms.path}; {verb} that folder")
        return run, number
    run = search_of(path)
    if run is None:
        raise RunError(f"{path}: a single training run; its config is {TrialDir(path).config}")
    if number is not None or not path.absolute().name.isdigit():
        raise RunError(f"{path}: belongs to the search run {run.path}; {verb} that folder")
    return run, int(path.absolute().name)


def part_of_best(run: SearchDir) -> SearchDir:
    """Return where the best trial is: after a search on a proxy, among those at full length.

    If none of those may win, the search run has no best.yaml any more, and there is no best trial.
    """
    has_ended = run.full.trials.exists() and not run.best.exists()
    return run.full if run.full.best.exists() or has_ended else run


def choose_trial(run: SearchDir, number: int | None, verb: str) -> TrialResult:
    """Return trial `number`, or the best. Raise RunError if there is no such trial.

    `verb` says in the message what --trial does, such as "exports".
    """
    trials = read_trials(run)
    if number is None:
        part = part_of_best(run)
        candidates = read_trials(part)
        chosen = best_trial(candidates)
        states = ", ".join(f"{trial.id} {_state(trial)}" for trial in candidates) or "none"
        place = "" if part.path == run.path else " at full length"
        is_guarded = any(trial.broken_guards or not trial.is_judged for trial in candidates)
        guards = " that keeps the guards" if is_guarded else ""
        problem = f"no healthy trial with a validation{place}{guards} ({states}); "
        problem += f"--trial N {verb} another"
    else:
        chosen = next((trial for trial in trials if trial.number == number), None)
        problem = f"no trial {number}; trials: {', '.join(trial.id for trial in trials) or 'none'}"
    if chosen is None:
        raise RunError(f"{run.path}: {problem}")
    return chosen


def _state(trial: TrialResult) -> str:
    return f"{trial.state}, breaks a guard" if trial.broken_guards else trial.state
