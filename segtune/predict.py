"""`segtune predict`: a checkpoint's predictions as overlays over images, and as label images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import (
    DONE,
    PARTLY_REFUSED,
    CommandParser,
    add_checkpoint_argument,
    add_label_arguments,
    check_output_folders,
    is_quiet,
    path_argument,
    run_command,
)
from segtune.config.schema import ExperimentConfig, load_config
from segtune.reporting.progress import follow, print_refusal, printable
from segtune.training.overlays import Inputs, find_inputs
from segtune.training.prediction import load_model

if TYPE_CHECKING:
    from segtune.training.distributed import Ranks

DEFAULT_OUT = "predictions"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _predict(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune predict",
        description="Blend each image with the colours of its predicted classes, or write its "
        "labels. An image that cannot be read is refused in one line; the others are predicted, "
        f"and the exit code is {PARTLY_REFUSED}.",
    )
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="config file; default: the config in the checkpoint"
    )
    parser.add_argument(
        "--out",
        "--show-dir",
        type=path_argument,
        metavar="DIR",
        help=f"folder for the overlays (default: {DEFAULT_OUT}, but none with --labels); a file "
        "that segtune has not written is never replaced",
    )
    add_label_arguments(parser)
    parser.add_argument(
        "--window",
        type=int,
        metavar="PIXELS",
        help="predict larger images in overlapping windows of this side, in pixels after "
        "data.resize; default: the windows of val in the config; 1024 if there are none and the "
        "resized image has more than 2048 x 1024 pixels, otherwise the whole image",
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=path_argument,
        metavar="IMAGE",
        help="image files, or folders, which stand for all images in them and in their subfolders",
    )
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    from segtune.training.distributed import Ranks
    from segtune.training.windows import Windows

    if arguments.window is not None:
        Windows.coarse(arguments.window)  # raises if no window can have this side
    check_output_folders("--out", arguments.out, arguments.labels, arguments.label_offset)
    config = load_config(arguments.config) if arguments.config else None
    inputs = find_inputs(arguments.images)
    for folder in filter(None, (_overlay_folder(arguments), arguments.labels)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    ranks = Ranks.join()
    try:
        return _predict_on(ranks, arguments, config, inputs)
    finally:
        ranks.close()


def _overlay_folder(arguments: argparse.Namespace) -> Path | None:
    if arguments.out:
        return Path(arguments.out)
    return None if arguments.labels else Path(DEFAULT_OUT)


def _predict_on(
    ranks: Ranks, arguments: argparse.Namespace, config: ExperimentConfig | None, inputs: Inputs
) -> int:
    """Predict on all ranks, each rank its part of the images. Return the exit code."""
    import torch

    from segtune.training.drawing import Outputs, write_predictions
    from segtune.training.label_images import label_offset

    model, config, _ = load_model(arguments.checkpoint, config, ranks.device)
    if ranks.is_first:
        for problem in inputs.refused:
            print_refusal(problem)
    outputs = Outputs(
        _overlay_folder(arguments),
        Path(arguments.labels) if arguments.labels else None,
        label_offset(config.data, arguments.label_offset),
    )
    images = inputs.images[ranks.rank :: ranks.world_size]
    problems = write_predictions(
        model, config, images, outputs, ranks.device, window=arguments.window
    )
    shows_bar = ranks.is_first and not is_quiet(arguments)
    counts = follow(problems, len(images), "predict", shows_bar=shows_bar)
    unread = int(ranks.sum(torch.tensor(counts, device=ranks.device)))
    if ranks.is_first:
        for line in outputs.describe(len(inputs.images) - unread, config.data):
            print(printable(line))
    refused = unread + len(inputs.refused)
    if not refused:
        return DONE
    if ranks.is_first:
        print(f"{refused} of {len(inputs.images) + len(inputs.refused)} inputs refused, see above")
    return PARTLY_REFUSED


if __name__ == "__main__":
    raise SystemExit(main())
