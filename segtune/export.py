"""`segtune export RUN`: write the config of the best trial, ready for `segtune train`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import (
    DONE,
    CommandParser,
    add_run_argument,
    add_set_argument,
    path_argument,
    run_command,
)
from segtune.config.yaml_io import parse_assignments, write_yaml
from segtune.errors import RunError
from segtune.reporting.format import broken_words, confirmation_line, format_miou
from segtune.runs.atomic import write_atomic
from segtune.runs.chosen_trial import choose_trial, open_chosen, part_of_best
from segtune.runs.results import BAD_ENDS, TrialResult
from segtune.tuning.study_reader import load_study

log = logging.getLogger("segtune.export")  # under `python -m` __name__ is __main__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _export(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
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
    return parser


def _export(arguments: argparse.Namespace) -> int:
    if Path(arguments.out).is_dir():
        example = Path(arguments.out) / "best.yaml"
        raise RunError(f"--out: {arguments.out} is a folder; expected a file, as in {example}")
    run, number = open_chosen(Path(arguments.run), arguments.trial, "export")
    trial = choose_trial(run, number, "exports")
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
        print(f"confirmed: {confirmation_line(part_of_best(run), trial)}")
    print(f"train it: python -m segtune.train --config {arguments.out} --out DIR")
    return DONE


def _health(trial: TrialResult) -> str:
    """Return why a trial should not be trained again without a change."""
    if trial.state in BAD_ENDS:
        reason = f": {trial.reason}" if trial.reason else ""
        return f"trial {trial.id} is {trial.state}{reason}; its config may end the same way again"
    if trial.broken_guards:
        return f"trial {trial.id} {broken_words(trial)}"
    if trial.healthy and not trial.is_judged:
        return f"trial {trial.id} is {trial.state}: guards on classes judge only completed trials"
    return f"trial {trial.id} is {trial.state} and has no validation yet"


if __name__ == "__main__":
    raise SystemExit(main())
