"""What a config makes: batches, network, loss, optimiser, schedule, windows.

Each is built with the code that a training run uses, but small: images of 64 pixels, two of them.
Observations of two configs that are the same mean that training would be the same in this part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from segtune.checks.data_sizes import DataSizes
from segtune.checks.findings import percent
from segtune.config.data_config import DataConfig
from segtune.config.loss_config import LossConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.layouts import open_split
from segtune.losses.segmentation import build_loss
from segtune.models.build import head_parameters
from segtune.models.segmentation_model import SegmentationModel
from segtune.training.distributed import Ranks
from segtune.training.network import build_network, seeded
from segtune.training.optimizer import build_optimizer
from segtune.training.precision import dtype_name, training_dtype
from segtune.training.schedule import lr_factor
from segtune.training.weight_average import WeightAverage
from segtune.training.windows import Windows

if TYPE_CHECKING:
    from segtune.checks.own_data import OwnSamples

NUM_SAMPLES = 16  # of the pipeline; a probability of 0.2 shows in them with 97 %
SIDE = 64  # pixels of an image and of its labels
NUM_LOGITS = 16  # along a side: a quarter, as most models have
# Without the data set.
USUAL_IMAGES = 1000
MAX_AVERAGED = 20_000  # steps of a moving average; one takes about 0.01 ms
MAX_RATES = 500
LARGE_NORM = 1e4  # a gradient that every limit clips


@dataclass(frozen=True)
class Observation:
    """One thing that a config makes. Two that are the `same` train alike."""

    what: str  # for example "loss"
    value: str  # in words, for a message
    exact: str = ""  # text or a digest that has to be equal
    numbers: np.ndarray | None = None
    tolerance: float = 0.0  # relative to the largest number

    def same(self, other: Observation) -> bool:
        """Whether two observations of the same thing are equal, but for rounding."""
        if self.exact != other.exact or self.numbers is None or other.numbers is None:
            return self.exact == other.exact and self.numbers is other.numbers
        if self.numbers.shape != other.numbers.shape:
            return False
        largest = float(np.abs(self.numbers).max(initial=0.0))
        # nan is equal to nan: two losses that are not finite do not differ.
        return bool(
            np.allclose(
                self.numbers,
                other.numbers,
                rtol=self.tolerance,
                atol=self.tolerance * largest,
                equal_nan=True,
            )
        )


class Workbench:
    """Makes the observations of a study's configs. Networks are shared between settings."""

    def __init__(
        self, sizes: DataSizes, own: OwnSamples | None, num_classes: int, steps: int
    ) -> None:
        """`own` is needed for the parts batch and files only.

        `steps` are the optimiser steps of a trial, at which moving averages are compared.
        """
        self.sizes = sizes
        self.own = own
        self.steps = steps
        self.num_classes = num_classes
        self._networks: dict[str, SegmentationModel] = {}
        self._seen: dict[str, Observation] = {}

    def observe(self, part: str, config: ExperimentConfig) -> Iterator[Observation]:
        """Yield the observations of a part of training, one after the other.

        `part` is the name of a method without its underscore. Raise ConfigError or WeightsError if
        the config cannot be built, and DataError for a file that cannot be read.
        """
        if part == "batch":
            yield from self._batch(config)
        else:
            yield getattr(self, f"_{part}")(config)

    def _batch(self, config: ExperimentConfig) -> Iterator[Observation]:
        """Yield the samples of the pipeline: image, labels, and the labels mixed into them."""
        from segtune.data.samples import epoch_keys  # imports albumentations, which takes a second

        assert self.own
        augment = config.augment.dump()
        changed = {"augment": augment, "seed": config.seed}
        changed |= {name: config.get(name) for name in ("data.resize", "data.crop")}
        samples = self.own.samples.with_augment(changed)
        keys = epoch_keys(config.seed, 1, len(samples.decoded))
        for number in range(NUM_SAMPLES):
            # A small data set is repeated, augmented as in later epochs.
            epoch, index = divmod(number, len(keys))
            key = type(keys[0])(epoch + 1, keys[index].index, keys[index].partner)
            sample = samples[key]
            digest = hashlib.sha1(f"{sample.mask.shape} {sample.first_share}".encode())
            for array in (sample.image, sample.mask, sample.second_mask):
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
            height, width = sample.mask.shape
            ignored = float((sample.mask == samples.config.data.ignore_index).mean())
            words = (
                f"sample {number + 1} of {height}x{width} pixels, mean {sample.image.mean():.1f}, "
                f"{percent(ignored)} ignored"
            )
            yield Observation("batch", words, digest.hexdigest())

    def _files(self, config: ExperimentConfig) -> Observation:
        pairs = [pair.name for pair in open_split(config.data, "train")]
        return Observation("list of images", f"{len(pairs)} images", "\n".join(pairs))

    def _loss(self, config: ExperimentConfig) -> Observation:
        """Observe value and gradient of the loss on random logits and labels of all classes."""
        logits, labels = example_logits(self.num_classes, config.data)
        logits.requires_grad_()
        loss = build_loss(
            _weighted(config, self.num_classes), self.num_classes, config.data.ignore_index
        )
        total = loss(logits, labels)["total"]
        total.backward()
        assert logits.grad is not None
        norm, value = float(logits.grad.norm()), total.item()
        sizes = np.log([norm + 1e-12, abs(value) + 1e-12])
        # The gradient's direction and its size: single entries are a thousandth of the value.
        numbers = np.concatenate([logits.grad.numpy().ravel() / (norm + 1e-12), sizes])
        return Observation("loss", f"{value:.4g}, gradient {norm:.3g}", "", numbers, 1e-5)

    def _weights(self, config: ExperimentConfig) -> Observation:
        """Observe the network with the pretrained weights, which may have to be downloaded."""
        return self._network_of(config)

    def _network(self, config: ExperimentConfig) -> Observation:
        """Observe the network with random weights."""
        return self._network_of(config.override({"model.weights": None}))

    def _network_of(self, config: ExperimentConfig) -> Observation:
        """Observe structure, weights, and logits in training mode, where dropout acts."""
        key = _key(config.model.dump(), config.seed, config.schedule.batch_size)
        if key in self._seen:
            return self._seen[key]
        network = self._build(config)
        images = torch.linspace(-2, 2, 2 * 3 * SIDE * SIDE).view(2, 3, SIDE, SIDE)
        with seeded(0, torch.device("cpu")), torch.no_grad():
            logits = network.train()(images).float().numpy()
        parameters = [p.detach() for p in network.parameters()]
        weights = [[float(p.double().sum()), float(p.abs().sum())] for p in parameters]
        size = sum(p.numel() for p in network.parameters()) / 1e6
        numbers = np.concatenate([np.ravel(weights), logits.ravel()])
        self._seen[key] = Observation(
            "network", f"{size:.2f} M parameters", repr(network), numbers, 1e-6
        )
        return self._seen[key]

    def _optimizer(self, config: ExperimentConfig) -> Observation:
        """Observe the optimiser's class, its groups and its momentum."""
        optimizer = self._make_optimizer(config)
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            | {"parameters": sum(p.numel() for p in group["params"])}
            for group in optimizer.param_groups
        ]
        rates = [group["lr"] for group in groups]
        decay = max(group["weight_decay"] for group in groups)
        words = f"rates {min(rates):.3g} to {max(rates):.3g}, weight decay {decay:.3g}"
        name = type(optimizer).__name__
        return Observation("optimiser", f"{name}, {words}", f"{name} {groups}")

    def _precision(self, config: ExperimentConfig) -> Observation:
        name = dtype_name(training_dtype(config.optim.precision, Ranks().device))
        return Observation("precision", name, name)

    def _clipping(self, config: ExperimentConfig) -> Observation:
        """Observe what clipping leaves of a gradient of norm LARGE_NORM."""
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.full((1,), LARGE_NORM)
        limit = config.optim.clip_norm
        if limit is not None:
            norm = nn.utils.get_total_norm([weight.grad])
            nn.utils.clip_grads_with_norm_([weight], limit, norm)
        clipped = float(weight.grad)
        words = f"a gradient of norm {LARGE_NORM:g} becomes {clipped:.3g}"
        return Observation("clipping", words, "", np.array([clipped]), 1e-6)

    def _average(self, config: ExperimentConfig) -> Observation:
        """Observe the moving average of a weight that rises by 1 at each step of a trial."""
        steps = min(self.steps, MAX_AVERAGED)
        weight = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(weight.weight)
        average = WeightAverage(weight, config.optim.ema) if config.optim.ema else None
        for step in range(1, steps + 1):
            with torch.no_grad():
                weight.weight += 1
            if average:
                average.update(step)
        with average.applied() if average else nullcontext():
            value = float(weight.weight.detach())
        words = f"{steps - value:.1f} of {steps} steps behind"
        return Observation("average of the weights", words, "", np.array([value]), 1e-6)

    def _schedule(self, config: ExperimentConfig) -> Observation:
        """Observe the rate of up to MAX_RATES steps, the length, and when it is validated."""
        schedule = config.schedule
        steps_per_epoch = self.sizes.steps_per_epoch(config) or max(
            1, USUAL_IMAGES // schedule.batch_size
        )
        total = schedule.total_steps(steps_per_epoch)
        stride = max(1, total // MAX_RATES)
        steps = sorted({*range(0, total, stride), 0, 1, total - 1})
        rates = [lr_factor(config, step, steps_per_epoch) for step in steps]
        validated = [e for e in range(1, schedule.epochs + 1) if schedule.validates(e)]
        exact = f"{total} {schedule.batch_size} {schedule.accumulate} {validated} {steps}"
        # On a logarithmic scale: half the rate at the start of the warmup is a difference.
        numbers = np.log(np.maximum(rates, 1e-30))
        words = (
            f"{total} steps, rate {rates[0]:.3g} of the peak at first, mean {np.mean(rates):.3g}"
        )
        return Observation("schedule", words, exact, numbers, 1e-9)

    def _windows(self, config: ExperimentConfig) -> Observation:
        """Observe the windows of a validation image of the full size."""
        windows = Windows.of(config)
        long, short = max(config.data.resize), min(config.data.resize)
        spans = list(windows.cover(short, long)) if windows else []
        words = f"{len(spans)} windows" if spans else "whole images"
        return Observation("validation", words, str(spans))

    def _build(self, config: ExperimentConfig) -> SegmentationModel:
        uncompiled = config.override({"optim.compile": False})
        with seeded(config.seed, torch.device("cpu")):
            return build_network(uncompiled, self.num_classes, Ranks())

    def _plain_network(self, config: ExperimentConfig) -> SegmentationModel:
        """Return the network of a config with random weights, built once."""
        plain = config.override({"model.weights": None})
        key = _key(plain.model.dump(), plain.seed)
        if key not in self._networks:
            self._networks.clear()  # one at a time: a large network takes a gigabyte
            self._networks[key] = self._build(plain)
        return self._networks[key]

    def _make_optimizer(self, config: ExperimentConfig) -> torch.optim.Optimizer:
        network = self._plain_network(config)
        return build_optimizer(network, config.optim, head_parameters(network))


def example_logits(num_classes: int, data: DataConfig) -> tuple[Tensor, Tensor]:
    """Return logits [2, C, 16, 16] and labels [2, 64, 64] in blocks of 4 pixels, some ignored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, num_classes, NUM_LOGITS, NUM_LOGITS)).astype(np.float32)
    blocks = rng.integers(num_classes, size=(2, NUM_LOGITS, NUM_LOGITS))
    labels = blocks.repeat(SIDE // NUM_LOGITS, 1).repeat(SIDE // NUM_LOGITS, 2)
    labels[:, :4] = data.ignore_index
    return torch.from_numpy(logits), torch.from_numpy(labels)


def _weighted(config: ExperimentConfig, num_classes: int) -> LossConfig:
    """Return the settings of the loss, with numbers in place of `balanced` class weights.

    The real ones need every mask. Any numbers that differ show whether class weights are used.
    """
    if config.loss.class_weights != "balanced":
        return config.loss
    weights = np.linspace(0.5, 1.5, num_classes).tolist()
    return config.override({"loss.class_weights": weights}).loss


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)
