"""`segtune predict`: draw a checkpoint's predictions over images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import DONE, add_checkpoint_argument, path_argument, run_command
from segtune.training.prediction import images_in, load_model, write_overlays


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune predict",
        description="Blend each image with the colours of its predicted classes.",
    )
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--out",
        default="predictions",
        type=path_argument,
        metavar="DIR",
        help="folder for the overlays (default: predictions)",
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=path_argument,
        metavar="IMAGE",
        help="image files, or folders of images",
    )
    arguments = parser.parse_args(argv)
    return run_command(lambda: _predict(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    from segtune.training.distributed import Ranks

    images = images_in(arguments.images)
    device = Ranks.join().device
    model, config, _ = load_model(arguments.checkpoint, None, device)
    count = write_overlays(model, config, images, Path(arguments.out), device)
    print(f"{count} overlays in {arguments.out}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
