"""`segtune evaluate`: IoU and accuracy per class of a checkpoint on the validation images."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, add_checkpoint_argument, add_set_argument, run_command
from segtune.config.schema import load_config
from segtune.errors import ConfigError
from segtune.runs.atomic import write_atomic
from segtune.training.prediction import load_model, validation_images, write_overlays


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
        metavar="FILE",
        help="file for the table as CSV; default: evaluation.csv in the checkpoint's folder",
    )
    parser.add_argument(
        "--show-dir",
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
    from segtune.data.class_coverage import ignored_class_note
    from segtune.data.layouts import class_names
    from segtune.data.loader import ValLoader
    from segtune.metrics import csv_rows, format_table
    from segtune.training.distributed import Ranks
    from segtune.training.evaluation import autocast_dtype, evaluate
    from segtune.training.memory import keep_freed_memory
    from segtune.training.tta import AugmentedInference

    views = AugmentedInference(
        arguments.window, arguments.stride, arguments.flip, _scales(arguments.scales)
    )
    config = load_config(arguments.config) if arguments.config else None
    keep_freed_memory()
    ranks = Ranks.join()
    model, config, checkpoint = load_model(
        arguments.checkpoint, config, ranks.device, overrides=arguments.set
    )
    names = class_names(config.data)
    images = ValLoader(config, ranks.rank, ranks.world_size)
    precision = autocast_dtype(config.optim.precision, ranks.device)
    summary = evaluate(model, images, ranks, config, len(names), precision, views).summary()
    print(format_table(summary, names))
    if note := ignored_class_note(config.data, names):
        print(note)
    table = Path(arguments.csv) if arguments.csv else checkpoint / "evaluation.csv"
    text = io.StringIO()
    csv.writer(text).writerows(csv_rows(summary, names))
    write_atomic(table, text.getvalue())
    print(f"table: {table}")
    if arguments.show_dir:
        folder = Path(arguments.show_dir)
        files = validation_images(config)
        print(f"{write_overlays(model, config, files, folder, ranks.device)} overlays in {folder}")
    return DONE


def _scales(text: str) -> tuple[float, ...]:
    """Return the factors in a text such as 0.75,1,1.25. Raise ConfigError for another form."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        problem = "--scales: expected numbers separated by commas, as in 0.75,1,1.25"
        raise ConfigError([f"{problem}; got {text!r}"]) from None


if __name__ == "__main__":
    raise SystemExit(main())
