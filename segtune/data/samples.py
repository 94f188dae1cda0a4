"""The augmented training samples and the validation samples of a data set, one by one.

A training sample depends on (seed, epoch, index) and on nothing else.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.augment import Augmentation
from segtune.data.cache import DecodedPairs
from segtune.data.crop import resize_to_fit
from segtune.data.decode import as_stored_note
from segtune.data.layouts import class_names, open_split
from segtune.data.masks import check_mask_settings
from segtune.data.mixing import cutmix, mixup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleKey:
    """Which training sample to load."""

    epoch: int
    index: int
    partner: int  # index of the sample that cutmix or mixup may mix into it


def epoch_keys(seed: int, epoch: int, num_images: int) -> list[SampleKey]:
    """Return the keys of an epoch's samples in their order, which depends on (seed, epoch) only."""
    order = np.random.default_rng((seed, epoch)).permutation(num_images)
    partners = np.roll(order, 1)
    return [
        SampleKey(epoch, int(index), int(partner))
        for index, partner in zip(order, partners, strict=True)
    ]


class Sample(NamedTuple):
    """A training sample: image uint8 [h, w, 3], mask [h, w] uint8 or uint16.

    A sample that mixup has blended has the labels of its second image, too.
    """

    image: np.ndarray
    mask: np.ndarray
    second_mask: np.ndarray | None = None
    first_share: float = 1.0  # of the first image in the blend


class TrainSamples(Dataset):
    """The augmented training samples, by SampleKey: image uint8 [h, w, 3], mask [h, w] as read."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.decoded = _decoded_pairs(config.data, "train")
        self.augmentation = Augmentation(config.data, config.augment)
        # In memory that all loader processes share, so that only one of them warns.
        self._has_warned = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def with_augment(self, changes: Mapping[str, Any]) -> TrainSamples:
        """Return samples of the same images, with {dotted name: value} changed in the config.

        Only settings of `augment` may change: the images are not opened again.
        """
        other = copy.copy(self)
        other.config = self.config.override(changes)
        other.augmentation = Augmentation(other.config.data, other.config.augment)
        return other

    def __getitem__(self, key: SampleKey) -> Sample:
        image, mask = self._augmented(key.epoch, key.index, stream=0)
        mix = self.config.augment.mix
        rng = self._rng(key.epoch, key.index, stream=1)
        if mix.kind == "none" or rng.random() >= mix.prob:
            return Sample(image, mask)
        # The partner is any image of the epoch, not of this rank's batch. So the sample does not
        # depend on the number of ranks.
        partner = self._augmented(key.epoch, key.partner, stream=2)
        if mix.kind == "cutmix":
            return Sample(*cutmix(image, mask, partner, rng, mix.alpha))
        blend, first_share = mixup(image, partner[0], rng, mix.alpha)
        return Sample(blend, mask, partner[1], first_share)

    def _augmented(self, epoch: int, index: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        augmented = self.augmentation(*self.decoded[index], self._rng(epoch, index, stream))
        if self.decoded.first_as_stored and not self._has_warned.item():
            self._has_warned.fill_(1)
            log.warning("%s", as_stored_note("train", self.decoded.first_as_stored))
        return augmented

    def _rng(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, epoch, index, stream))


class ValSamples(Dataset):
    """The validation samples: resized image uint8 [h, w, 3], mask [H, W] as read, name."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.decoded = _decoded_pairs(config, "val")

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        image, mask = self.decoded[index]
        return resize_to_fit(image, self.config.resize), mask, self.decoded.pairs[index].name


def _decoded_pairs(config: DataConfig, split: str) -> DecodedPairs:
    check_mask_settings(config)
    return DecodedPairs(open_split(config, split), config, len(class_names(config)), split)
