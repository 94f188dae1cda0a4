"""`segtune evaluate`: IoU and accuracy per class of a checkpoint on the validation images."""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.cli import (
    DONE,
    PARTLY_REFUSED,
    add_checkpoint_argument,
    add_set_argument,
    path_argument,
    run_command,
)
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.errors import ConfigError, RunError
from segtune.reporting.progress import follow
from segtune.runs.atomic import write_atomic
from segtune.training.prediction import draw_overlays, load_model, validation_images

if TYPE_CHECKING:
    import torch

    from segtune.training.distributed import Ranks
    from segtune.training.tta import AugmentedInference


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune evaluate",
        description="Print IoU and accuracy per class on the validation images. By default each "
        "image goes through the model once, at the size that the config gives it.",
    )
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="config file; default: the config in the checkpoint"
    )
    parser.add_argument(
        "--csv",
        type=path_argument,
        metavar="FILE",
        help="file for the table as CSV; default: evaluation.csv in the checkpoint's folder",
    )
    parser.add_argument(
        "--show-dir",
        type=path_argument,
        metavar="DIR",
        help="also draw the predictions over the images, in this folder",
    )
    _add_augmentation_arguments(parser)
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _evaluate(arguments))


def _add_augmentation_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("test-time augmentation")
    group.add_argument(
        "--flip", action="store_true", help="also predict each image mirrored, and average"
    )
    group.add_argument(
        "--scales",
        default="1",
        metavar="FACTORS",
        help="predict each image at these sizes and average, for example 0.75,1,1.25",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="PIXELS",
        help="predict square windows of this size that slide over the image",
    )
    group.add_argument(
        "--stride",
        type=int,
        metavar="PIXELS",
        help="distance from one window to the next; default: two thirds of the window",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from segtune.training.distributed import Ranks
    from segtune.training.memory import keep_freed_memory
    from segtune.training.tta import AugmentedInference

    views = AugmentedInference(
        arguments.window, arguments.stride, arguments.flip, _scales(arguments.scales)
    )
    config = load_config(arguments.config) if arguments.config else None
    show_dir = Path(arguments.show_dir) if arguments.show_dir else None
    if arguments.csv:
        _check_table(Path(arguments.csv))
    if show_dir:
        show_dir.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    ranks = Ranks.join()
    try:
        return _evaluate_on(ranks, arguments, config, views, show_dir)
    finally:
        ranks.close()


def _evaluate_on(
    ranks: Ranks,
    arguments: argparse.Namespace,
    config: ExperimentConfig | None,
    views: AugmentedInference,
    show_dir: Path | None,
) -> int:
    """Evaluate on all ranks; rank 0 prints and writes the table. Return the exit code."""
    from segtune.data.layouts import class_names
    from segtune.data.loader import ValLoader
    from segtune.training.evaluation import autocast_dtype, evaluate

    model, config, checkpoint = load_model(
        arguments.checkpoint, config, ranks.device, arguments.set, check_classes=True
    )
    names = class_names(config.data)
    images = ValLoader(config, ranks.rank, ranks.world_size)
    precision = autocast_dtype(config.optim.precision, ranks.device)
    matrix = evaluate(model, images, ranks, config, len(names), precision, views)
    if ranks.is_first:
        table = Path(arguments.csv) if arguments.csv else checkpoint / "evaluation.csv"
        _report(matrix.summary(), names, config.data, table)
    if show_dir is None:
        return DONE
    return _show(model, config, show_dir, ranks)


def _check_table(path: Path) -> None:
    """Raise RunError if the table cannot be written: an evaluation may take an hour."""
    if path.is_dir():
        raise RunError(f"--csv: {path} is a folder; expected a file, as in {path / 'table.csv'}")
    if path.exists() and not path.is_file():
        return  # for example /dev/stdout
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RunError(f"--csv: {path} cannot be written: {folder} is no writable folder")


def _report(summary: dict[str, Any], names: Sequence[str], data: DataConfig, table: Path) -> None:
    from segtune.data.class_coverage import ignored_class_note
    from segtune.metrics import csv_rows, format_table

    print(format_table(summary, names))
    if note := ignored_class_note(data, names):
        print(note)
    text = io.StringIO()
    csv.writer(text).writerows(csv_rows(summary, names))
    try:
        write_atomic(table, text.getvalue())
    except OSError as error:
        raise RunError(
            f"{table}: the table cannot be written: {error.strerror}; choose a file with --csv"
        ) from None
    print(f"table: {table}")


def _show(model: torch.nn.Module, config: ExperimentConfig, out: Path, ranks: Ranks) -> int:
    """Draw the validation images, each rank its part. Return the exit code."""
    import torch

    images = validation_images(config)
    part = images[ranks.rank :: ranks.world_size]
    problems = draw_overlays(model, config, part, out, ranks.device)
    counts = follow(problems, len(part), "draw", shows_bar=ranks.is_first)
    refused = int(ranks.sum(torch.tensor(counts, device=ranks.device)))
    if ranks.is_first:
        print(f"{len(images) - refused} overlays in {out}")
    return PARTLY_REFUSED if refused else DONE


def _scales(text: str) -> tuple[float, ...]:
    """Return the factors in a text such as 0.75,1,1.25. Raise ConfigError for another form."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        problem = "--scales: expected numbers separated by commas, as in 0.75,1,1.25"
        raise ConfigError([f"{problem}; got {text!r}"]) from None


if __name__ == "__main__":
    raise SystemExit(main())
