"""The size, compute, memory and speed of a config's network. Reads no image and writes nothing."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import Batch, normalize
from segtune.losses.segmentation import build_loss
from segtune.models.build import head_parameters
from segtune.models.segmentation_model import SegmentationModel
from segtune.training.distributed import Ranks
from segtune.training.network import build_network, seeded
from segtune.training.optimizer import build_optimizer
from segtune.training.precision import dtype_name, training_dtype
from segtune.training.train_step import OutOfMemory, TrainStep

# A call is repeated until the time is over, but at least this many times after one that warms up.
MIN_CALLS = 2


@dataclass(frozen=True)
class ModelProfile:
    """The numbers of `segtune model`."""

    encoder_parameters: int
    head_parameters: int  # with the auxiliary head
    frozen_parameters: int  # of both: those that are not trained
    height: int  # of an image, in pixels
    width: int
    flops: int  # of the forward pass of one image; a multiplication with an addition counts 2
    batch_size: int  # of a training step on one worker
    device: str
    precision: str
    train_images_per_s: float | None  # None if a step does not fit into memory
    train_memory: int | None  # bytes: peak of the GPU's allocator, or of the process on a CPU
    num_fitting: int | None  # images that fit if a step does not
    inference_images_per_s: float  # of single images

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.encoder_parameters + self.head_parameters

    @property
    def macs(self) -> int:
        """Multiplications with an addition, of the forward pass of one image."""
        return self.flops // 2


def profile(config: ExperimentConfig, num_classes: int, seconds: float) -> ModelProfile:
    """Build the network of a config with random weights and measure it on this machine's device.

    Each of two measurements takes about `seconds`. Raises ConfigError as `build_network`.
    """
    config = config.override({"model.weights": None})
    ranks = Ranks.join()
    try:
        with seeded(config.seed, ranks.device):
            network = build_network(config, num_classes, ranks)
            return _profile(config, network, num_classes, ranks, seconds)
    finally:
        ranks.close()


def _profile(
    config: ExperimentConfig,
    network: SegmentationModel,
    num_classes: int,
    ranks: Ranks,
    seconds: float,
) -> ModelProfile:
    height, width = config.data.crop
    batch_size = config.schedule.batch_size // config.schedule.accumulate
    encoder, head, frozen = _count_parameters(network)
    rate, memory, fitting = _train(config, network, num_classes, ranks, seconds)
    return ModelProfile(
        encoder_parameters=encoder,
        head_parameters=head,
        frozen_parameters=frozen,
        height=height,
        width=width,
        flops=count_flops(network, height, width),
        batch_size=batch_size,
        device=device_name(ranks.device),
        precision=dtype_name(training_dtype(config.optim.precision, ranks.device)),
        train_images_per_s=rate,
        train_memory=memory,
        num_fitting=fitting,
        inference_images_per_s=_infer(config, network, ranks, seconds),
    )


def _count_parameters(network: SegmentationModel) -> tuple[int, int, int]:
    """Return how many parameters the encoder and the head have, and how many are not trained."""
    prefixes = head_parameters(network)
    encoder = head = frozen = 0
    for name, parameter in network.named_parameters():
        if name.startswith(prefixes):
            head += parameter.numel()
        else:
            encoder += parameter.numel()
        if not parameter.requires_grad:
            frozen += parameter.numel()
    return encoder, head, frozen


def count_flops(network: torch.nn.Module, height: int, width: int) -> int:
    """Return the operations of the forward pass of one image, without the auxiliary head.

    torch counts those of convolutions, matrix products and attention; a multiplication with an
    addition counts 2.
    """
    device = next(network.parameters()).device
    # The counter does not see into compiled code.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        counter = FlopCounterMode(display=False)
        with counter:
            network.eval()(torch.zeros(1, 3, height, width, device=device))
    return counter.get_total_flops()


def _train(
    config: ExperimentConfig,
    network: SegmentationModel,
    num_classes: int,
    ranks: Ranks,
    seconds: float,
) -> tuple[float | None, int | None, int | None]:
    """Return images/s and bytes of training steps; how many images fit if a step does not."""
    precision = training_dtype(config.optim.precision, ranks.device)
    step = TrainStep(
        config.optim,
        network.train(),
        build_loss(config.loss, num_classes, config.data.ignore_index),
        build_optimizer(network, config.optim, head_parameters(network)),
        torch.amp.GradScaler(ranks.device.type, enabled=precision == torch.float16),
        precision,
        ranks,
    )
    batch_size = config.schedule.batch_size // config.schedule.accumulate
    height, width = config.data.crop
    images = torch.randint(256, (batch_size, 3, height, width), dtype=torch.uint8)
    masks = torch.randint(num_classes, (batch_size, height, width), dtype=torch.uint8)
    batch = Batch(images, masks)
    is_cuda = ranks.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(ranks.device)
    outcome = step.run([batch], step=1, lr=config.optim.lr)
    if isinstance(outcome, OutOfMemory):
        return None, None, outcome.num_fitting
    calls_per_s = _calls_per_s(
        lambda: step.run([batch], step=2, lr=config.optim.lr), ranks.device, seconds
    )
    memory = torch.cuda.max_memory_allocated(ranks.device) if is_cuda else _peak_of_process()
    return calls_per_s * batch_size, memory, None


@torch.compiler.set_stance("force_eager")
@torch.no_grad()
def _infer(
    config: ExperimentConfig, network: SegmentationModel, ranks: Ranks, seconds: float
) -> float:
    """Return how many single images of the crop's size the network predicts in a second."""
    precision = training_dtype(config.optim.precision, ranks.device)
    image = torch.randint(256, (1, 3, *config.data.crop), dtype=torch.uint8, device=ranks.device)
    network.eval()

    def predict() -> None:
        with torch.autocast(
            ranks.device.type, dtype=precision, enabled=precision is not torch.float32
        ):
            network(normalize(image))

    predict()
    return _calls_per_s(predict, ranks.device, seconds)


def _calls_per_s(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return how often a call that has warmed up is completed in a second."""
    times = call_times(call, device, seconds)
    return len(times) / sum(times)


def call_times(call: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Return the seconds of each call of a function that has warmed up, for about `seconds`."""
    times: list[float] = []
    _synchronize(device)
    while len(times) < MIN_CALLS or sum(times) < seconds:
        start = time.perf_counter()
        call()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_of_process() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the number of threads that torch uses on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
