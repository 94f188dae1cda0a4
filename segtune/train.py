"""`segtune train`: trains one config, in this process, under torchrun, or on a Ray worker group."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from segtune.api import check_folder, result_of, run_training
from segtune.cli import add_config_arguments, run_command
from segtune.config.schema import absolute_paths, load_config
from segtune.runs.rundir import TrialDir

log = logging.getLogger("segtune.train")  # under `python -m` __name__ is __main__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="segtune train", description="Train one config.")
    add_config_arguments(parser)
    parser.add_argument(
        "--out",
        required=True,
        help="folder of the run; checkpoints, epochs.jsonl and verdict.json are written there",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="ranks; two or more train with DDP on a Ray worker group (default: 1, this process)",
    )
    parser.add_argument(
        "--address",
        help="Ray cluster for --workers 2 or more: auto or host:port; default: a local one",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out exactly where its last checkpoint is",
    )
    start.add_argument(
        "--init-from",
        metavar="CKPT",
        help="take the weights of a checkpoint, with a fresh optimiser and schedule",
    )
    arguments = parser.parse_args(argv)
    return run_command(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.set)
    if arguments.workers > 1:
        from segtune.cluster.train_group import train_on_workers

        check_folder(TrialDir(Path(arguments.out).absolute()), arguments.resume)
        train_on_workers(
            absolute_paths(config), Path(arguments.out).absolute(), arguments.workers, address=arguments.address,
            resume=arguments.resume, init_from=arguments.init_from,
        )  # fmt: skip
        result = result_of(TrialDir(Path(arguments.out).absolute()))
    else:
        result = run_training(
            config, arguments.out, resume=arguments.resume, init_from=arguments.init_from
        )
    if result.verdict.state != "completed":
        log.error("%s: %s", result.verdict.state, result.verdict.reason)
        return 3
    log.info("best mIoU %.2f; checkpoint %s", 100 * result.best_miou, result.checkpoint)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
