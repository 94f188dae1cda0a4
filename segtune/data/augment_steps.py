"""The steps of the augmentation that a config switches on, each alone, and their samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from segtune.config.augment_config import AugmentConfig
from segtune.config.transforms import transform_parameters
from segtune.data.crop import resize_to_fit
from segtune.data.samples import Sample, SampleKey, TrainSamples

# A crop at scale 1, and nothing else.
NO_STEP: Mapping[str, Any] = {
    "augment.ratio": [1.0, 1.0],
    "augment.scales": None,
    "augment.flip": 0.0,
    "augment.photometric": False,
    "augment.rotate.prob": 0.0,
    "augment.cutout.prob": 0.0,
    "augment.erase.prob": 0.0,
    "augment.extra": [],
    "augment.mix.prob": 0.0,
}


class Step(NamedTuple):
    """A step of the augmentation: what it is called, its main setting, and what switches it on."""

    name: str
    detail: str
    changes: Mapping[str, Any]  # to the config


class Column(NamedTuple):
    """The samples of one step, for each of the keys that were asked for."""

    name: str
    detail: str
    samples: list[Sample]


def steps(augment: AugmentConfig) -> Iterator[Step]:
    """Yield every step that is switched on, alone and with probability 1, in the order of training.

    The crop alone comes first.
    """
    yield Step("crop", "at scale 1", NO_STEP)
    yield from _scale_steps(augment)
    if augment.flip:
        yield Step("flip", f"p {augment.flip:g}", {**NO_STEP, "augment.flip": 1.0})
    if augment.photometric:
        yield Step("photometric", "each part p 0.5", {**NO_STEP, "augment.photometric": True})
    for name in ("rotate", "cutout", "erase"):
        if prob := getattr(augment, name).prob:
            yield Step(name, f"p {prob:g}", {**NO_STEP, f"augment.{name}.prob": 1.0})
    for spec in augment.extra:
        prob = spec.get("p", transform_parameters(spec["name"])["p"])
        changes = {**NO_STEP, "augment.extra": [{**spec, "p": 1.0}]}
        yield Step(spec["name"], f"p {prob:g}", changes)
    if augment.mix.kind != "none" and augment.mix.prob:
        detail = f"p {augment.mix.prob:g}"
        yield Step(augment.mix.kind, detail, {**NO_STEP, "augment.mix.prob": 1.0})


def _scale_steps(augment: AugmentConfig) -> Iterator[Step]:
    if augment.scales is not None:
        detail = ", ".join(f"{scale:g}" for scale in augment.scales)
        yield Step("scale", detail, {**NO_STEP, "augment.scales": list(augment.scales)})
    elif augment.ratio != (1.0, 1.0):
        low, high = augment.ratio
        yield Step("scale", f"{low:g} to {high:g}", {**NO_STEP, "augment.ratio": [low, high]})


def columns(samples: TrainSamples, keys: Sequence[SampleKey]) -> Iterator[Column]:
    """Yield the whole images, the samples of each step alone, and those of all steps together.

    All columns have the random numbers that training has for these keys. The last one holds the
    samples of training themselves. Raise DataError if a file cannot be read.
    """
    yield Column("image", "data.resize", [_whole(samples, key.index) for key in keys])
    for step in steps(samples.config.augment):
        alone = samples.with_augment(step.changes)
        yield Column(step.name, step.detail, [alone[key] for key in keys])
    yield Column("all", "as in training", [samples[key] for key in keys])


def _whole(samples: TrainSamples, index: int) -> Sample:
    image, mask = samples.decoded[index]
    resized = resize_to_fit(image, samples.config.data.resize)
    size = (resized.shape[1], resized.shape[0])
    return Sample(resized, cv2.resize(np.array(mask), size, interpolation=cv2.INTER_NEAREST))
