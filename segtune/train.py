"""`segtune train`: train one config in this process, under torchrun, or on a Ray worker group."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from segtune.api import run_training, run_training_on_workers
from segtune.cli import DONE, UNHEALTHY, add_config_arguments, path_argument, run_command
from segtune.config.schema import load_config

log = logging.getLogger("segtune.train")  # under `python -m` __name__ is __main__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _argument_parser()
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error(f"argument --workers: allowed is whole number >= 1; got {arguments.workers}")
    if arguments.resume and arguments.init_from:
        parser.error("argument --init-from: not allowed with argument --resume")
    return run_command(lambda: _train(arguments))


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune train", description="Train one config.")
    add_config_arguments(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=path_argument,
        metavar="DIR",
        help="folder of the training run, for checkpoints, epochs.jsonl and verdict.json",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of ranks; two or more train with DDP on a Ray worker group (default: 1)",
    )
    parser.add_argument(
        "--address",
        help="Ray cluster for two or more workers: auto or host:port; default: start a local Ray",
    )
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument(
        "--resume",
        action="store_true",
        help="continue the training run in --out from its last checkpoint",
    )
    folder.add_argument(
        "--overwrite", action="store_true", help="replace the training run in --out"
    )
    parser.add_argument(
        "--init-from",
        type=path_argument,
        metavar="CKPT",
        help="start from the weights of a checkpoint, or of the best one of a training run or a "
        "search run, with a new optimiser and schedule; classes of other names start anew",
    )
    return parser


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.set)
    start = {name: getattr(arguments, name) for name in ("resume", "overwrite", "init_from")}
    if arguments.workers > 1:
        result = run_training_on_workers(
            config, arguments.out, workers=arguments.workers, address=arguments.address, **start
        )
    else:
        from segtune.training.memory import keep_freed_memory

        keep_freed_memory()
        result = run_training(config, arguments.out, **start)
    if result.verdict.state != "completed":
        log.error("%s: %s", result.verdict.state, result.verdict.reason)
        return UNHEALTHY
    log.info("best mIoU %.2f; checkpoint %s", 100 * result.best_miou, result.checkpoint)
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
