"""`segtune predict`: draw a checkpoint's predictions over images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import (
    DONE,
    PARTLY_REFUSED,
    add_checkpoint_argument,
    path_argument,
    run_command,
)
from segtune.config.schema import load_config
from segtune.reporting.progress import follow, print_refusal, printable
from segtune.training.overlays import find_inputs
from segtune.training.prediction import draw_overlays, load_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune predict",
        description="Blend each image with the colours of its predicted classes. An image that "
        "cannot be read is refused in one line; the others are predicted, and the exit code is "
        f"{PARTLY_REFUSED}.",
    )
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="config file; default: the config in the checkpoint"
    )
    parser.add_argument(
        "--out",
        default="predictions",
        type=path_argument,
        metavar="DIR",
        help="folder for the overlays (default: predictions); a file that segtune has not written "
        "is never replaced",
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="PIXELS",
        help="predict larger images in overlapping windows of this side, in pixels after "
        "data.resize; default: 1024 if the resized image has more than 2048 x 1024 pixels, "
        "otherwise the whole image",
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=path_argument,
        metavar="IMAGE",
        help="image files, or folders, which stand for all images in them and in their subfolders",
    )
    arguments = parser.parse_args(argv)
    return run_command(lambda: _predict(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    import torch

    from segtune.training.distributed import Ranks
    from segtune.training.tta import AugmentedInference

    AugmentedInference(arguments.window)  # raises if no window can have this side
    config = load_config(arguments.config) if arguments.config else None
    inputs = find_inputs(arguments.images)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    ranks = Ranks.join()
    try:
        model, config, _ = load_model(arguments.checkpoint, config, ranks.device)
        if ranks.is_first:
            for problem in inputs.refused:
                print_refusal(problem)
        images = inputs.images[ranks.rank :: ranks.world_size]
        problems = draw_overlays(model, config, images, out, ranks.device, arguments.window)
        counts = follow(problems, len(images), "predict", shows_bar=ranks.is_first)
        unread = int(ranks.sum(torch.tensor(counts, device=ranks.device)))
    finally:
        ranks.close()
    if ranks.is_first:
        print(f"{len(inputs.images) - unread} overlays in {printable(str(out))}")
    refused = unread + len(inputs.refused)
    if not refused:
        return DONE
    if ranks.is_first:
        print(f"{refused} of {len(inputs.images) + len(inputs.refused)} inputs refused, see above")
    return PARTLY_REFUSED


if __name__ == "__main__":
    raise SystemExit(main())
