"""UPerNet: any encoder of timm with the heads of transformers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, nearest
from segtune.models.pretrained import load_encoder
from segtune.models.weight_files import SUFFIXES, local_weights, read_weights, weights_not_found

# Weight of UPerNet's auxiliary loss (Zhao et al. 2017, and mmseg's configs).
AUXILIARY_WEIGHT = 0.4

# The sizes of the feature maps that UPerNet takes, as divisors of the image size.
REDUCTIONS = (4, 8, 16, 32)

# Height and width of an image that an encoder of a fixed size refuses.
TRIED_SIZE = (64, 96)


class UPerNet(nn.Module):
    """A timm encoder with feature maps at 1/4 to 1/32, UPerNet's head, and an FCN head.

    The FCN head is for the auxiliary loss in training only.
    """

    head_prefixes = ("decode_head.", "auxiliary_head.")
    classifier_prefixes = ("decode_head.classifier.", "auxiliary_head.classifier.")

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.map_indices = _build_encoder(config)
        info = self.encoder.feature_info  # type: ignore[union-attr]
        self.channels = [info.channels()[i] for i in self.map_indices]  # type: ignore[operator]
        head_config = UperNetConfig(
            hidden_size=config.decoder_channels or 512,
            num_labels=num_classes,  # pyright: ignore[reportCallIssue]
            auxiliary_channels=256,
        )
        self.decode_head = UperNetHead(head_config, self.channels)
        self.auxiliary_head = UperNetFCNHead(head_config, self.channels)
        # Swin returns maps with channels last, and needs images that its patches tile.
        self.channels_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
        self.patch_size = 4 if config.encoder.startswith("swin") else 1

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/4, w/4] for images [N, 3, h, w].

        With `with_auxiliary`, return the pair (logits, logits of the FCN head).
        """
        height, width = images.shape[-2:]
        padding = (0, -width % self.patch_size, 0, -height % self.patch_size)
        maps = self.encoder(F.pad(images, padding))
        features = [
            maps[i].permute(0, 3, 1, 2).contiguous() if self.channels_last else maps[i]
            for i in self.map_indices
        ]
        logits = self.decode_head(features)
        return (logits, self.auxiliary_head(features)) if with_auxiliary else logits


def _build_encoder(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    """Return the encoder and which of its feature maps are at 1/4, 1/8, 1/16 and 1/32.

    Raises ConfigError if timm has no such encoder, if it lacks one of these maps, or if it takes
    images of one size only.
    """
    encoder = _create_timm_encoder(config)
    reductions: list[int] = encoder.feature_info.reduction()  # type: ignore[union-attr, operator]
    if not set(REDUCTIONS) <= set(reductions):
        raise ConfigError(
            [
                "model.encoder: upernet needs feature maps at 1/4, 1/8, 1/16 and 1/32; "
                f"{config.encoder!r} has 1/{reductions}"
            ]
        )
    _check_size(encoder, config.encoder)
    if config.weights:
        _load_timm(encoder, config.encoder, config.weights)
    # If an encoder has more than one map of a size, take the last one.
    last = len(reductions) - 1
    return encoder, [last - reductions[::-1].index(reduction) for reduction in REDUCTIONS]


def _check_size(encoder: nn.Module, encoder_name: str) -> None:
    """Raise ConfigError for an encoder that takes images of one size only."""
    import timm

    pretrained = timm.get_pretrained_cfg(encoder_name)
    # timm also sets this for some encoders that take other sizes, such as Swin. So try one.
    if pretrained is None or not pretrained.fixed_input_size:
        return
    try:
        with torch.no_grad():
            encoder.eval()(torch.zeros(1, 3, *TRIED_SIZE))
    except (AssertionError, RuntimeError):
        side = pretrained.input_size[-1]
        raise ConfigError(
            [
                f"model.encoder: {encoder_name!r} takes images of {side} x {side} pixels only, and "
                "validation images have any size; choose another encoder, such as resnet50, "
                "convnext_tiny or swin_tiny_patch4_window7_224"
            ]
        ) from None
    encoder.train()


def _create_timm_encoder(config: ModelConfig) -> nn.Module:
    """Return an encoder with random weights that returns its feature maps."""
    import timm

    if not timm.is_model(config.encoder):
        similar = nearest(config.encoder, timm.list_models())
        raise ConfigError([f"model.encoder: timm has no {config.encoder!r}{similar}"])
    options: dict[str, Any] = {"features_only": True, "pretrained": False}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if config.encoder.startswith("swin"):
        options["strict_img_size"] = False  # crops of any size, padded to windows
    try:
        return timm.create_model(config.encoder, **options)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        # timm has no exception of its own for an encoder without feature maps or without an option.
        # Each encoder raises the error that it happens to run into.
        reason = f": {error}"
        if "drop_path_rate" in str(error):
            reason = "; it has no stochastic depth: set model.drop_path: 0"
        raise ConfigError(
            [f"model.encoder: {config.encoder!r} gives no feature maps{reason}"]
        ) from None


def _load_timm(encoder: nn.Module, encoder_name: str, source: str) -> None:
    """Load weights of timm from a file, a folder, or the hub.

    From the hub, `source` is an id (owner/name), or any other word (such as `timm`) for the weights
    that timm has for this encoder. Raises WeightsError as `load_encoder`, or if there are none.
    """
    import timm

    def rename(name: str, value: Tensor) -> dict[str, Tensor]:
        return {_features_name(name, expected): value}

    def whole_model() -> Collection[str]:
        # Only the whole model has what lies between the last feature map and the classifier, such
        # as `conv_head` or `final_conv`.
        return timm.create_model(encoder_name, pretrained=False).state_dict().keys()

    if path := local_weights(source):
        expected = encoder.state_dict()
        weights = read_weights(path)
        return load_encoder(encoder, weights, source, rename, whole_model=whole_model)
    if Path(source).suffix in SUFFIXES or source.count("/") > 1:
        raise weights_not_found(source, "not a hub id of the form owner/name")
    try:
        name = f"hf-hub:{source}" if "/" in source else encoder_name
        pretrained = timm.create_model(name, pretrained=True, features_only=True)
    # The hub's client raises many types: no network, no such model, no permission.
    except Exception as error:
        raise weights_not_found(source, error) from None
    load_encoder(encoder, pretrained.state_dict(), source)


def _features_name(name: str, expected: Collection[str]) -> str:
    """Return the name that a parameter has in an encoder that timm built with `features_only`.

    There, `layers.0.x` is called `layers_0.x` or `model.layers.0.x`. Return `name` if no form fits.
    """
    forms = (name, name.replace(".", "_", 1), f"model.{name}")
    return next((form for form in forms if form in expected), name)
