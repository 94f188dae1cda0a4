"""`segtune data show`: training images with their masks, before and after each augmentation."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.cli import add_set_argument, path_argument
from segtune.config.schema import ExperimentConfig, load_config
from segtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from segtune.data.augment_steps import Column
    from segtune.data.samples import Sample
    from segtune.reporting.contact_sheet import SheetColumn, Tile

DEFAULT_OUT = "data_show.png"
MAX_IMAGES = 32


def add_parser(commands: Any) -> None:
    """Add `show` to the subcommands of `segtune data`."""
    show = commands.add_parser(
        "show",
        help="draw training images with their masks, before and after each augmentation",
        description="Write a PNG with the first images that training reads. A column shows each "
        "step of the augmentation that the config switches on alone, always applied; the last "
        "column shows the samples of training, with all steps and their probabilities.",
    )
    show.add_argument("config", help="config file")
    show.add_argument(
        "--out",
        default=DEFAULT_OUT,
        type=path_argument,
        metavar="FILE",
        help=f"PNG file to write (default: {DEFAULT_OUT}); a file that segtune has not written is "
        "never replaced",
    )
    show.add_argument(
        "--images", type=int, default=4, metavar="N", help="training images (default: 4)"
    )
    add_set_argument(show)
    show.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from segtune.data.augment_steps import columns
    from segtune.data.samples import TrainSamples, epoch_keys
    from segtune.training.overlays import write_overlay

    if not 1 <= arguments.images <= MAX_IMAGES:
        allowed = f"allowed is a number from 1 to {MAX_IMAGES}"
        raise ConfigError([f"--images: {allowed}; got {arguments.images}"])
    target = Path(arguments.out)
    replaces = _check_target(target)
    config = load_config(arguments.config, arguments.set)
    samples = TrainSamples(config)
    num_images = len(samples.decoded)
    keys = epoch_keys(config.seed, 1, num_images)[: arguments.images]
    drawn = list(columns(samples, keys))
    names = [samples.decoded.pairs[key.index].name for key in keys]
    write_overlay(target, _sheet(config, drawn, names)[..., ::-1])
    steps = ", ".join(column.name for column in drawn)
    done = f"{target} (replaced)" if replaces else str(target)
    print(f"{done}: {len(keys)} of {num_images} training images; columns: {steps}")
    return 0


def _check_target(target: Path) -> bool:
    """Return whether `target` is an image that segtune has written; raise DataError for others."""
    from segtune.training.overlays import is_overlay

    if target.suffix.lower() != ".png":
        raise ConfigError([f"--out: {target}: the sheet is a PNG; write {target.stem}.png"])
    if not os.path.lexists(target):
        return False
    if not is_overlay(target):
        raise DataError(
            f"--out: {target} exists, and segtune has not written it; choose another name, or "
            "remove that file"
        )
    return True


def _sheet(config: ExperimentConfig, drawn: Sequence[Column], names: Sequence[str]) -> np.ndarray:
    """Return the contact sheet as RGB uint8 [H, W, 3]."""
    import numpy as np

    from segtune.data.label_colours import drawing_colours
    from segtune.data.layouts import class_names
    from segtune.reporting.contact_sheet import class_legend, draw_sheet

    classes = class_names(config.data)
    colours = drawing_colours(config.data, classes, len(classes))
    ignore_index = config.data.ignore_index
    sheet_columns = [_sheet_column(column, colours, ignore_index) for column in drawn]
    masks = [sample.mask for column in drawn for sample in column.samples]
    occurring = sorted(set().union(*(np.unique(mask).tolist() for mask in masks)))
    legend = class_legend(classes, colours, occurring, ignore_index)
    return draw_sheet(sheet_columns, names, legend)


def _sheet_column(column: Column, colours: np.ndarray, ignore_index: int) -> SheetColumn:
    from segtune.reporting.contact_sheet import SheetColumn

    tiles = [_tile(sample, colours, ignore_index) for sample in column.samples]
    return SheetColumn(column.name, column.detail, tiles)


def _tile(sample: Sample, colours: np.ndarray, ignore_index: int) -> Tile:
    """Return a sample as a tile; the colours of a blended sample are blended, too."""
    from segtune.data.mixing import blended
    from segtune.reporting.contact_sheet import Tile

    mask_colours = _coloured(sample.mask, colours, ignore_index)
    ignored = sample.mask == ignore_index
    if sample.second_mask is not None:
        second = _coloured(sample.second_mask, colours, ignore_index)
        mask_colours = blended(mask_colours, second, sample.first_share)
        ignored = ignored & (sample.second_mask == ignore_index)
    return Tile(sample.image, mask_colours, ignored)


def _coloured(mask: np.ndarray, colours: np.ndarray, ignore_index: int) -> np.ndarray:
    """Return the class colours of a mask; ignored pixels are white."""
    import numpy as np

    ignored = mask == ignore_index
    result = colours[np.where(ignored, 0, mask)]
    result[ignored] = 255
    return result
