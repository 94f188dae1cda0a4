"""SegFormer and UPerNet from transformers and timm. The only importer of both.

Images of any size from 32 pixels come in normalised, logits at a quarter of the size go out; models never see a mask.
timm is imported where it is used: it takes half a second of a trial's start, and SegFormer needs nothing of it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from segtune.config.schema import ModelConfig
from segtune.errors import ConfigError
from segtune.models.segformer import SegFormer
from segtune.models.upernet import UPerNet


def build_model(config: ModelConfig, num_classes: int) -> SegFormer | UPerNet:
    """Returns the network of a config: images [N, 3, h, w] normalised -> logits [N, num_classes, h/4, w/4].

    Raises ConfigError for an unknown encoder, WeightsError for weights that are absent or do not fit.
    """
    return (
        SegFormer(config, num_classes)
        if config.name == "segformer"
        else UPerNet(config, num_classes)
    )


def sync_norms(model: SegFormer | UPerNet) -> SegFormer | UPerNet:
    """Returns the model with batch norms whose statistics are those of all ranks (PyTorch's SyncBatchNorm)."""
    import timm.layers

    return cast(SegFormer | UPerNet, timm.layers.convert_sync_batchnorm(model))  # pyright: ignore[reportPrivateImportUsage]


def compile_model(model: nn.Module) -> None:
    """Has the network compiled by its first call, which takes minutes; names of parameters stay as they are."""
    # transformers hooks itself into a model at the very first call, and the compiler would stop at that.
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 64, 64))
    model.train().compile()


def head_parameters(model: SegFormer | UPerNet) -> tuple[str, ...]:
    """Returns the prefixes of the head's parameter names, which learn at lr * head_lr_mult."""
    return model.head


def check_batch(config: ModelConfig, images: int) -> None:
    """Raises ConfigError where a backward pass on `images` images per worker cannot work."""
    if config.name == "upernet" and images < 2:
        raise ConfigError(
            [
                "schedule.batch_size: UPerNet pools to 1x1 pixel before a BatchNorm, which needs 2 or more images per worker; raise batch_size, or use fewer workers or accumulate 1"
            ]
        )
