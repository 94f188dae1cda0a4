"""What commands share: --config and --set, errors to exit codes, logging."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from segtune.errors import SegtuneError

DONE, USER_ERROR, NO_HEALTHY_TRIAL, INTERRUPTED = 0, 2, 3, 130


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --set, which may be given several times."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, for example --set optim.lr=1e-4; may be repeated",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --set."""
    parser.add_argument("--config", required=True, help="config file (YAML)")
    add_set_argument(parser)


def run_command(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; a user's error is one clear message, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("segtune").setLevel(logging.INFO)
    try:
        return command()
    except SegtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
