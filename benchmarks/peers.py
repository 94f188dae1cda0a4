"""The parts of mmsegmentation that segtune is compared with, as its users run them.

    pip install --no-deps mmsegmentation==1.2.2 mmcv-lite==2.1.0 \\
        mmengine addict yapf platformdirs termcolor ftfy wcwidth

If it is not installed, the benchmarks run without it. mmcv-lite lacks mmcv's compiled operators.
mmsegmentation imports them for heads that are not used here, so empty classes take their place.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch


class _EmptyModule(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def is_installed() -> bool:
    """Whether mmsegmentation can be measured."""
    return all(importlib.util.find_spec(name) for name in ("mmseg", "mmcv", "mmengine"))


def _replace_operators() -> None:
    """Put an empty module in the place of mmcv's compiled operators."""
    import mmcv

    if "mmcv.ops" not in sys.modules:
        mmcv.ops = _EmptyModule("mmcv.ops")
        sys.modules["mmcv.ops"] = mmcv.ops


def training_pipeline(long_side: int, short_side: int, crop: int) -> Callable[[dict], Any]:
    """Return the pipeline of mmsegmentation's VOC configs, from file names to a packed sample.

    Sizes are in pixels.
    """
    _replace_operators()
    from mmcv.transforms import Compose
    from mmseg.datasets import transforms  # noqa: F401 - registers the transforms named below

    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        {
            "type": "RandomResize",
            "scale": (long_side, short_side),
            "ratio_range": (0.5, 2.0),
            "keep_ratio": True,
        },
        {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "Pad", "size": (crop, crop)},
        {"type": "PackSegInputs"},
    ]
    return Compose([{**step, "_scope_": "mmseg"} for step in steps])


def segformer_b0(num_classes: int) -> torch.nn.Module:
    """Return mmsegmentation's SegFormer-B0: images [B, 3, H, W] to logits [B, C, H/4, W/4]."""
    _replace_operators()
    from mmengine.model import BaseModel  # noqa: F401 - registers its hooks
    from mmseg.models.backbones import MixVisionTransformer
    from mmseg.models.decode_heads import SegformerHead

    backbone = MixVisionTransformer(
        in_channels=3,
        embed_dims=32,
        num_stages=4,
        num_layers=[2, 2, 2, 2],
        num_heads=[1, 2, 5, 8],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        out_indices=(0, 1, 2, 3),
        mlp_ratio=4,
        qkv_bias=True,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
    )
    head = SegformerHead(
        in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.0,
        num_classes=num_classes,
        norm_cfg={"type": "BN", "requires_grad": True},
        align_corners=False,
    )
    return torch.nn.Sequential(backbone, head)
