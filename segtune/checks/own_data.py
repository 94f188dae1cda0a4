"""The training data of a config for the checks: its own samples or a stand-in.

The stand-in is a few generated shapes, if this machine does not have the data set. The pipeline is
the real one in either case.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from segtune.config.schema import ExperimentConfig
from segtune.data.samples import TrainSamples
from segtune.data.shapes import ShapesSpec, generate_if_needed
from segtune.data.value_range import find_value_range
from segtune.errors import DataError

log = logging.getLogger(__name__)

STAND_IN = ShapesSpec(num_train=12, num_val=2, size=96)
# Settings of `data` that describe files, with the values for generated shapes.
SHAPES_FILES = {
    "data.layout": "shapes",
    "data.classes": "shapes",
    "data.train": ["train"],
    "data.val": "val",
    "data.images": None,
    "data.masks": None,
    "data.image_suffix": "",
    "data.mask_suffix": "",
    "data.palette": None,
    "data.label_map": None,
    "data.reduce_zero_label": None,
    "data.ignore_index": 255,
    "data.num_images": None,
}


@dataclass(frozen=True)
class OwnSamples:
    """Training samples for the checks, not cached."""

    samples: TrainSamples
    is_own: bool  # False: of generated shapes, because this machine does not have the data set


@contextmanager
def own_samples(config: ExperimentConfig) -> Iterator[OwnSamples]:
    """Open the training samples of a config, or of generated shapes if they are not here."""
    uncached = config.override({"data.cache": "none"})
    if (samples := _samples_here(uncached)) is not None:
        yield OwnSamples(samples, True)
        return
    with TemporaryDirectory(prefix="segtune-check-") as folder:
        root = Path(folder) / "shapes"
        generate_if_needed(root, STAND_IN)
        place = {**SHAPES_FILES, "data.root": str(root)}
        yield OwnSamples(TrainSamples(uncached.override(place)), False)


def _samples_here(config: ExperimentConfig) -> TrainSamples | None:
    """Return the samples of the config's own data set, or None if it is not on this machine."""
    if not Path(config.data.root).is_dir():
        return None
    try:
        value_range = find_value_range(config.data, is_quiet=True)
        return TrainSamples(config.override({"data.value_range": value_range}))
    except DataError as error:
        log.warning("data set not usable, so generated shapes stand in for it: %s", error)
        return None
