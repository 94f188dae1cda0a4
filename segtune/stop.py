"""`segtune stop RUN`: stop a running search gracefully, from any shell that sees its folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtune.cli import DONE, CommandParser, add_run_argument, run_command
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir, search_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _stop(arguments.run), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune stop",
        description="Stop a running search gracefully. It can be resumed with "
        "`segtune search --resume`.",
    )
    add_run_argument(parser)
    return parser


def _stop(path: str) -> int:
    run = SearchDir.open(path)
    parts = [run]
    if run.full.study.is_file():
        parts.append(run.full)  # after a search on a proxy, the trials at full length run here
    if run.confirm.study.is_file():
        parts.append(run.confirm)  # so do the training runs of `segtune confirm`
    for part in parts:
        write_atomic(part.stop_request, "stop\n")
    # A search on a proxy locks its own folder, also while the trials at full length run.
    parent = search_of(run.path)
    if not (run.is_locked() or (parent and parent.is_locked())):
        print(f"{run.path}: no search is running in this folder on this machine")
        print("a search on another machine sees the request; the next --resume ignores it")
        return DONE
    again = f"segtune confirm {run.path}" if run.confirm.is_locked() else "--resume"
    print(
        f"{run.path}: stop requested; the running trials end within seconds, and {again} "
        "continues them"
    )
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
