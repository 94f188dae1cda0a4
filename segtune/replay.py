"""`segtune replay TRIAL`: repeat the step at which a training run died, and try remedies."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from segtune.api_replay import find_trial, replay_trial
from segtune.cli import DONE, CommandParser, add_set_argument, path_argument, run_command
from segtune.reporting.replay import print_replay
from segtune.reporting.terminal import wide_console
from segtune.runs.atomic import write_atomic

log = logging.getLogger("segtune.replay")  # under `python -m` __name__ is __main__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _replay(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune replay",
        description="Repeat the step at which a training run ended as non-finite or diverged, in "
        "one process and without Ray. Name the first layer and operation whose result is not "
        "finite, and try the advised remedies from the same weights. Changes no file of the run.",
    )
    parser.add_argument(
        "trial",
        type=path_argument,
        metavar="TRIAL",
        help="folder of a trial or a training run, or of a search run with --trial",
    )
    parser.add_argument(
        "--trial", dest="number", metavar="ID", help="the trial of a search run, for example 0003"
    )
    add_set_argument(parser)
    parser.add_argument(
        "--json",
        type=path_argument,
        metavar="FILE",
        help="also write all numbers to this file, with those of every layer",
    )
    return parser


def _replay(arguments: argparse.Namespace) -> int:
    trial = find_trial(arguments.trial, arguments.number)
    record = replay_trial(
        trial, changes=arguments.set, progress=lambda text: log.info("replaying: %s", text)
    )
    print_replay(record, wide_console())
    if arguments.json:
        write_atomic(Path(arguments.json), json.dumps(record.to_json(), indent=1) + "\n")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
