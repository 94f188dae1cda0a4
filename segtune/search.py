"""`segtune search`: search a space of configs on a local Ray or on a cluster."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segtune.api import check_study_data, run_study, with_initial_weights
from segtune.checks.search_limits import SearchEnd
from segtune.cli import (
    DONE,
    INTERRUPTED,
    UNHEALTHY,
    CommandParser,
    add_set_argument,
    is_quiet,
    path_argument,
    run_command,
)
from segtune.errors import RunError
from segtune.reporting.html import written_report
from segtune.reporting.plan import plan_forecast, search_plan
from segtune.reporting.terminal import (
    SearchPrinter,
    labelled,
    print_forecast,
    print_lines,
    print_outcome,
    wide_console,
)
from segtune.runs.rundir import SearchDir, check_name
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

log = logging.getLogger("segtune.search")  # under `python -m` __name__ is __main__

# A number follows the name of the space: together they have at most 64 characters.
LONGEST_STEM = 59
# Options that are settings of the study's search block, and the names of these.
SEARCH_SETTINGS = {
    "init_from": "init_from",
    "trials": "trials",
    "budget_hours": "budget.hours",
    "budget_epochs": "budget.epochs",
    "workers_per_trial": "workers_per_trial",
    "gpus_per_worker": "gpus_per_worker",
    "max_concurrent": "max_concurrent",
    "wait_for_nodes": "wait_for_nodes_s",
    "seed": "seed",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _search(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune search", description="Search a space of configs with Ray and Optuna."
    )
    _add_study_arguments(parser)
    _add_resource_arguments(parser)
    _add_run_arguments(parser)
    add_set_argument(parser)
    return parser


def _add_study_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is searched")
    group.add_argument(
        "--space",
        required=True,
        type=path_argument,
        metavar="FILE",
        help="study file (config, space and search), or a file with only a space",
    )
    group.add_argument(
        "--config",
        type=path_argument,
        metavar="FILE",
        help="config to search around; default: the study's, or configs/shapes_segformer_b0.yaml",
    )
    group.add_argument(
        "--init-from",
        type=path_argument,
        metavar="CKPT",
        help="fine-tune in each trial: a checkpoint, or the folder of a training run or search run",
    )
    group.add_argument("--trials", type=int, metavar="N", help="number of trials in total")
    group.add_argument(
        "--budget-hours",
        type=float,
        metavar="H",
        help="end the search when it has run for so many hours, all sessions together",
    )
    group.add_argument(
        "--budget-epochs",
        type=int,
        metavar="N",
        help="end the search when its trials have trained so many epochs, all together",
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of the draws")


def _add_resource_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--workers-per-trial",
        type=int,
        metavar="N",
        help="ranks of one trial; two or more train with DDP",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="F",
        help="GPUs of one worker; default: 1 if the cluster has GPUs",
    )
    group.add_argument(
        "--max-concurrent",
        type=int,
        metavar="N",
        help="trials at the same time; default: as many as fit",
    )
    group.add_argument(
        "--address", help="Ray cluster to join: auto or host:port; default: start a local Ray"
    )
    group.add_argument(
        "--wait-for-nodes",
        type=float,
        metavar="S",
        help="on a cluster that starts nodes by itself: request nodes for the trials, and wait up "
        "to S seconds for the first one; needs --gpus-per-worker (0 for none)",
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the search run")
    group.add_argument(
        "--name", help="name of the search run; default: the name of --space and a number"
    )
    group.add_argument(
        "--out",
        default="runs",
        type=path_argument,
        metavar="DIR",
        help="folder of all search runs (default: runs); on a cluster, on shared storage",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue the search run --name, or the newest search run of --space",
    )
    group.add_argument(
        "--extend",
        action="store_true",
        help="continue it with another space (wider or narrower ranges, more settings), or with "
        "more trials",
    )
    group.add_argument(
        "--warm-start",
        nargs="+",
        default=[],
        type=path_argument,
        metavar="RUN",
        help="earlier search runs to learn from: trials of the same config count as known, and "
        "of other configs the best points are tried first",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, time a few real steps, print the plan and a forecast, then exit",
    )
    group.add_argument(
        "--no-check",
        action="store_true",
        help="start a search run without looking for mistakes in the study (segtune check), "
        "without corner steps, and without looking whether its disk is large enough; --dry-run "
        "then prints no forecast",
    )


def _search(arguments: argparse.Namespace) -> int:
    if arguments.name is not None:
        check_name(arguments.name)
    study = load_study(arguments.space, arguments.config, arguments.set, _search_changes(arguments))
    resume = arguments.resume or arguments.extend
    if not (resume or arguments.no_check):
        _refuse_mistakes(study)
    if arguments.dry_run:
        _print_plan(arguments, study)
        return DONE
    out = Path(arguments.out)
    if resume and arguments.warm_start:
        log.warning(
            "--warm-start has no effect with --resume or --extend: the search run keeps what it "
            "began with; to use other search runs, start a new one"
        )
    name = arguments.name or _default_name(out, arguments.space, resume=resume)
    console = wide_console()
    result = run_study(
        study,
        out,
        name,
        resume=resume,
        extend=arguments.extend,
        warm_start=arguments.warm_start,
        address=arguments.address,
        events=None if is_quiet(arguments) else SearchPrinter(console),
    )
    run = SearchDir(result.run)
    print_outcome(study, run, console)
    if result.interrupted:
        print_lines(console, f"interrupted; resume it with: {resume_command(arguments, name)}")
        print_lines(console, labelled("report", written_report(study, run)))
        print_forecast(study, run, console)
        return INTERRUPTED
    print_lines(console, *_report_lines(study, run))
    print_forecast(study, run, console)
    if result.end:
        print_lines(console, _how_to_go_on(arguments, name, result.end))
    return DONE if result.best else UNHEALTHY


def _how_to_go_on(arguments: argparse.Namespace, name: str, end: SearchEnd) -> str:
    """Return how a search goes on that a limit has ended, with the command."""
    changes = {option[2:].replace("-", "_"): value for option, value in end.options.items()}
    larger = argparse.Namespace(**{**vars(arguments), **changes})
    words = "to go on with a larger budget" if changes else end.way_out
    return f"{words}: {resume_command(larger, name)}"


def _print_plan(arguments: argparse.Namespace, study: Study) -> None:
    """Print what the search would do and, without --no-check, what it would take."""
    study = with_initial_weights(study)
    check_study_data(study)
    print(search_plan(study))
    if not arguments.no_check:
        print("\n".join(plan_forecast(study, Path(arguments.out))))


def _search_changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the search block that the command line changes."""
    values = {name: getattr(arguments, option) for option, name in SEARCH_SETTINGS.items()}
    changes = {name: value for name, value in values.items() if value is not None}
    return changes | ({"corner_steps": 0} if arguments.no_check else {})


def _refuse_mistakes(study: Study) -> None:
    """Raise ConfigError if the rules find an error in the study of a new search run.

    A search run that has begun is not checked again. It was checked at its start, unless the user
    chose --no-check.
    """
    from segtune.checks.before_search import refuse_mistakes  # imports numpy and OpenCV

    refuse_mistakes(study)


def _report_lines(study: Study, run: SearchDir) -> list[str]:
    """Write the report, and return what mattered in the search, and the report's path."""
    path = written_report(study, run)
    mattered = run.read_what_mattered() if run.what_mattered.is_file() else None
    sentences = mattered["sentences"] if mattered else []
    return [labelled("mattered", sentence) for sentence in sentences] + [labelled("report", path)]


def resume_command(arguments: argparse.Namespace, name: str) -> str:
    """Return the command that resumes the search run `name`.

    `arguments` are those that it was started or last resumed with. What the folder of the search
    run already holds is left out: a warm start, and that its space was extended.
    """
    kept = ("space", "config", "out", *SEARCH_SETTINGS, "address")
    options = [(option, getattr(arguments, option)) for option in kept]
    options += [("set", assignment) for assignment in arguments.set] + [("name", name)]
    words = ["python", "-m", "segtune.search"]
    for option, value in options:
        if value is not None:
            words += _option(f"--{option.replace('_', '-')}", str(value))
    return shlex.join([*words, "--resume"])


def _option(flag: str, value: str) -> list[str]:
    # argparse takes a separate word that starts with a dash for another option.
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _default_name(out: Path, space: str, *, resume: bool) -> str:
    """Return the name of a search run that --name does not give."""
    stem = name_stem(space)
    return newest_name(out, stem) if resume else next_name(out, stem)


def name_stem(space: str) -> str:
    """Return the name of a space file as the beginning of the name of a search run.

    Characters that such a name cannot have become `_`.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(space).stem)
    return re.sub(r"^[^A-Za-z0-9]+", "", stem)[:LONGEST_STEM] or "study"


def next_name(out: Path, stem: str) -> str:
    """Return the first of the names stem-1, stem-2, … that is free."""
    number = 1
    while (out / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def newest_name(out: Path, stem: str) -> str:
    """Return the name stem-N with the largest N. Raise RunError if there is none."""
    names = [study.parent.name for study in out.glob(f"{stem}-*/study.yaml")]
    numbered = [name for name in names if name.removeprefix(f"{stem}-").isdigit()]
    if not numbered:
        raise RunError(f"--resume: no search run {stem}-… in {out}; give its --name")
    return max(numbered, key=lambda name: int(name.removeprefix(f"{stem}-")))


if __name__ == "__main__":
    raise SystemExit(main())
