"""`segtune search`: searches a space of configs on a local Ray or on a cluster, and exports the best."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune import warm_start
from segtune.carry import carried_study, print_outcome
from segtune.cli import DONE, INTERRUPTED, NO_HEALTHY_TRIAL, add_set_argument, run_command
from segtune.config import ExperimentConfig, load_config
from segtune.errors import ConfigError, RunError
from segtune.report import write_report
from segtune.results import best, read_trials, to_frame
from segtune.rundir import RunDir, check_name, write_atomic
from segtune.settings import differences, write_yaml
from segtune.study import Study, load_study
from segtune.warm_start import WarmStart

if TYPE_CHECKING:
    import pandas

# Settings of the search block that may change at a resume: they place trials or add some, and change no draw.
FREE_ON_RESUME = ("trials", "max_concurrent", "cpus_per_worker", "retries")


@dataclass(frozen=True)
class Winner:
    """The best trial of a study."""

    config: ExperimentConfig
    miou: float  # in 0..1


@dataclass(frozen=True)
class StudyResult:
    """What a search has found. `best` is None where no trial was healthy."""

    best: Winner | None
    trials: pandas.DataFrame
    run: Path


def run_study(
    study: Study,
    out: str | Path = "runs",
    name: str = "study",
    *,
    resume: bool = False,
    address: str | None = None,
    around: Callable[[RunDir, Study], AbstractContextManager[None]] = lambda run, study: nullcontext(),
    **options: Any,
) -> StudyResult:
    """Runs a study in the folder out/name and returns its trials as a table and the best of them.

    `around` is entered for the search, and once more where a proxy's trials are carried to full length. Raises RunError
    where the folder holds another run, KeyboardInterrupt after a graceful stop (see `segtune stop`).
    """
    run = RunDir(Path(out) / check_name(name))
    prepare(run, study, resume)
    from segtune.cluster.search import run_search

    last = run
    for part, last in phases(study, run):
        with around(last, part):
            run_search(part, last, address=address, **options)
    trials, winner = read_trials(run), best(read_trials(last))
    if last is not run and last.best.exists():
        write_atomic(run.best, last.best.read_bytes())
    found = Winner(load_config(run.best), winner.miou) if winner and winner.miou is not None else None
    return StudyResult(found, to_frame(trials), run.path)


def phases(study: Study, run: RunDir) -> Iterator[tuple[Study, RunDir]]:
    """Yields what is searched and where: the study itself and, once that is done, the trials that a proxy carries to full length."""
    yield study, run
    if study.search.proxy and best(read_trials(run)):
        full, full_run = carried_study(study, run), run.full
        prepare(full_run, full, resume=full_run.study.exists(), extend=True)
        yield full, full_run


def prepare(run: RunDir, study: Study, resume: bool, *, extend: bool = False, known: WarmStart | None = None) -> None:
    """Writes the study into a new run folder, or checks at a resume that it is the one that was begun. Raises RunError.

    With `extend` the space may have been widened since; `known` is what earlier runs tell a new one.
    """
    if resume and extend:
        _check_extension(run, study)
    elif resume:
        begun = load_study(RunDir.open(run.path).study)
        changed = differences(study.config, begun.config)
        changed += [line for line in differences(study.search, begun.search) if line.split(":")[0] not in FREE_ON_RESUME]
        changed += [f"space {n}: {a} here, {b} there" for n, a, b in _different_dimensions(study, begun)]
        if changed:
            listed = "\n  ".join(changed)
            raise RunError(
                f"{run.path}: --resume goes on with the study that was begun, but these differ:\n  {listed}\nundo them, widen the space with --extend, or choose another --name"
            )
    elif run.study.exists() or run.trials.exists():
        raise RunError(f"{run.path}: holds a run already; go on with --resume, or choose another --name")
    run.trials.mkdir(parents=True, exist_ok=True)
    if known:
        warm_start.write(run, known)
    write_atomic(run.study, write_yaml(study.dump()))


def _check_extension(run: RunDir, study: Study) -> None:
    """Raises RunError where the config differs, or a trial of the run lies outside of the new space."""
    begun = load_study(RunDir.open(run.path).study)
    problems = [f"config {line}" for line in differences(study.config, begun.config)]
    known = warm_start.read(run)
    drawn = [(f"trial {t.id}", t.params) for t in read_trials(run)] + [("a trial of --warm-start", t.params) for t in known.trials]
    problems += [f"{name}: {problem}" for name, params in drawn for problem in study.space.outside(params)]
    if problems:
        listed = "\n  ".join(problems)
        raise RunError(f"{run.path}: --extend widens a space or adds trials, but here:\n  {listed}")


def _different_dimensions(ours: Study, theirs: Study) -> list[tuple[str, Any, Any]]:
    a, b = ours.space.dump(), theirs.space.dump()
    return [(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="segtune search", description="Search a space of configs.")
    parser.add_argument("--space", required=True, metavar="FILE", help="a study (config, space, search), or a bare space around --config")
    parser.add_argument("--config", metavar="FILE", help="base config; default: the study's, or configs/shapes_segformer_b0.yaml")
    parser.add_argument("--name", help="name of the run; default: the file's name and a number")
    parser.add_argument("--out", default="runs", help="folder of all runs (default: runs); on a cluster, storage that all nodes see")
    parser.add_argument("--trials", type=int, help="trials in all")
    parser.add_argument("--workers-per-trial", type=int, metavar="N", help="ranks of one trial; two or more train with DDP")
    parser.add_argument("--gpus-per-worker", type=float, metavar="F", help="GPUs of a worker; default: 1 where there are GPUs")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="trials at the same time; default: as many as fit")
    parser.add_argument("--address", help="Ray cluster: auto or host:port; default: a local Ray of its own")
    parser.add_argument("--seed", type=int, help="decides which points are drawn")
    parser.add_argument("--resume", action="store_true", help="go on with the run --name, or with the newest run of this file")
    parser.add_argument("--extend", action="store_true", help="--resume with a space that is wider than before, or with more trials")
    parser.add_argument(
        "--warm-start", nargs="+", default=[], metavar="RUN",
        help="earlier runs: of the same config their trials count as known, of another their best points are tried first",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _search(arguments))


def _search(arguments: argparse.Namespace) -> int:
    names = ("trials", "workers_per_trial", "gpus_per_worker", "max_concurrent", "seed")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    study = load_study(arguments.space, arguments.config, arguments.set, changes)
    if arguments.dry_run:
        print(plan(study))
        return DONE
    arguments.resume |= arguments.extend
    out, stem = Path(arguments.out), Path(arguments.space).stem
    name = arguments.name or (newest_name(out, stem) if arguments.resume else next_name(out, stem))
    return _run(study, out, name, arguments)


def _run(study: Study, out: Path, name: str, arguments: argparse.Namespace) -> int:
    from segtune.table import live_table, wide_console

    console = wide_console()
    run = RunDir(out / check_name(name))

    def say(*lines: str) -> None:
        console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)

    def started(placement: Any, dashboard: str) -> None:
        say(f"{study.num_trials} trials, {placement.describe()}", f"Ray dashboard {dashboard}")

    @contextmanager
    def around(part_run: RunDir, part: Study) -> Iterator[None]:
        what = "run" if part_run.path == run.path else "trials at full length in"
        say(f"{what} {part_run.path}   tensorboard --logdir {part_run.trials}   segtune status {part_run.path}")
        with live_table(part_run, part, console):
            yield

    known = warm_start.collect(study, arguments.warm_start) if arguments.warm_start and not arguments.resume else None
    if known:
        say(known.summary)
    prepare(run, study, arguments.resume, extend=arguments.extend, known=known)
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):
        result = run_study(study, out, name, resume=True, address=arguments.address, around=around, started=started)
        code = DONE if result.best else NO_HEALTHY_TRIAL
    print_outcome(study, run, console)
    if code == INTERRUPTED:
        say(f"stopped; go on with: {resume_command(sys.argv[1:], name)}")
    # What the search has found is on disk and told: whatever becomes of the page, the search has ended as it has.
    try:
        say(f"report:     {write_report(study, run)}")
    except (RunError, KeyboardInterrupt) as error:
        say(f"report:     none; {str(error) or 'interrupted'}")
    return code


def resume_command(argv: Sequence[str], name: str) -> str:
    """Returns the command that goes on with run `name`, for one that was started with `argv`."""
    words = [word for word in argv if word not in ("--resume", "--extend", "search")]
    named = any(word == "--name" or word.startswith("--name=") for word in words)
    return shlex.join(["python", "-m", "segtune.search", *words, *([] if named else ["--name", name]), "--resume"])


def next_name(out: Path, stem: str) -> str:
    """Returns the first free name stem-1, stem-2, …"""
    number = 1
    while (out / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def newest_name(out: Path, stem: str) -> str:
    """Returns the name of the run of this file that was begun last. Raises RunError where there is none."""
    runs = [path for path in out.glob(f"{stem}-*") if (path / "study.yaml").exists() and path.name.rpartition("-")[2].isdigit()]
    if not runs:
        raise RunError(f"--resume: no run {stem}-… in {out}; give its --name")
    return max(runs, key=lambda path: int(path.name.rpartition("-")[2])).name


def plan(study: Study) -> str:
    """Returns in words what a search would do: trials, rungs, epochs and steps, resources on this machine, first points.

    Reads the lists of the data set. Raises DataError where it is incomplete, ConfigError where batches cannot be formed.
    """
    import os

    from segtune.data.layouts import class_names, open_split

    config, search = study.trial_config({}), study.search
    train, val = open_split(config.data, "train"), open_split(config.data, "val")
    classes = class_names(config.data)
    steps = len(train) // config.schedule.batch_size
    if not steps:
        raise ConfigError([f"schedule.batch_size: {config.schedule.batch_size} is more than the {len(train)} training images"])
    rungs = ", ".join(map(str, study.rungs())) or "none"
    lines = [
        f"data:      {len(train)} training and {len(val)} validation images, {len(classes)} classes, in {config.data.root}",
        f"model:     {config.model.name} with {config.model.encoder}",
        f"trials:    {study.num_trials}, drawn by {search.sampler} (seed {search.seed}); trial 0 is the config itself",
        f"epochs:    {config.schedule.epochs} of {steps} steps; validation every {config.schedule.val_every}; rungs at {rungs}",
        *(
            [f"proxy:     {search.proxy.carry} trials and the config go on to {study.config.schedule.epochs} epochs"]
            if search.proxy
            else []
        ),
        f"resources: {search.workers_per_trial} worker(s) per trial; this machine has {len(os.sched_getaffinity(0))} cores",
        "space:",
        *(f"  {name}: {body}" for name, body in study.space.dump().items()),
        "first points:",
        *(f"  {number}: {point}" for number, point in enumerate(study.points())),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
