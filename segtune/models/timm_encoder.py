"""Encoders of timm that return their feature maps, and timm's weights for them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, nearest
from segtune.models.encoder_maps import REDUCTIONS, EncoderMaps, FeaturePyramid, try_out
from segtune.models.pretrained import load_encoder
from segtune.models.weight_files import SUFFIXES, local_weights, read_weights, weights_not_found

# Where timm's models lie that interpolate their position embeddings if this is asked for.
PLAIN_VITS = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")


def build_timm_encoder(config: ModelConfig) -> tuple[nn.Module, EncoderMaps, FeaturePyramid | None]:
    """Return an encoder, which of its feature maps are taken, and the pyramid of a plain ViT.

    Raises ConfigError if timm has no such encoder, if it lacks a map at 1/4, 1/8, 1/16 or 1/32, or
    if it takes images of one size only.
    """
    encoder = _create(config)
    info: Any = encoder.feature_info
    reductions: list[int] = info.reduction()
    is_plain = len(set(reductions)) == 1 and len(reductions) > 1
    if not is_plain and not set(REDUCTIONS) <= set(reductions):
        raise ConfigError(
            [
                "model.encoder: upernet needs feature maps at 1/4, 1/8, 1/16 and 1/32; "
                f"{config.encoder!r} has 1/{reductions}"
            ]
        )
    _check_size(encoder, config.encoder, reductions[0] if is_plain else 1)
    if config.weights:
        load_timm(encoder, config.encoder, config.weights)
    if is_plain:
        return _with_pyramid(encoder, info.channels()[0], reductions[0])
    # If an encoder has more than one map of a size, take the last one.
    last = len(reductions) - 1
    indices = [last - reductions[::-1].index(reduction) for reduction in REDUCTIONS]
    maps = EncoderMaps(
        channels=[info.channels()[i] for i in indices],
        indices=indices,
        # Swin returns maps with channels last, and needs images that its patches tile.
        channels_last=getattr(encoder, "output_fmt", "NCHW") == "NHWC",
        multiple=4 if config.encoder.startswith("swin") else 1,
    )
    return encoder, maps, None


def _with_pyramid(
    encoder: Any, channels: int, patch_size: int
) -> tuple[nn.Module, EncoderMaps, FeaturePyramid]:
    """Return a plain ViT that returns the maps of four blocks, and their pyramid."""
    depth = len(encoder.model.blocks)
    # Blocks 3, 6, 9 and 12 of 12. timm's own choice is the last three.
    encoder.out_indices = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    maps = EncoderMaps(channels=[channels] * 4, multiple=patch_size)
    return encoder, maps, FeaturePyramid(channels, patch_size)


def size_options(encoder_name: str) -> dict[str, Any]:
    """Return the options with which an encoder of timm takes images of any size."""
    import timm

    if encoder_name.startswith("swin"):
        return {"strict_img_size": False}  # crops of any size, padded to windows
    module = timm.model_entrypoint(encoder_name).__module__
    return {"dynamic_img_size": True} if module.rpartition(".")[2] in PLAIN_VITS else {}


def _check_size(encoder: nn.Module, encoder_name: str, multiple: int) -> None:
    """Raise ConfigError for an encoder that takes images of one size only."""
    import timm

    pretrained = timm.get_pretrained_cfg(encoder_name)
    # timm also sets this for some encoders that take other sizes, such as Swin. So try one.
    if pretrained is None or not pretrained.fixed_input_size:
        return
    try:
        try_out(encoder, multiple)
    except (AssertionError, RuntimeError):
        side = pretrained.input_size[-1]
        raise ConfigError(
            [
                f"model.encoder: {encoder_name!r} takes images of {side} x {side} pixels only, and "
                "validation images have any size; choose another encoder, such as resnet50, "
                "convnext_tiny or swin_tiny_patch4_window7_224"
            ]
        ) from None


def check_is_model(encoder_name: str) -> None:
    """Raise ConfigError with the nearest name if timm has no such encoder."""
    import timm

    if not timm.is_model(encoder_name):
        similar = nearest(encoder_name, timm.list_models())
        raise ConfigError([f"model.encoder: timm has no {encoder_name!r}{similar}"])


def _create(config: ModelConfig) -> nn.Module:
    """Return an encoder with random weights that returns its feature maps."""
    import timm

    check_is_model(config.encoder)
    options: dict[str, Any] = {"features_only": True, "pretrained": False}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    options |= size_options(config.encoder)
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


def load_timm(encoder: nn.Module, encoder_name: str, source: str) -> None:
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


def timm_licence(encoder_name: str) -> str:
    """Return the licence of timm's own weights of an encoder, or "" if timm names none."""
    import timm

    pretrained = timm.get_pretrained_cfg(encoder_name)
    return (pretrained and pretrained.license) or ""


def _features_name(name: str, expected: Collection[str]) -> str:
    """Return the name that a parameter has in an encoder that timm built with `features_only`.

    There, `layers.0.x` is called `layers_0.x` or `model.layers.0.x`. Return `name` if no form fits.
    """
    forms = (name, name.replace(".", "_", 1), f"model.{name}")
    return next((form for form in forms if form in expected), name)
