"""UPerNet: timm's encoders with transformers' heads."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from segtune.config.schema import ModelConfig
from segtune.errors import ConfigError, nearest
from segtune.models.pretrained import absent, load_encoder, read_weights, without_prefix

# Weight of UPerNet's auxiliary loss (Zhao et al. 2017, and mmseg's configs).
AUXILIARY_WEIGHT = 0.4


class UPerNet(nn.Module):
    """Any timm encoder with feature maps at 1/4 to 1/32, UPerNet's head, and an FCN head that helps in training."""

    head = ("decode_head.", "auxiliary_head.")

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.indices = _timm_encoder(config)
        info = self.encoder.feature_info  # type: ignore[union-attr]
        channels = [info.channels()[i] for i in self.indices]  # type: ignore[operator]
        head = UperNetConfig(
            hidden_size=config.decoder_channels or 512,
            num_labels=num_classes,  # pyright: ignore[reportCallIssue]
            auxiliary_channels=256,
        )
        self.decode_head = UperNetHead(head, channels)
        self.auxiliary_head = UperNetFCNHead(head, channels)
        self.channels = channels
        # Swin keeps channels last, and takes no image that its patches do not tile.
        self.channels_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
        self.patch = 4 if config.encoder.startswith("swin") else 1

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Returns logits [N, C, h/4, w/4] for images [N, 3, h, w]; with `with_auxiliary` also those of the FCN head."""
        height, width = images.shape[-2:]
        maps = self.encoder(F.pad(images, (0, -width % self.patch, 0, -height % self.patch)))
        features = [
            maps[i].permute(0, 3, 1, 2).contiguous() if self.channels_last else maps[i]
            for i in self.indices
        ]
        logits = self.decode_head(features)
        return (logits, self.auxiliary_head(features)) if with_auxiliary else logits


def _timm_encoder(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    import timm

    options: dict[str, Any] = {"features_only": True, "pretrained": False}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if not timm.is_model(config.encoder):
        raise ConfigError(
            [
                f"model.encoder: timm has no {config.encoder!r}{nearest(config.encoder, timm.list_models())}"
            ]
        )
    if config.encoder.startswith("swin"):
        options["strict_img_size"] = False  # crops of any size, padded to windows
    try:
        encoder = timm.create_model(config.encoder, **options)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        # timm has no class of its own for an encoder without feature maps, or without an option: each raises what it comes upon.
        way_out = (
            "; it has no stochastic depth: set model.drop_path: 0"
            if "drop_path_rate" in str(error)
            else ""
        )
        raise ConfigError(
            [f"model.encoder: {config.encoder!r} gives no feature maps{way_out or f': {error}'}"]
        ) from None
    reductions: list[int] = encoder.feature_info.reduction()  # type: ignore[union-attr, operator]
    if not {4, 8, 16, 32} <= set(reductions):
        raise ConfigError(
            [
                f"model.encoder: upernet needs feature maps at 1/4, 1/8, 1/16 and 1/32; {config.encoder!r} has 1/{reductions}"
            ]
        )
    if config.weights:
        _load_timm(encoder, config)
    # The last map of each size, where an encoder has more than one.
    return encoder, [len(reductions) - 1 - reductions[::-1].index(r) for r in (4, 8, 16, 32)]


def _load_timm(encoder: nn.Module, config: ModelConfig) -> None:
    """Loads a file of timm weights, or those of the hub under the encoder's own name (`timm`) or an id."""
    import timm

    given = str(config.weights)
    path = Path(given)
    if path.is_dir():
        path = next(iter([*path.glob("*.safetensors"), *path.glob("pytorch_model.bin")]), path)
    if path.is_file():
        own = encoder.state_dict()
        weights = {
            _features_name(name, own): value
            for name, value in without_prefix(read_weights(path)).items()
        }
        if not weights.keys() <= own.keys():
            # What lies between the last feature map and the classifier (`conv_head`, `final_conv`): only the whole model has it.
            whole = timm.create_model(config.encoder, pretrained=False).state_dict()
            weights = {
                name: value for name, value in weights.items() if name in own or name not in whole
            }
        return load_encoder(encoder, weights, str(path))
    try:
        name = f"hf-hub:{given}" if "/" in given else config.encoder
        pretrained = timm.create_model(name, pretrained=True, features_only=True)
    except (
        Exception
    ) as error:  # whatever the hub's client raises: no network, no such model, no permission
        raise absent(given, error) from None
    load_encoder(encoder, pretrained.state_dict(), given)


def _features_name(name: str, own: Collection[str]) -> str:
    """Returns what `features_only` calls a parameter: `layers.0.x` is `layers_0.x` there, or `model.layers.0.x`."""
    return next(
        (given for given in (name, name.replace(".", "_", 1), f"model.{name}") if given in own),
        name,
    )
