"""`segtune stop RUN`: stop a running search gracefully, from any shell that sees its folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtune.cli import DONE, add_run_argument, run_command
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune stop",
        description="Stop a running search gracefully. It can be resumed with "
        "`segtune search --resume`.",
    )
    add_run_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _stop(arguments.run))


def _stop(path: str) -> int:
    run = SearchDir.open(path)
    write_atomic(run.stop_request, "stop\n")
    print(
        f"{run.path}: stop requested; the running trials end within seconds, and --resume "
        "continues them"
    )
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
