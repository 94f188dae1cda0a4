"""What the commands share: --config and --set, logging, and exit codes. Knows no single command."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from segtune.config.settings import expand_path
from segtune.errors import ConfigError, SegtuneError, nearest, place_problem
from segtune.runs.atomic import write_atomic

DONE = 0
PARTLY_REFUSED = 1  # some images were refused, each with its reason; the others are done
USER_ERROR = 2
UNHEALTHY = 3  # a search without a healthy trial, or a training run that did not complete
INTERRUPTED = 130
BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE has ended
# Of segtune's own messages on stderr, by the option.
LEVELS = {"quiet": logging.ERROR, "": logging.INFO, "verbose": logging.DEBUG}


class CommandParser(argparse.ArgumentParser):
    """The parser of a command: with --quiet and --verbose, and errors as every command prints."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        group = self.add_mutually_exclusive_group()
        for flag, meaning in (
            ("quiet", "print only results and errors"),
            ("verbose", "print what segtune does in detail"),
        ):
            # Without a default: that of a subcommand would replace the value of its command.
            group.add_argument(
                f"--{flag}",
                dest="verbosity",
                action="store_const",
                const=flag,
                default=argparse.SUPPRESS,
                help=meaning,
            )

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Refuse words that are not known here, also in a subcommand, with its own options."""
        parsed, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """End the program with one message on stderr, as `run_command` prints those of segtune."""
        print(f"error: {message}{self._nearest(message)}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(USER_ERROR)

    def _nearest(self, message: str) -> str:
        """Return the option or the choice that a message of argparse may be about."""
        if match := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            return nearest(match[1], [o for a in self._actions for o in a.option_strings])
        if match := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            return nearest(match[1], re.findall(r"[\w.-]+", match[2]))
        return ""


def is_quiet(arguments: argparse.Namespace) -> bool:
    """Whether a command prints only results and errors."""
    return getattr(arguments, "verbosity", "") == "quiet"


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --json: without a file, and for `-`, the JSON is printed in place of anything else."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        type=path_argument,
        metavar="FILE",
        help=f"write {what} into this file as JSON; without a file, or with -, print only that",
    )


def prints_json(arguments: argparse.Namespace) -> bool:
    """Whether --json asks for JSON on stdout, and for nothing else there."""
    return arguments.json == "-"


def write_json(arguments: argparse.Namespace, tree: Any) -> None:
    """Write or print plain values as --json asks; do nothing without --json."""
    if not arguments.json:
        return
    text = json.dumps(tree, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    if prints_json(arguments):
        sys.stdout.write(text)
    else:
        write_atomic(Path(arguments.json), text)


def path_argument(text: str) -> str:
    """Return a path of the command line, with the home folder for `~`; the type of an argument.

    A shell expands `--out ~/runs`, but not `--out=~/runs`.
    """
    try:
        return expand_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def assignment(text: str) -> str:
    """Return the word after --set if it is complete; the type of an argument.

    A blank that is not in quotes ends the word in the shell: `--set data.train=[a, b]` is two
    words, and so is `--set optim.lr= 1e-3`.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    for opening, closing in ("[]", "{}"):
        if value.startswith(opening) and value.count(opening) > value.count(closing):
            raise argparse.ArgumentTypeError(
                f"{text}: {opening} is not closed; put quotes around the whole, because of its "
                f"blanks: --set '{name}={opening}a, b{closing}'"
            )
    if not equals or not value:
        raise argparse.ArgumentTypeError(
            f"{text}: expected name=value without blanks, for example --set optim.lr=1e-4; for no "
            f"value, write --set {name}=null"
        )
    return text


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add --set, which may be repeated."""
    parser.add_argument(
        "--set",
        action="append",
        type=assignment,
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the config, for example --set optim.lr=1e-4; may be repeated",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config and --set."""
    parser.add_argument(
        "--config", required=True, type=path_argument, metavar="FILE", help="config file (YAML)"
    )
    add_set_argument(parser)


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the folder of a search run as the first positional argument."""
    parser.add_argument(
        "run",
        type=path_argument,
        metavar="RUN",
        help="folder of the search run, for example runs/loss_weights-1",
    )


def add_training_arguments(parser: argparse.ArgumentParser, workers: str = "1") -> None:
    """Add the options of a training run: its ranks, and how it starts.

    `workers` describes the default number of ranks.
    """
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of ranks; two or more train with DDP on a Ray worker group "
        f"(default: {workers})",
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


def check_training_arguments(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    """End the program with a message if the options of a training run do not go together."""
    if arguments.workers is not None and arguments.workers < 1:
        parser.error(f"argument --workers: allowed is whole number >= 1; got {arguments.workers}")
    if arguments.resume and arguments.init_from:
        parser.error("argument --init-from: not allowed with argument --resume")


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=path_argument,
        metavar="PATH",
        help="a checkpoint, or the folder of a training run, a trial or a search run, which stands "
        "for its best checkpoint",
    )


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --labels and --label-offset."""
    parser.add_argument(
        "--labels",
        type=path_argument,
        metavar="DIR",
        help="write the predicted labels of each image into this folder, as a PNG file of the size "
        "of the image: a palette image, or 16 bits if a label is above 255; a file that segtune "
        "has not written is never replaced",
    )
    parser.add_argument(
        "--label-offset",
        type=_offset,
        metavar="N",
        help="value of the first class in the files of --labels; default: as in the mask files, "
        "which is 1 with data.reduce_zero_label (ADE20K), otherwise 0",
    )


def check_output_folders(
    option: str, overlays: str | None, labels: str | None, label_offset: int | None
) -> None:
    """Raise ConfigError if `option`, the folder of overlays, and --labels do not go together."""
    if label_offset is not None and not labels:
        raise ConfigError(["--label-offset: needs --labels DIR, the folder of the label images"])
    if overlays and labels and os.path.realpath(overlays) == os.path.realpath(labels):
        raise ConfigError(
            [
                f"--labels: {labels} is the folder of {option} too, and the files have the same "
                "names; choose another folder"
            ]
        )


def _offset(text: str) -> int:
    """Return a whole number from 0; the type of an argument."""
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 0, such as 1")
    return int(text)


def run_command(command: Callable[[], int], arguments: argparse.Namespace) -> int:
    """Run a command and return its exit code. `arguments` may have --quiet or --verbose.

    An error that the user can repair is one message on stderr, without a traceback. These are
    SegtuneError, and a path that the operating system refuses (see `errors.place_problem`): only
    the user can choose another path or make space. Every other exception is a bug and is raised.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Once("segtune.data"))
    verbosity = getattr(arguments, "verbosity", "")
    style = "%(asctime)s %(name)s: %(message)s" if verbosity == "verbose" else "%(message)s"
    logging.basicConfig(level=logging.WARNING, format=style, handlers=[handler])
    # Warnings and notes are the same on all ranks.
    level = LEVELS[verbosity] if is_rank_0() else logging.ERROR
    logging.getLogger("segtune").setLevel(level)
    _print_every_name()
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C: files are closed, temporary ones removed, and the way to resume is printed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = command()
        sys.stdout.flush()  # here, where a reader that has ended is no error
        return code
    except SegtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        # Python would report the same error again when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, ValueError) as error:
        problem = place_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


class _Once(logging.Filter):
    """Drop messages of the package `name` that were logged before.

    A command opens a data set several times: for the range of values, the loaders and the checks.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if not super().filter(record):
            return True  # of another package
        message = record.getMessage()
        is_new = message not in self._logged
        self._logged.add(message)
        return is_new


def is_rank_0() -> bool:
    """Whether this process is rank 0 of torchrun, or was not started by torchrun."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _print_every_name() -> None:
    """Print names that the terminal's encoding lacks as escapes, instead of ending the command.

    File names may be bytes of any encoding, and a terminal may be ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
