"""What the commands share: --config and --set, logging, and exit codes. Knows no single command."""

from __future__ import annotations

import argparse
import io
import logging
import signal
import sys
import threading
from collections.abc import Callable

from segtune.errors import SegtuneError, place_problem

DONE = 0
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
        "checkpoint",
    )


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    An error that the user can repair is one message on stderr, without a traceback. These are
    SegtuneError, and a path that the operating system refuses (see `errors.place_problem`): only
    the user can choose another path or make space. Every other exception is a bug and is raised.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("segtune").setLevel(logging.INFO)
    _print_every_name()
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C: files are closed, temporary ones removed, and the way to resume is printed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command()
    except SegtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except (OSError, ValueError) as error:
        problem = place_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _print_every_name() -> None:
    """Print names that the terminal's encoding lacks as escapes, instead of ending the command.

    File names may be bytes of any encoding, and a terminal may be ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
