"""`segtune evaluate`: scores per class of a checkpoint on the validation images."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.cli import (
    DONE,
    PARTLY_REFUSED,
    CommandParser,
    add_checkpoint_argument,
    add_label_arguments,
    add_set_argument,
    check_output_folders,
    path_argument,
    run_command,
)
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.errors import ConfigError, RunError
from segtune.reporting.progress import follow, printable
from segtune.runs.atomic import write_atomic
from segtune.training.prediction import load_model, validation_images

if TYPE_CHECKING:
    import torch

    from segtune.metrics import ConfusionMatrix
    from segtune.training.distributed import Ranks
    from segtune.training.drawing import Outputs
    from segtune.training.tta import AugmentedInference

METRICS = ("iou", "dice", "fscore")  # the keys of metrics.METRICS, which needs torch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _evaluate(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune evaluate",
        description="Print scores per class on the validation images, as mmsegmentation does. By "
        "default each image goes through the model as in the validations of the training run: at "
        "the size that the config gives it, and as a whole or in windows (val.mode).",
    )
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="config file; default: the config in the checkpoint"
    )
    _add_score_arguments(parser)
    parser.add_argument(
        "--show-dir",
        type=path_argument,
        metavar="DIR",
        help="also draw the predictions over the images, in this folder",
    )
    add_label_arguments(parser)
    _add_augmentation_arguments(parser)
    add_set_argument(parser)
    return parser


def _add_score_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--metrics",
        nargs="+",
        type=_metric,
        default=["iou"],
        choices=METRICS,
        metavar="METRIC",
        help="iou: IoU and accuracy; dice: Dice and accuracy; fscore: F-score, precision and "
        "recall. Several may be named; default: iou. docs/metrics.md has the formulas",
    )
    group.add_argument(
        "--beta",
        type=_positive,
        metavar="WEIGHT",
        help="weight of recall in the F-score; default: 1",
    )
    group.add_argument(
        "--csv",
        type=path_argument,
        metavar="FILE",
        help="file for the table as CSV; default: evaluation.csv in the checkpoint's folder",
    )
    group.add_argument(
        "--json",
        type=path_argument,
        metavar="FILE",
        help="also write the scores, in 0..1, and the numbers of pixels as JSON",
    )


def _add_augmentation_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("windows and test-time augmentation")
    group.add_argument(
        "--window",
        type=_sides,
        metavar="PIXELS",
        help="predict windows of this size that slide over the image and average their logits, as "
        "mmsegmentation does: 512, or height and width as 512,1024. The same as val.mode: slide "
        "and val.window; --set val.mode=whole predicts whole images",
    )
    group.add_argument(
        "--stride",
        type=_sides,
        metavar="PIXELS",
        help="distance from one window to the next, as --window; default: two thirds of a window",
    )
    group.add_argument(
        "--flip", action="store_true", help="also predict each image mirrored, and average"
    )
    group.add_argument(
        "--scales",
        default="1",
        metavar="FACTORS",
        help="predict each image at these sizes and average, for example 0.75,1,1.25",
    )


def _metric(text: str) -> str:
    """Return the name of a metric, also for mmsegmentation's mIoU, mDice and mFscore."""
    return text.lower().removeprefix("m").replace("f1", "fscore").replace("-", "")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0, such as 1")
    return value


def _sides(text: str) -> str:
    """Return one or two whole numbers as a YAML list of height and width."""
    if not (match := re.fullmatch(r"(\d+)(?:[,x](\d+))?", text.replace(" ", ""))):
        raise argparse.ArgumentTypeError(
            f"{text}: expected a number of pixels, or height and width as in 512,1024"
        )
    return f"[{match[1]}, {match[2] or match[1]}]"


def _settings(arguments: argparse.Namespace) -> list[str]:
    """Return the assignments of --set, and those that --window and --stride stand for."""
    settings = list(arguments.set)
    if arguments.window or arguments.stride:
        settings.append("val.mode=slide")
    if arguments.window:
        settings += [f"val.window={arguments.window}", f"val.stride={arguments.stride or 'null'}"]
    elif arguments.stride:
        settings.append(f"val.stride={arguments.stride}")
    return settings


def _evaluate(arguments: argparse.Namespace) -> int:
    from segtune.training.distributed import Ranks
    from segtune.training.memory import keep_freed_memory

    _check_arguments(arguments)
    config = load_config(arguments.config) if arguments.config else None
    for option in ("csv", "json"):
        if path := getattr(arguments, option):
            _check_file(f"--{option}", Path(path))
    for folder in filter(None, (arguments.show_dir, arguments.labels)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    ranks = Ranks.join()
    try:
        return _evaluate_on(ranks, arguments, config)
    finally:
        ranks.close()


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together."""
    from segtune.training.tta import AugmentedInference

    AugmentedInference(scales=_scales(arguments.scales))  # raises if a scale is not possible
    check_output_folders("--show-dir", arguments.show_dir, arguments.labels, arguments.label_offset)
    if arguments.beta is not None and "fscore" not in arguments.metrics:
        raise ConfigError(["--beta: only the F-score has it; use --metrics fscore too"])


def _evaluate_on(
    ranks: Ranks, arguments: argparse.Namespace, config: ExperimentConfig | None
) -> int:
    """Evaluate on all ranks; rank 0 prints and writes the scores. Return the exit code."""
    from segtune.data.layouts import class_names
    from segtune.data.loader import ValLoader
    from segtune.training.evaluation import autocast_dtype, evaluate
    from segtune.training.tta import AugmentedInference

    model, config, checkpoint = load_model(
        arguments.checkpoint, config, ranks.device, _settings(arguments), check_classes=True
    )
    names = class_names(config.data)
    images = ValLoader(config, ranks.rank, ranks.world_size)
    precision = autocast_dtype(config.optim.precision, ranks.device)
    views = AugmentedInference.of(config, flip=arguments.flip, scales=_scales(arguments.scales))
    matrix = evaluate(model, images, ranks, config, len(names), precision, views)
    if ranks.is_first:
        _report(matrix, names, config.data, checkpoint, arguments)
    outputs = _outputs(arguments, config.data)
    return _show(model, config, outputs, views, ranks) if outputs else DONE


def _check_file(option: str, path: Path) -> None:
    """Raise RunError if a file cannot be written: an evaluation may take an hour."""
    if path.is_dir():
        example = path / f"table.{option.removeprefix('--')}"
        raise RunError(f"{option}: {path} is a folder; expected a file, as in {example}")
    if path.exists() and not path.is_file():
        return  # for example /dev/stdout
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RunError(f"{option}: {path} cannot be written: {folder} is no writable folder")


def _report(
    matrix: ConfusionMatrix,
    names: Sequence[str],
    data: DataConfig,
    checkpoint: Path,
    arguments: argparse.Namespace,
) -> None:
    """Print the tables, and write them as CSV and JSON."""
    from segtune.data.class_coverage import ignored_class_note
    from segtune.metrics import csv_rows, format_table, missed_classes_note

    summary = matrix.summary(beta=arguments.beta or 1.0)
    print(format_table(summary, names, arguments.metrics))
    if note := ignored_class_note(data, names):
        print(note)
    if "fscore" in arguments.metrics and (note := missed_classes_note(summary)):
        print(note)
    text = io.StringIO()
    csv.writer(text).writerows(csv_rows(summary, names, arguments.metrics))
    table = Path(arguments.csv) if arguments.csv else checkpoint / "evaluation.csv"
    _write("--csv", table, text.getvalue())
    print(f"table: {table}")
    if arguments.json:
        tree = _scores_tree(matrix, summary, names, arguments)
        _write("--json", Path(arguments.json), json.dumps(tree, ensure_ascii=False, indent=1))
        print(f"scores: {arguments.json}")


def _write(option: str, path: Path, text: str) -> None:
    try:
        write_atomic(path, text)
    except OSError as error:
        problem = f"{path}: cannot be written: {error.strerror}; choose a file with {option}"
        raise RunError(problem) from None


def _scores_tree(
    matrix: ConfusionMatrix,
    summary: dict[str, Any],
    names: Sequence[str],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return the content of --json: scores in 0..1, and null for NaN."""
    from segtune.metrics import columns_of

    columns = columns_of(arguments.metrics)
    counts = matrix.matrix.cpu()
    classes = [
        {
            "name": name,
            **{column: _json_number(summary[column.lower()][label]) for column in columns},
            "labelled_pixels": int(counts[label].sum()),
            "predicted_pixels": int(counts[:, label].sum()),
        }
        for label, name in enumerate(names)
    ]
    means = {name: summary[name] for name in ("aAcc", *(f"m{column}" for column in columns))}
    beta = {"beta": arguments.beta or 1.0} if "fscore" in arguments.metrics else {}
    return {"checkpoint": str(arguments.checkpoint), **beta, "means": means, "classes": classes}


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _outputs(arguments: argparse.Namespace, data: DataConfig) -> Outputs | None:
    """Return where the predictions go, or None if none are written."""
    from segtune.training.drawing import Outputs
    from segtune.training.label_images import label_offset

    show_dir, labels = (
        Path(folder) if folder else None for folder in (arguments.show_dir, arguments.labels)
    )
    if show_dir is None and labels is None:
        return None
    return Outputs(show_dir, labels, label_offset(data, arguments.label_offset))


def _show(
    model: torch.nn.Module,
    config: ExperimentConfig,
    outputs: Outputs,
    views: AugmentedInference,
    ranks: Ranks,
) -> int:
    """Write the predictions of the validation images, each rank its part. Return the exit code."""
    import torch

    from segtune.training.drawing import write_predictions

    images = validation_images(config)
    part = images[ranks.rank :: ranks.world_size]
    problems = write_predictions(model, config, part, outputs, ranks.device, views=views)
    counts = follow(problems, len(part), "draw", shows_bar=ranks.is_first)
    refused = int(ranks.sum(torch.tensor(counts, device=ranks.device)))
    if ranks.is_first:
        for line in outputs.describe(len(images) - refused, config.data):
            print(printable(line))
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
