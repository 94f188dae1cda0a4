"""`segtune stop RUN`: ends a running search gracefully, from any shell that sees the run's folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtune.cli import run_command
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune stop", description="End a running search; it can be resumed."
    )
    parser.add_argument("run", help="folder of the run, for example runs/loss_weights-1")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _stop(arguments.run))


def _stop(path: str) -> int:
    run = SearchDir.open(path)
    write_atomic(run.stop_request, "stop\n")
    print(f"{run.path}: asked to stop; running trials end within seconds and go on at --resume")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
