"""The training and validation batches of one rank, from a config.

A sample depends on (seed, epoch, index) and on nothing else: not on the number of ranks or loader
processes, and not on torch's global generator, which is left untouched.

Images and labels stay small until they are on the device: float32 images and int64 labels would be
four and eight times the bytes to copy.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segtune.config.schedule_config import ScheduleConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.crop import fit_scale
from segtune.data.decode import as_stored_note, pair_size
from segtune.data.loader_errors import CollateOrError, ErrorsAsValues, raise_errors
from segtune.data.loader_limits import (
    MAX_AUTO_LOADERS,
    fitting_loaders,
    shorten_socket_paths,
)
from segtune.data.samples import Sample, SampleKey, TrainSamples, ValSamples, epoch_keys
from segtune.errors import ConfigError

log = logging.getLogger(__name__)

# ImageNet's statistics, in 0..255. All encoders of transformers and timm that we use were trained
# with them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# Images per validation batch: enough to keep a GPU busy, few enough for the logits of 150 classes.
VAL_BATCH = 8
# Pixels per validation batch on a CPU: a batch that does not fit into the CPU's caches takes one
# and a half times as long as its images one by one.
VAL_PIXELS_ON_CPU = 400_000


@dataclass
class Batch:
    """Training samples: images uint8 [B, 3, h, w], masks [B, h, w].

    The masks are uint8, or int32 if labels or ignore_index do not fit into 8 bits. The images are
    channels last in memory. If mixup has blended at least one sample, `second_masks` has the labels
    of the second image of each sample, and `first_share` float32 [B] the share of the first image
    in 0..1. A sample that is not blended has its own labels again, and the share 1.
    """

    images: Tensor
    masks: Tensor
    second_masks: Tensor | None = None
    first_share: Tensor | None = None

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory; the DataLoader calls this.

        A GPU copies from pinned memory asynchronously. Otherwise each step would wait for the copy.
        """
        return self._each(Tensor.pin_memory)

    def head(self, num_images: int) -> Batch:
        """Return the first `num_images` samples."""
        return self._each(lambda tensor: tensor[:num_images])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        second = None if self.second_masks is None else change(self.second_masks)
        share = None if self.first_share is None else change(self.first_share)
        return Batch(change(self.images), change(self.masks), second, share)


@dataclass
class ValBatch:
    """Validation images of one size, uint8 [B, 3, h, w].

    The labels [B, H, W] have the size of the image files, and the type of those in `Batch`.
    """

    images: Tensor
    masks: Tensor
    names: list[str]

    def pin_memory(self) -> ValBatch:
        """Return a copy in pinned memory, as `Batch.pin_memory` does."""
        return ValBatch(self.images.pin_memory(), self.masks.pin_memory(), self.names)


def normalize(images: Tensor) -> Tensor:
    """Return uint8 images [B, 3, h, w] as float32, minus ImageNet's mean, divided by its deviation.

    The result is on the same device.
    """
    mean, std = _mean_and_std(images.device)
    return (images.float() - mean) / std


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    # Cached: creating a tensor from numbers on the host would synchronise the GPU in every step.
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    return mean, std


class TrainLoader:
    """The training batches of one rank."""

    def __init__(
        self, config: ExperimentConfig, rank: int, world_size: int, *, cpus: float | None = None
    ) -> None:
        """`cpus`: CPUs of this rank, for `data.num_loaders: auto`; None: all cores of this process.

        Raises DataError if the data set is incomplete, ConfigError if the batch size does not fit
        the data set or the ranks.
        """
        samples = TrainSamples(config)
        for note in config.augment.notes() if rank == 0 else ():
            log.warning("%s", note)
        self.pairs = samples.decoded.pairs
        self.num_images = len(samples.decoded)
        _check_batch_size(config.schedule, world_size, self.num_images)
        self._batches = _TrainBatches(config, self.num_images, rank, world_size)
        self.steps_per_epoch = self._batches.num_steps
        self._samples = samples
        self._decoded = samples.decoded
        self._loader = _data_loader(
            samples,
            self._batches,
            _collate,
            config,
            num_loaders(config, cpus),
            batch=config.schedule.batch_size // (world_size * config.schedule.accumulate),
            prefetch=4,
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the micro-batches of an epoch, `accumulate` of them per optimiser step.

        Raises DataError if a file cannot be read, whichever process has tried it.
        """
        self._batches.epoch = epoch
        return raise_errors(iter(self._loader))

    def batches_of_step(self, epoch: int, index: int, rank: int) -> list[Batch]:
        """Return the micro-batches of `rank` in step number `index` of an epoch, from 0.

        This process loads them; raises DataError if a file cannot be read.
        """
        keys = self._batches.of_step(epoch, index, rank)
        return [_collate([self._samples[key] for key in part]) for part in keys]

    def images_of_step(self, epoch: int, index: int, rank: int) -> list[str]:
        """Return the names of the images of `rank` in a step, in their order. Reads none."""
        keys = self._batches.of_step(epoch, index, rank)
        return [self.pairs[key.index].name for part in keys for key in part]

    def flush(self) -> None:
        """Wait until every image that this process has decoded is in the cache.

        Loader processes do so when they end.
        """
        self._decoded.flush()


class ValLoader:
    """The validation images of one rank, without augmentation, in batches of one image size.

    Over all ranks, each image comes exactly once.
    """

    def __init__(
        self, config: ExperimentConfig, rank: int, world_size: int, *, cpus: float | None = None
    ) -> None:
        """`cpus`: as in `TrainLoader`. Raises DataError if the data set is incomplete."""
        samples = ValSamples(config.data)
        self.pairs = samples.decoded.pairs
        self.num_images = len(samples.decoded)
        batches = _val_batches(samples, rank, world_size)
        self._loader = _data_loader(
            samples,
            batches,
            _collate_val,
            config,
            num_loaders(config, cpus),
            batch=VAL_BATCH,
            prefetch=2,
        )

    def __iter__(self) -> Iterator[ValBatch]:
        """Yield every image of this rank once. Raises DataError if a file cannot be read."""
        return raise_errors(iter(self._loader))


def num_loaders(config: ExperimentConfig, cpus: float | None = None) -> int:
    """Return the number of loader processes of one rank.

    This is `data.num_loaders`. If that is auto, it is the number of CPUs of the rank, less one for
    the rank itself, and at most MAX_AUTO_LOADERS. `cpus` None: all cores of this process.
    """
    if config.data.num_loaders != "auto":
        return config.data.num_loaders
    cores = len(os.sched_getaffinity(0)) if cpus is None else int(cpus)
    return max(0, min(MAX_AUTO_LOADERS, cores - 1))


def _check_batch_size(schedule: ScheduleConfig, world_size: int, num_images: int) -> None:
    parts = world_size * schedule.accumulate
    largest = num_images // parts * parts
    near = min(max(1, round(schedule.batch_size / parts)) * parts, largest)
    problem = ""
    if schedule.batch_size > num_images:
        problem = f"is more than the {num_images} training images"
    elif schedule.batch_size % parts:
        problem = f"does not divide among {world_size} workers x accumulate {schedule.accumulate}"
    if problem:
        way_out = f"the nearest is {near}" if near else _fewer_parts(num_images, schedule, parts)
        raise ConfigError([f"schedule.batch_size: {schedule.batch_size} {problem}; {way_out}"])


def _fewer_parts(num_images: int, schedule: ScheduleConfig, parts: int) -> str:
    text = f"{num_images} training images are fewer than these {parts} parts of a batch"
    return f"{text}, so use fewer workers" + (" or accumulate 1" if schedule.accumulate > 1 else "")


def _data_loader(
    samples: Dataset,
    batches: Sampler[list[SampleKey]] | Sequence[list[int]],
    collate: Callable[..., Batch | ValBatch],
    config: ExperimentConfig,
    loaders: int,
    *,
    batch: int,
    prefetch: int,
) -> DataLoader:
    # Three channels and a label. Validation images may be larger; this is an estimate.
    batch_bytes = batch * math.prod(config.data.crop) * 4
    loaders = fitting_loaders(loaders, batch_bytes, prefetch)
    if loaders:
        shorten_socket_paths()
    return DataLoader(
        ErrorsAsValues(samples),
        batch_sampler=batches,
        num_workers=loaders,
        collate_fn=CollateOrError(collate),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=loaders > 0,
        prefetch_factor=prefetch if loaders else None,
        worker_init_fn=_init_loader,
        # A DataLoader draws a seed for its processes whenever an iterator is made. Without this, it
        # would draw from torch's global generator, and so change the model's random numbers.
        generator=torch.Generator().manual_seed(config.seed),
    )


def _init_loader(_: int) -> None:
    # Otherwise OpenCV starts one thread per core in each loader process.
    cv2.setNumThreads(0)


class _TrainBatches(Sampler[list[SampleKey]]):
    """One rank's micro-batches of an epoch: its part of each global batch.

    The global batches are cut from a permutation that depends on (seed, epoch) only.
    """

    def __init__(
        self, config: ExperimentConfig, num_images: int, rank: int, world_size: int
    ) -> None:
        self.epoch = 1
        self.seed = config.seed
        self.num_images = num_images
        self.schedule = config.schedule
        self.batch_size = config.schedule.batch_size
        self.accumulate = config.schedule.accumulate
        self.rank = rank
        self.world_size = world_size

    @property
    def num_steps(self) -> int:
        """Optimiser steps per epoch; images that do not fill a global batch are left out."""
        return self.num_images // self.batch_size

    @property
    def num_steps_now(self) -> int:
        """Optimiser steps of the current epoch."""
        return self.schedule.steps_of_epoch(self.epoch, self.num_steps)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys = epoch_keys(self.seed, self.epoch, self.num_images)
        for step in range(self.num_steps_now):
            yield from self._parts(keys, step, self.rank)

    def of_step(self, epoch: int, index: int, rank: int) -> list[list[SampleKey]]:
        """Return the keys of the micro-batches of one rank in step number `index` of an epoch."""
        return self._parts(epoch_keys(self.seed, epoch, self.num_images), index, rank)

    def _parts(self, keys: list[SampleKey], step: int, rank: int) -> list[list[SampleKey]]:
        size = self.batch_size // (self.accumulate * self.world_size)
        first = step * self.batch_size + rank * size
        starts = [first + part * self.world_size * size for part in range(self.accumulate)]
        return [keys[start : start + size] for start in starts]

    def __len__(self) -> int:
        return self.num_steps_now * self.accumulate


def _val_batches(samples: ValSamples, rank: int, world_size: int) -> list[list[int]]:
    """Return this rank's batches of indices; the images of a batch have the same size.

    Reads headers only. Raises DataError if one cannot be read.
    """
    indices_by_size: dict[tuple[int, int], list[int]] = {}
    as_stored: list[str] = []
    for index in range(rank, len(samples.decoded), world_size):
        pair = samples.decoded.pairs[index]
        size = pair_size(pair, samples.config)
        indices_by_size.setdefault((size.width, size.height), []).append(index)
        as_stored += [pair.image] if size.is_as_stored else []
    if as_stored:
        log.warning("%s", as_stored_note("val", as_stored[0], len(as_stored)))
    batches = []
    for (width, height), indices in indices_by_size.items():
        scale = fit_scale(height, width, samples.config.resize)
        size = val_batch_size(round(width * height * scale**2))
        batches += [indices[i : i + size] for i in range(0, len(indices), size)]
    return batches


def val_batch_size(num_pixels: int) -> int:
    """Return the number of images in a validation batch, for resized images of `num_pixels`."""
    if torch.cuda.is_available():
        return VAL_BATCH
    # An image of 1 x 20,000 pixels, resized to fit 64 x 64, has less than half a pixel.
    return max(1, min(VAL_BATCH, VAL_PIXELS_ON_CPU // max(1, num_pixels)))


def _stack(images: Sequence[np.ndarray]) -> Tensor:
    # The memory stays channels last: a copy to channels first took as long as a crop.
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _stack_masks(masks: Sequence[np.ndarray]) -> Tensor:
    # uint8 as it is. torch has few operations for uint16, so more than 255 classes are int32.
    stacked = np.stack(masks)
    return torch.from_numpy(stacked if stacked.dtype == np.uint8 else stacked.astype(np.int32))


def _collate(samples: list[Sample]) -> Batch:
    images = _stack([sample.image for sample in samples])
    masks = _stack_masks([sample.mask for sample in samples])
    if all(sample.second_mask is None for sample in samples):
        return Batch(images, masks)
    second_masks = [
        sample.mask if sample.second_mask is None else sample.second_mask for sample in samples
    ]
    first_share = torch.tensor([sample.first_share for sample in samples], dtype=torch.float32)
    return Batch(images, masks, _stack_masks(second_masks), first_share)


def _collate_val(samples: list[tuple[np.ndarray, np.ndarray, str]]) -> ValBatch:
    images, masks, names = zip(*samples, strict=True)
    return ValBatch(_stack(images), _stack_masks(masks), list(names))
