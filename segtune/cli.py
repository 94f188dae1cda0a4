"""What the commands share: --config and --set, logging, and exit codes. Knows no single command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from segtune.errors import SegtuneError

DONE = 0
PARTLY_REFUSED = 1  # some images were refused, each with its reason; the others are done
USER_ERROR = 2
UNHEALTHY = 3  # a search without a healthy trial, or a training run that did not complete
INTERRUPTED = 130


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add --set, which may be repeated."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the config, for example --set optim.lr=1e-4; may be repeated",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config and --set."""
    parser.add_argument("--config", required=True, metavar="FILE", help="config file (YAML)")
    add_set_argument(parser)


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the folder of a search run as the first positional argument."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of the search run, for example runs/loss_weights-1",
    )


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a checkpoint, or the folder of a training run or a trial, which stands for its best "
        "checkpoint, or of a search run, which stands for its best trial",
    )


def say_once(is_first: bool) -> None:
    """Keep warnings and notes that are the same on all ranks to rank 0."""
    if not is_first:
        logging.getLogger("segtune").setLevel(logging.ERROR)


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    An error that the user can repair is one message on stderr, without a traceback.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("segtune").setLevel(logging.INFO)
    try:
        return command()
    except SegtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
