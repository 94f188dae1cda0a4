"""`segtune train`: train one config in this process, under torchrun, or on a Ray worker group."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from segtune.api import run_training_on_workers
from segtune.cli import (
    DONE,
    UNHEALTHY,
    CommandParser,
    add_config_arguments,
    add_training_arguments,
    check_training_arguments,
    is_rank_0,
    path_argument,
    run_command,
)
from segtune.config.schema import load_config

log = logging.getLogger("segtune.train")  # under `python -m` __name__ is __main__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    check_training_arguments(parser, arguments)
    return run_command(lambda: _train(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(prog="segtune train", description="Train one config.")
    add_config_arguments(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=path_argument,
        metavar="DIR",
        help="folder of the training run, for checkpoints, epochs.jsonl and verdict.json",
    )
    add_training_arguments(parser)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    from segtune.reporting.training_progress import training_progress

    config = load_config(arguments.config, arguments.set)
    workers = arguments.workers or 1
    if workers == 1:
        from segtune.training.memory import keep_freed_memory

        keep_freed_memory()
    start = {name: getattr(arguments, name) for name in ("resume", "overwrite", "init_from")}
    result = run_training_on_workers(
        config,
        arguments.out,
        workers=workers,
        address=arguments.address,
        **start,
        listeners=[training_progress()],
    )
    if result.verdict.state != "completed":
        log.error("%s: %s", result.verdict.state, result.verdict.reason)
        return UNHEALTHY
    if is_rank_0():
        print(f"best mIoU {100 * result.best_miou:.2f}; checkpoint {result.checkpoint}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
