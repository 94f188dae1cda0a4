"""The size of a trial's network, and how long it takes for one validation image."""

from __future__ import annotations

import statistics

import torch

from segtune.config.schema import ExperimentConfig
from segtune.data.crop import fit_scale, resized_shape
from segtune.data.decode import pair_size
from segtune.data.loader import normalize
from segtune.runs.records import NetworkProfile
from segtune.training.model_profile import call_times, device_name
from segtune.training.network import seeded
from segtune.training.precision import dtype_name
from segtune.training.trainer import Trainer
from segtune.training.tta import AugmentedInference

NUM_WARM_UP = 3  # forward passes that are not timed: the first ones choose kernels
SECONDS = 1.0  # of timed passes


def measure_network(
    trainer: Trainer, config: ExperimentConfig, *, with_latency: bool
) -> NetworkProfile:
    """Measure the network of a trainer on its device; leaves it in evaluation mode.

    `config` has the size of the images: if the trainer trains a proxy, it is the full config. The
    image has the size of the first validation image.
    """
    height, width = _image_size(trainer, config)
    device = trainer.ranks.device
    return NetworkProfile(
        parameters=sum(parameter.numel() for parameter in trainer.network.parameters()),
        classes=tuple(trainer.classes),
        height=height,
        width=width,
        latency_ms=_latency_ms(trainer, config, height, width) if with_latency else None,
        device=device_name(device),
        precision=dtype_name(trainer.precision.validation_dtype),
    )


def _image_size(trainer: Trainer, config: ExperimentConfig) -> tuple[int, int]:
    size = pair_size(trainer.val_data.pairs[0], config.data)
    scale = fit_scale(size.height, size.width, config.data.resize)
    return resized_shape(size.height, size.width, scale)


# As in `evaluate`.
@torch.compiler.set_stance("force_eager")
@torch.no_grad()
def _latency_ms(trainer: Trainer, config: ExperimentConfig, height: int, width: int) -> float:
    """Return the median time of the forward pass of one image as `evaluate` does it.

    It includes the normalisation and the windows of `config.val`, but not the upsampling of the
    logits to the size of the labels, which depends on the size of the stored image.
    """
    device, precision = trainer.ranks.device, trainer.precision.validation_dtype
    inference = AugmentedInference.of(config)
    network = trainer.network.eval()
    with seeded(0, device):
        # The memory of images is channels last, see `loader`.
        pixels = torch.randint(256, (1, height, width, 3), dtype=torch.uint8, device=device)
    image = pixels.permute(0, 3, 1, 2)

    def predict() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            inference.logits(network, normalize(image))

    for _ in range(NUM_WARM_UP):
        predict()
    return 1000 * statistics.median(call_times(predict, device, SECONDS))
