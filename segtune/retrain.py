"""`segtune retrain RUN`: train the winner at full length, and say whether its score held."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtune.api_retrain import RetrainChanges, retrain_run
from segtune.cli import (
    DONE,
    UNHEALTHY,
    CommandParser,
    add_run_argument,
    add_set_argument,
    add_training_arguments,
    check_training_arguments,
    path_argument,
    run_command,
)
from segtune.reporting.format import format_value
from segtune.reporting.terminal import labelled, print_lines, wide_console

log = logging.getLogger("segtune.retrain")  # under `python -m` __name__ is __main__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    check_training_arguments(parser, arguments)
    for name, smallest in (("epochs", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            parser.error(f"argument --{name}: allowed is whole number >= {smallest}; got {value}")
    for name in ("trial", "epochs", "seed"):
        if arguments.resume and getattr(arguments, name) is not None:
            parser.error(
                f"argument --{name}: not allowed with argument --resume, which continues what the "
                "retraining began with"
            )
    return run_command(lambda: _retrain(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune retrain",
        description="Train the best trial of a search run at full length with a fresh seed, and "
        "say whether it reaches the mIoU that the search estimated.",
    )
    add_run_argument(parser)
    parser.add_argument(
        "--trial", type=int, metavar="N", help="retrain this trial instead of the best"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="length; the warmup, schedule.val_every and checkpoint.every change in proportion "
        "(default: as in the study's config, which is the length before a proxy)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="default: a seed that the search has not used"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="folder of the training run (default: retrained in RUN)",
    )
    add_training_arguments(parser, workers="as in the search")
    add_set_argument(parser)
    return parser


def _retrain(arguments: argparse.Namespace) -> int:
    from segtune.reporting.training_progress import training_progress
    from segtune.training.memory import keep_freed_memory

    keep_freed_memory()
    console = wide_console()
    result = retrain_run(
        arguments.run,
        trial=arguments.trial,
        changes=RetrainChanges(
            arguments.epochs, arguments.seed, arguments.set, arguments.init_from
        ),
        out=arguments.out,
        workers=arguments.workers,
        address=arguments.address,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        on_begin=lambda record, folder: print_lines(console, *_plan_lines(record, folder)),
        listeners=[training_progress()],
    )
    lines = [labelled("result", result.record["sentence"])]
    if result.training.checkpoint:
        lines.append(labelled("checkpoint", str(result.training.checkpoint)))
    print_lines(console, *lines, labelled("record", f"{result.folder / 'retrain.json'}"))
    return DONE if result.training.verdict.state == "completed" else UNHEALTHY


def _plan_lines(record: Mapping[str, Any], folder: Path) -> list[str]:
    """Return what is trained, in lines for the terminal."""
    part = Path(record["search_run"]) / record["part"]
    epochs, searched = record["epochs"], record["searched_epochs"]
    length = f"{epochs} epochs" + (f"; the search trained {searched}" if epochs != searched else "")
    rescaled = [
        f"{name} {format_value(old)} -> {format_value(new)}"
        for name, (old, new) in record["rescaled"].items()
    ]
    return [
        labelled("retrain", f"trial {record['trial']} of {part}"),
        labelled("length", length),
        *([labelled("rescaled", ", ".join(rescaled))] if rescaled else []),
        labelled("seed", f"{record['seed']}; the search trained with {record['searched_seed']}"),
        labelled("folder", str(folder)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
