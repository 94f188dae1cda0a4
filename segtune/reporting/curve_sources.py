"""Which training runs a path of the user stands for. Reads runs of segtune and logs of mmengine."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segtune.errors import RunError, first_of, nearest
from segtune.reporting.curves import RunCurves, read_training_run
from segtune.reporting.log_curves import read_logs
from segtune.reporting.mmengine_logs import find_logs, work_dir_of
from segtune.runs.chosen_trial import part_of_best
from segtune.runs.results import best_trial, ranked, read_trials
from segtune.runs.rundir import SearchDir, TrialDir, is_training_run, search_of

log = logging.getLogger(__name__)

EXPECTED = (
    "expected the folder of a training run, a trial or a search run of segtune, a work_dir of "
    "mmengine, or a log of it (vis_data/scalars.json, or *.log.json of mmsegmentation 0.x)"
)
BEST = "best"
ALL = "all"
# Files of a training run that a user may name instead of its folder.
FILES_OF_RUN = ("epochs.jsonl", "config.yaml", "verdict.json")


def read_runs(paths: Sequence[Path], trials: Sequence[str] = ()) -> list[RunCurves]:
    """Return the curves of all runs that have some, with different names.

    `trials` selects the trials of search runs: "best" (the default), "all" or numbers. Raises
    RunError if a path is no run, or if no run has a curve.
    """
    runs: list[RunCurves] = []
    has_search = False
    for path in paths:
        if path.is_dir() and SearchDir(path).study.is_file():
            has_search = True
            runs += _trials_of(SearchDir(path), trials or [BEST])
        else:
            runs.append(_read_run(path))
    if trials and not has_search:
        raise RunError("--trials: none of the runs is a search run; leave --trials out")
    runs = _without_repeats(runs)
    empty = [run for run in runs if not run.series]
    problems = [f"{run.path}: no finished epoch; {_reason(run)}" for run in empty]
    if len(empty) == len(runs):
        raise RunError("no curve to draw: " + "\n".join(problems))
    for problem in problems:
        log.warning("%s; not drawn", problem)
    return _with_different_names([run for run in runs if run.series])


def _without_repeats(runs: Sequence[RunCurves]) -> list[RunCurves]:
    """Drop runs that were named before, which is logged."""
    by_path: dict[Path, RunCurves] = {}
    for run in runs:
        path = run.path.absolute()
        if path in by_path:
            log.warning("%s: named more than once, drawn once", run.path)
        by_path.setdefault(path, run)
    return list(by_path.values())


def _reason(run: RunCurves) -> str:
    return f"{run.ending or run.state}" + (f" ({run.reason})" if run.reason else "")


def _read_run(path: Path) -> RunCurves:
    folder = path.parent if path.is_file() and path.name in FILES_OF_RUN else path
    trial = TrialDir(folder)
    if is_training_run(folder) or trial.epochs.is_file():
        return read_training_run(trial, _name_of_training(folder))
    if logs := find_logs(path):
        folder = path if path.is_dir() else work_dir_of(path)
        return read_logs(logs, _name_of_log(path), folder if len(logs) > 1 else logs[0])
    if trial.config.is_file():  # a training run that has just begun
        return read_training_run(trial, _name_of_training(folder))
    raise RunError(f"{path}: {_what_is_there(path)}")


def _name_of_training(folder: Path) -> str:
    """Return the name of the folder; for a trial with the name of its search run."""
    folder = folder.absolute()
    if folder.parent.name == "trials" and (run := search_of(folder)) is not None:
        # The trials at full length, after a proxy, are a search run in the folder of another one.
        outer = f"{run.path.parent.name}/" if search_of(run.path) is not None else ""
        return f"{outer}{run.path.name}/{folder.name}"
    return folder.resolve().name


def _name_of_log(path: Path) -> str:
    """Return the name of the work_dir; with that of the start, if the path is of one start."""
    path = path.absolute()
    if path.is_file():
        if path.name.endswith(".log.json"):
            return f"{path.parent.name}/{path.name.removesuffix('.log.json')}"
        path = path.parent
    if path.name == "vis_data":
        path = path.parent
    is_start = path.name.replace("_", "").isdigit()  # as 20230521_130545
    return f"{path.parent.name}/{path.name}" if is_start else path.name


def _trials_of(run: SearchDir, wanted: Sequence[str]) -> list[RunCurves]:
    """Return the trials of a search run, from best to worst; after a proxy at full length."""
    run = part_of_best(run)
    results = ranked(read_trials(run))
    numbers = {trial.number for trial in results}
    if not results:
        raise RunError(f"{run.path}: no trial has been started yet")
    chosen: list[int] = []
    for word in wanted:
        if word == ALL:
            chosen += [trial.number for trial in results]
        elif word == BEST:
            best = best_trial(results)
            if best is None:
                states = first_of([f"{trial.id} {trial.state}" for trial in results], 5)
                raise RunError(
                    f"{run.path}: no healthy trial with a validation ({states}); "
                    "draw all with --trials all"
                )
            chosen.append(best.number)
        elif word.isdecimal() and int(word) in numbers:
            chosen.append(int(word))
        else:
            ids = sorted(trial.id for trial in results)
            raise RunError(
                f"--trials: {run.path} has no trial {word!r}{nearest(word, [BEST, ALL, *ids])}; "
                f"allowed are best, all, {first_of(ids, 8)}"
            )
    names = {number: run.trial(number) for number in dict.fromkeys(chosen)}
    return [read_training_run(trial, _name_of_training(trial.path)) for trial in names.values()]


def _with_different_names(runs: Sequence[RunCurves]) -> list[RunCurves]:
    """Add the names of parent folders to runs of the same name."""
    names = [run.name for run in runs]
    named: list[RunCurves] = []
    for run in runs:
        if names.count(run.name) == 1:
            named.append(run)
            continue
        same = [other.path.absolute() for other in runs if other.name == run.name]
        named.append(replace(run, name=_different_tail(run.path.absolute(), same)))
    return named


def _different_tail(path: Path, others: Sequence[Path]) -> str:
    """Return the last parts of a path, as many as tell it from the others."""
    for length in range(2, len(path.parts) + 1):
        tail = path.parts[-length:]
        if sum(other.parts[-length:] == tail for other in others) == 1:
            return "/".join(tail)
    return str(path)


def _what_is_there(path: Path) -> str:
    """Describe a path that is no run."""
    if path.suffix == ".log":
        return "a log in words; use the scalars.json in vis_data beside it, or its .log.json"
    if path.is_file():
        return f"no run; {EXPECTED}"
    if not path.exists():
        siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        return f"no such file or folder{nearest(path.name, siblings)}; {EXPECTED}"
    inside = [sub.name for sub in sorted(path.iterdir()) if sub.is_dir() and _is_run(sub)]
    if inside:
        example = shlex.quote(str(path / inside[0]))
        is_all = len(inside) == sum(not sub.name.startswith(".") for sub in path.iterdir())
        every = f", or all: {shlex.quote(str(path))}/*" if is_all else ""
        return (
            f"the folder holds {len(inside)} runs: {first_of(inside, 5)}; name those that you "
            f"want, for example {example}{every}"
        )
    for parent in path.absolute().parents[:4]:
        if is_training_run(parent):
            return f"it belongs to the run {parent}; use that folder"
    return f"no run; {EXPECTED}"


def _is_run(folder: Path) -> bool:
    is_search = SearchDir(folder).study.is_file()
    return is_search or is_training_run(folder) or bool(find_logs(folder))
