"""`segtune confirm RUN`: train the best trials again with fresh seeds, and say what is better."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from segtune.api_confirm import confirm_run
from segtune.cli import (
    DONE,
    INTERRUPTED,
    UNHEALTHY,
    CommandParser,
    add_run_argument,
    is_quiet,
    path_argument,
    run_command,
)
from segtune.reporting.confirmation import ConfirmPrinter, print_confirmation
from segtune.reporting.html import written_report
from segtune.reporting.terminal import labelled, print_lines, wide_console
from segtune.runs.atomic import write_atomic
from segtune.tuning.study_reader import load_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    for name, smallest in (("top", 1), ("seeds", 2), ("max_concurrent", 1)):
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"argument {option}: allowed is whole number >= {smallest}; got {value}")
    return run_command(lambda: _confirm(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune confirm",
        description="Train the best trials of a search run and the config itself again, each with "
        "the same fresh seeds, and test whether the trials are better. The same command continues "
        "an interrupted confirmation, and adds trials or seeds to a complete one.",
    )
    add_run_argument(parser)
    parser.add_argument(
        "--top",
        type=int,
        default=3,
        metavar="K",
        help="how many of the best trials to confirm, besides the config itself (default: 3)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="fresh seeds for each of them, at least 2 (default: 3)",
    )
    parser.add_argument(
        "--max-concurrent",
        type=int,
        metavar="N",
        help="training runs at the same time; default: as in the search",
    )
    parser.add_argument(
        "--address", help="Ray cluster to join: auto or host:port; default: start a local Ray"
    )
    parser.add_argument(
        "--json",
        type=path_argument,
        metavar="FILE",
        help="also write the record RUN/confirmation.json to this file; scores are in 0..1",
    )
    return parser


def _confirm(arguments: argparse.Namespace) -> int:
    console = wide_console()
    result = confirm_run(
        arguments.run,
        top=arguments.top,
        seeds=arguments.seeds,
        address=arguments.address,
        max_concurrent=arguments.max_concurrent,
        events=None if is_quiet(arguments) else ConfirmPrinter(console),
    )
    if result.record is None:
        print_lines(console, f"interrupted; continue it with: {resume_command(arguments)}")
        return INTERRUPTED
    print_confirmation(result.record, result.run, console)
    # The report of the search has a line about its confirmation.
    report = written_report(load_study(result.run.study), result.run)
    print_lines(console, labelled("report", report))
    if arguments.json:
        write_atomic(Path(arguments.json), json.dumps(result.record, indent=1) + "\n")
    tested = [row for row in result.record["candidates"] if row["p"] is not None]
    return DONE if tested else UNHEALTHY


def resume_command(arguments: argparse.Namespace) -> str:
    """Return the command that continues a confirmation started with `arguments`."""
    words = ["segtune", "confirm", arguments.run]
    for name in ("top", "seeds", "max_concurrent", "address", "json"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    raise SystemExit(main())
