"""`segtune search`: searches a space of configs on a local Ray or on a cluster, and exports the best."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.cli import DONE, INTERRUPTED, NO_HEALTHY_TRIAL, add_set_argument, run_command
from segtune.errors import RunError
from segtune.reporting.html import write_report
from segtune.reporting.terminal import print_outcome
from segtune.runs.rundir import SearchDir, check_name
from segtune.tuning import warm_start
from segtune.tuning.study import Study, load_study

if TYPE_CHECKING:
    pass
from segtune.api import prepare, run_study
from segtune.reporting.plan import search_plan


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune search", description="Search a space of configs."
    )
    parser.add_argument(
        "--space",
        required=True,
        metavar="FILE",
        help="a study (config, space, search), or a bare space around --config",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="base config; default: the study's, or configs/shapes_segformer_b0.yaml",
    )
    parser.add_argument("--name", help="name of the run; default: the file's name and a number")
    parser.add_argument(
        "--out",
        default="runs",
        help="folder of all runs (default: runs); on a cluster, storage that all nodes see",
    )
    parser.add_argument("--trials", type=int, help="trials in all")
    parser.add_argument(
        "--workers-per-trial",
        type=int,
        metavar="N",
        help="ranks of one trial; two or more train with DDP",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="F",
        help="GPUs of a worker; default: 1 where there are GPUs",
    )
    parser.add_argument(
        "--max-concurrent",
        type=int,
        metavar="N",
        help="trials at the same time; default: as many as fit",
    )
    parser.add_argument(
        "--address", help="Ray cluster: auto or host:port; default: a local Ray of its own"
    )
    parser.add_argument("--seed", type=int, help="decides which points are drawn")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run --name, or with the newest run of this file",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="--resume with a space that is wider than before, or with more trials",
    )
    parser.add_argument(
        "--warm-start", nargs="+", default=[], metavar="RUN",
        help="earlier runs: of the same config their trials count as known, of another their best points are tried first",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan, start nothing"
    )
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _search(arguments))


def _search(arguments: argparse.Namespace) -> int:
    names = ("trials", "workers_per_trial", "gpus_per_worker", "max_concurrent", "seed")
    changes = {
        name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None
    }
    study = load_study(arguments.space, arguments.config, arguments.set, changes)
    if arguments.dry_run:
        print(search_plan(study))
        return DONE
    arguments.resume |= arguments.extend
    out, stem = Path(arguments.out), Path(arguments.space).stem
    name = arguments.name or (newest_name(out, stem) if arguments.resume else next_name(out, stem))
    return _run(study, out, name, arguments)


def _run(study: Study, out: Path, name: str, arguments: argparse.Namespace) -> int:
    from segtune.reporting.terminal import live_table, wide_console

    console = wide_console()
    run = SearchDir(out / check_name(name))

    def say(*lines: str) -> None:
        console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)

    def started(placement: Any, dashboard: str) -> None:
        say(f"{study.num_trials} trials, {placement.describe()}", f"Ray dashboard {dashboard}")

    @contextmanager
    def around(part_run: SearchDir, part: Study) -> Iterator[None]:
        what = "run" if part_run.path == run.path else "trials at full length in"
        say(
            f"{what} {part_run.path}   tensorboard --logdir {part_run.trials}   segtune status {part_run.path}"
        )
        with live_table(part_run, part, console):
            yield

    known = (
        warm_start.collect(study, arguments.warm_start)
        if arguments.warm_start and not arguments.resume
        else None
    )
    if known:
        say(known.summary)
    prepare(run, study, arguments.resume, extend=arguments.extend, known=known)
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):
        result = run_study(
            study,
            out,
            name,
            resume=True,
            address=arguments.address,
            around=around,
            on_placement=started,
        )
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
    return shlex.join(
        ["python", "-m", "segtune.search", *words, *([] if named else ["--name", name]), "--resume"]
    )


def next_name(out: Path, stem: str) -> str:
    """Returns the first free name stem-1, stem-2, …"""
    number = 1
    while (out / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def newest_name(out: Path, stem: str) -> str:
    """Returns the name of the run of this file that was begun last. Raises RunError where there is none."""
    runs = [
        path
        for path in out.glob(f"{stem}-*")
        if (path / "study.yaml").exists() and path.name.rpartition("-")[2].isdigit()
    ]
    if not runs:
        raise RunError(f"--resume: no run {stem}-… in {out}; give its --name")
    return max(runs, key=lambda path: int(path.name.rpartition("-")[2])).name


if __name__ == "__main__":
    raise SystemExit(main())
