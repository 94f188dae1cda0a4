"""Build a model from a config.

A model takes normalised images of any size from 32 pixels, and returns logits of a smaller size or
of the same. It never sees a mask. This package is the only importer of transformers, timm,
torchvision and segmentation_models_pytorch. It imports all but the first inside functions: the
import of timm takes half a second of a trial's start, and SegFormer needs nothing of it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from segtune.config.model_config import SMP, TORCHVISION_ENCODERS, ModelConfig
from segtune.errors import ConfigError
from segtune.models.own_models import OwnModel
from segtune.models.segformer import SegFormer
from segtune.models.segmentation_model import SegmentationModel
from segtune.models.upernet import UPerNet

# The beginnings of the names of models that have a batch norm after pooling to 1x1 pixel.
POOLING_MODELS = ("upernet", "deeplabv3", "smp:DeepLabV3", "smp:PAN", "smp:UPerNet")


def build_model(config: ModelConfig, num_classes: int) -> SegmentationModel:
    """Return the network of a config.

    It maps normalised images float [N, 3, h, w] to logits [N, num_classes, h/s, w/s], where s is 4
    for SegFormer and UPerNet. Raises ConfigError for an unknown encoder or settings that the model
    does not have, WeightsError for weights that are absent or do not fit.
    """
    if config.name == "segformer":
        return SegFormer(config, num_classes)
    if config.name == "upernet":
        return UPerNet(config, num_classes)
    # Each of these libraries is imported only for its own models.
    if config.name.startswith(SMP):
        from segtune.models.smp_models import SmpModel

        return SmpModel(config, num_classes)
    if config.name in TORCHVISION_ENCODERS:
        from segtune.models.torchvision_models import TorchvisionModel

        return TorchvisionModel(config, num_classes)
    return OwnModel(config, num_classes)


def sync_norms(model: SegmentationModel) -> SegmentationModel:
    """Return the model with PyTorch's SyncBatchNorm, whose statistics are those of all ranks."""
    import timm.layers

    return cast(SegmentationModel, timm.layers.convert_sync_batchnorm(model))  # pyright: ignore[reportPrivateImportUsage]


def compile_model(model: nn.Module) -> None:
    """Compile the network with torch.compile; the names of its parameters stay as they are.

    The compiler runs in the model's first call after this, which takes minutes.
    """
    # transformers hooks itself into a model in its very first call, and the compiler would stop at
    # that. So make this call now.
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 64, 64))
    model.train().compile()


def head_parameters(model: SegmentationModel) -> tuple[str, ...]:
    """Return the prefixes of the head's parameter names; these learn at lr * head_lr_mult."""
    return model.head_prefixes


def check_batch(config: ModelConfig, num_images: int, num_parts: int = 1) -> None:
    """Raise ConfigError if a model cannot train on `num_images` images per worker and step.

    `num_parts` is the number of workers times the backward passes of an optimiser step.
    """
    if num_images < 2 and config.name.startswith(POOLING_MODELS):
        name = "UPerNet" if config.name == "upernet" else config.name
        raise ConfigError(
            [
                f"schedule.batch_size: {name} pools to 1x1 pixel before a BatchNorm, which needs "
                f"2 or more images per worker and backward pass, got {num_images}; the smallest "
                f"batch_size is {2 * num_parts} here; raise it, or use fewer workers or "
                "accumulate 1"
            ]
        )
