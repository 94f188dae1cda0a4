"""`segtune predict`: colour overlays of a checkpoint's predictions on images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import run_command

if TYPE_CHECKING:
    pass
from segtune.training.prediction import images_in, load_model, write_overlays


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune predict", description="Write colour overlays of predictions."
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a checkpoint, or the folder of a run or trial (its best one)",
    )
    parser.add_argument(
        "--out", default="predictions", help="folder of the overlays (default: predictions)"
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, or folders of images"
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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
