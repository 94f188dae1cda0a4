"""`segtune evaluate`: the table of IoU and accuracy per class of a checkpoint on the validation split."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import add_set_argument, run_command
from segtune.config.schema import load_config
from segtune.config.yaml_io import parse_assignments
from segtune.errors import ConfigError
from segtune.runs.atomic import write_atomic
from segtune.training.prediction import load_model, validation_images, write_overlays


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune evaluate",
        description="Print IoU and accuracy per class on the validation split.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a checkpoint, or the folder of a run or trial (its best one)",
    )
    parser.add_argument("--config", help="config file; default: the one in the checkpoint")
    parser.add_argument(
        "--csv",
        help="where the table is written as CSV; default: evaluation.csv beside the checkpoint",
    )
    parser.add_argument("--show-dir", help="write overlays of all validation images to this folder")
    parser.add_argument(
        "--flip", action="store_true", help="look at each image mirrored, too, and average"
    )
    parser.add_argument(
        "--scales",
        default="1",
        help="sizes to look at, as factors, for example 0.75,1,1.25; their softmax is averaged",
    )
    parser.add_argument(
        "--window",
        type=int,
        help="look through a square window of so many pixels that slides over the image",
    )
    parser.add_argument(
        "--stride", type=int, help="pixels from window to window; default: two thirds of it"
    )
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
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
    given = load_config(arguments.config) if arguments.config else None
    keep_freed_memory()
    ranks = Ranks.join()
    model, config, folder = load_model(arguments.checkpoint, given, ranks.device)
    if arguments.set:
        config = config.override(*parse_assignments(arguments.set))
    names = class_names(config.data)
    data = ValLoader(config, ranks.rank, ranks.world_size)
    precision = autocast_dtype(config.optim.precision, ranks.device)
    summary = evaluate(model, data, ranks, config, len(names), precision, views).summary()
    print(format_table(summary, names))
    target = Path(arguments.csv) if arguments.csv else folder / "evaluation.csv"
    text = io.StringIO()
    csv.writer(text).writerows(csv_rows(summary, names))
    write_atomic(target, text.getvalue())
    print(f"written: {target}")
    if arguments.show_dir:
        count = write_overlays(
            model, config, validation_images(config), Path(arguments.show_dir), ranks.device
        )
        print(f"{count} overlays in {arguments.show_dir}")
    return 0


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(
            [
                f"--scales: expected numbers with commas between them, as in 0.75,1,1.25; got {text!r}"
            ]
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
