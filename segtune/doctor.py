"""`segtune doctor`: whether this machine can run a search, a line for each check."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import (
    DONE,
    USER_ERROR,
    CommandParser,
    add_json_argument,
    path_argument,
    prints_json,
    run_command,
    write_json,
)

if TYPE_CHECKING:
    from segtune.checks.machine.outcome import Outcome

FORMAT = 1  # of --json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 if a problem would stop a search."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _doctor(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune doctor",
        description="Check this machine: packages, GPUs, memory, disks, limits, and what Ray "
        "needs. A line for each check says OK, warning or problem, with the remedy. Exit code 2 if "
        "a problem would stop a search.",
    )
    parser.add_argument(
        "--out",
        default="runs",
        type=path_argument,
        metavar="DIR",
        help="folder of the search runs, of which the disk is checked (default: runs)",
    )
    parser.add_argument("--ray", action="store_true", help="also start a local Ray, and stop it")
    add_json_argument(parser, "all outcomes")
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    from segtune.checks.machine.outcome import worst
    from segtune.reporting.outcome_lines import print_outcome_line
    from segtune.reporting.terminal import wide_console

    console = wide_console()
    outcomes = []
    for outcome in _outcomes(arguments):
        outcomes.append(outcome)
        if not prints_json(arguments):
            print_outcome_line(outcome, console)
    state = worst(outcomes)
    checks = [outcome.dump() for outcome in outcomes]
    write_json(arguments, {"format": FORMAT, "state": state, "checks": checks})
    if not prints_json(arguments):
        print(_summary(outcomes))
    return USER_ERROR if state == "problem" else DONE


def _outcomes(arguments: argparse.Namespace) -> Iterator[Outcome]:
    from segtune.checks.machine.all_checks import machine_checks

    yield from machine_checks(Path(arguments.out))
    if arguments.ray:
        yield _started_ray()


def _started_ray() -> Outcome:
    """Start a local Ray as a search does, run a task, and stop it."""
    from segtune.checks.machine.outcome import Outcome
    from segtune.errors import ClusterError

    start = time.monotonic()
    try:
        from segtune.cluster.ray_session import measured_start

        url, task_s = measured_start()
    except ClusterError as error:
        remedy = "see the logs that the message names, and the other checks here"
        return Outcome("ray", "problem", str(error), remedy)
    took_s = time.monotonic() - start
    text = f"a local Ray ran a task after {task_s:.1f} s and ended after {took_s:.1f} s"
    return Outcome("ray", "ok", f"{text}; its dashboard was at {url or 'no address'}")


def _summary(outcomes: Sequence[Outcome]) -> str:
    numbers = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("problem", "warning")
    }
    parts = [f"{n} {state}{'s' * (n > 1)}" for state, n in numbers.items() if n]
    return f"{len(outcomes)} checks: {', '.join(parts) or 'everything is fine'}"


if __name__ == "__main__":
    raise SystemExit(main())
