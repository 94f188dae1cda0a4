"""From a config to the batches of one rank. What a sample looks like depends on (seed, epoch, index) and on nothing else.

Images and labels stay uint8 until they are on the device: a quarter and an eighth of the bytes to copy.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segtune.config.schema import ExperimentConfig
from segtune.data.augment import Augmentation, cutmix, fit_scale, resize_to_fit
from segtune.data.cache import DecodedPairs
from segtune.data.layouts import class_names, open_split
from segtune.errors import ConfigError

# ImageNet's statistics, which every encoder of transformers and timm that we use was trained with; in 0..255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# Images per validation batch: enough to keep a GPU busy, few enough for the logits of 150 classes.
VAL_BATCH = 8
# And pixels, on a processor: a batch that leaves its caches takes one and a half times as long as its images by themselves.
VAL_PIXELS_ON_CPU = 400_000

# One sample to load: epoch, index, and the index of the sample that may be mixed into it.
Ticket = tuple[int, int, int]


@dataclass
class Batch:
    """Training samples: images uint8 [B, 3, h, w], channels last in memory; masks uint8 [B, h, w]."""

    images: Tensor
    masks: Tensor

    def pin_memory(self) -> Batch:
        """Returns it in memory that a GPU reads by itself; the DataLoader asks for it. Otherwise each step would wait for the copy."""
        return Batch(self.images.pin_memory(), self.masks.pin_memory())


@dataclass
class ValBatch:
    """Validation images of one size, uint8 [B, 3, h, w], with labels uint8 [B, H, W] at their original size."""

    images: Tensor
    masks: Tensor
    names: list[str]

    def pin_memory(self) -> ValBatch:
        """As `Batch.pin_memory`."""
        return ValBatch(self.images.pin_memory(), self.masks.pin_memory(), self.names)


def normalize(images: Tensor) -> Tensor:
    """Returns uint8 images [B, 3, h, w] as float32 with ImageNet's mean and deviation, on the same device."""
    mean, std = _statistics(images.device)
    return (images.float() - mean) / std


@functools.cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    # Once: a tensor made from numbers on the host would make the device wait in every step.
    return torch.tensor(MEAN, device=device).view(1, 3, 1, 1), torch.tensor(
        STD, device=device
    ).view(1, 3, 1, 1)


class TrainLoader:
    """The training batches of one rank."""

    def __init__(self, config: ExperimentConfig, rank: int, world_size: int) -> None:
        """Raises DataError for a data set that is incomplete, ConfigError for batches that cannot be formed."""
        samples = _TrainSamples(config)
        schedule = config.schedule
        self.num_images = len(samples.pairs)
        self.steps_per_epoch = self.num_images // schedule.batch_size
        parts = world_size * schedule.accumulate
        if schedule.batch_size % parts:
            near = max(1, schedule.batch_size // parts) * parts
            raise ConfigError(
                [
                    f"schedule.batch_size: {schedule.batch_size} does not divide among {world_size} workers x accumulate {schedule.accumulate}; the nearest is {near}"
                ]
            )
        if not self.steps_per_epoch:
            raise ConfigError(
                [
                    f"schedule.batch_size: {schedule.batch_size} is more than the {self.num_images} training images"
                ]
            )
        self._order = _Order(config, self.num_images, self.steps_per_epoch, rank, world_size)
        loaders = num_loaders(config)
        self._loader = DataLoader(
            samples,
            batch_sampler=self._order,
            num_workers=loaders,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=loaders > 0,
            prefetch_factor=4 if loaders else None,
            worker_init_fn=_start_loader,
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yields the micro-batches of an epoch, `accumulate` of them per optimiser step."""
        self._order.epoch = epoch
        return iter(self._loader)

    def flush(self) -> None:
        """Waits until every image that this process has decoded is there for others; loader processes do so at their end."""
        cast(_TrainSamples, self._loader.dataset).pairs.flush()


class ValLoader:
    """The validation images of one rank: over all ranks each image once, in batches of one size, without augmentation."""

    def __init__(self, config: ExperimentConfig, rank: int, world_size: int) -> None:
        samples = _ValSamples(config)
        self.num_images = len(samples.pairs)
        loaders = num_loaders(config)
        self._loader = DataLoader(
            samples,
            batch_sampler=_by_size(samples, rank, world_size),
            num_workers=loaders,
            collate_fn=_collate_val,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=loaders > 0,
            worker_init_fn=_start_loader,
        )

    def __iter__(self) -> Iterator[ValBatch]:
        """Yields every image of this rank once."""
        return iter(self._loader)


class _TrainSamples(Dataset):
    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.pairs = DecodedPairs(
            open_split(config.data, "train"), config.data, len(class_names(config.data)), "train"
        )
        self.augmentation = Augmentation(config.data, config.augment)

    def __getitem__(self, ticket: Ticket) -> tuple[np.ndarray, np.ndarray]:
        epoch, index, partner = ticket
        image, mask = self._augmented(epoch, index, stream=0)
        mix = self.config.augment.mix
        rng = self._rng(epoch, index, stream=1)
        if mix.kind == "cutmix" and rng.random() < mix.prob:
            # The partner comes from the whole epoch, not from this rank's batch: so ranks make no difference.
            return cutmix(image, mask, self._augmented(epoch, partner, stream=2), rng)
        return image, mask

    def _augmented(self, epoch: int, index: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        return self.augmentation(*self.pairs[index], self._rng(epoch, index, stream))

    def _rng(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, epoch, index, stream))


class _ValSamples(Dataset):
    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.decoded = DecodedPairs(
            open_split(config.data, "val"), config.data, len(class_names(config.data)), "val"
        )
        self.pairs = self.decoded.pairs

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        image, mask = self.decoded[index]
        return resize_to_fit(image, self.config.data.resize), mask, self.pairs[index].name


class _Order(Sampler):
    """The order of an epoch: a permutation from (seed, epoch), of whose global batches each rank takes its part."""

    def __init__(
        self, config: ExperimentConfig, num_images: int, steps: int, rank: int, world_size: int
    ) -> None:
        self.epoch = 1
        self.seed, self.num_images, self.steps = config.seed, num_images, steps
        self.batch, self.accumulate = config.schedule.batch_size, config.schedule.accumulate
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[Ticket]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_images)
        partners = np.roll(order, 1)
        size = self.batch // (self.accumulate * self.world_size)
        for step in range(self.steps):
            for part in range(self.accumulate):
                start = step * self.batch + (part * self.world_size + self.rank) * size
                yield [
                    (self.epoch, int(order[i]), int(partners[i]))
                    for i in range(start, start + size)
                ]

    def __len__(self) -> int:
        return self.steps * self.accumulate


def num_loaders(config: ExperimentConfig) -> int:
    """Returns the loader processes of one rank: as the config says, or the cores that are left over, at most 4."""
    if config.data.num_loaders != "auto":
        return config.data.num_loaders
    cores = float(os.environ.get("SEGTUNE_CPUS_PER_RANK") or len(os.sched_getaffinity(0)))
    return max(0, min(4, int(cores) - 1))


def _start_loader(_: int) -> None:
    # OpenCV would start a thread per core in each loader.
    cv2.setNumThreads(0)


def _by_size(samples: _ValSamples, rank: int, world_size: int) -> list[list[int]]:
    """Returns batches of indices whose images have one size, before and after resizing; reads image headers only."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index in range(rank, len(samples.pairs), world_size):
        with Image.open(samples.pairs[index].image) as image:
            groups.setdefault(image.size, []).append(index)
    batches = []
    for (width, height), group in groups.items():
        count = val_batch(
            round(width * height * fit_scale(height, width, samples.config.data.resize) ** 2)
        )
        batches += [group[i : i + count] for i in range(0, len(group), count)]
    return batches


def val_batch(pixels: int) -> int:
    """Returns how many images of so many pixels make a validation batch."""
    return (
        VAL_BATCH
        if torch.cuda.is_available()
        else max(1, min(VAL_BATCH, VAL_PIXELS_ON_CPU // pixels))
    )


def _stack(images: list[np.ndarray]) -> Tensor:
    # As they lie in memory: turning them into planes took as long as a crop.
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    images, masks = zip(*samples, strict=True)
    return Batch(_stack(list(images)), torch.from_numpy(np.stack(masks)))


def _collate_val(samples: list[tuple[np.ndarray, np.ndarray, str]]) -> ValBatch:
    images, masks, names = zip(*samples, strict=True)
    return ValBatch(_stack(list(images)), torch.from_numpy(np.stack(masks)), list(names))
