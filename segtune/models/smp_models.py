"""The architectures of segmentation_models_pytorch, an optional library: `smp:Unet`.

Its MiT encoders are refused: their licence forbids commercial use.
"""

from __future__ import annotations

import inspect
import warnings
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from segtune.config.model_config import SMP, ModelConfig
from segtune.errors import ConfigError, nearest
from segtune.models.encoder_maps import try_out
from segtune.models.pretrained import load_encoder
from segtune.models.segmentation_model import (
    SegmentationModel,
    cut_logits,
    freeze_unused,
    pad_to_multiple,
)
from segtune.models.timm_encoder import check_is_model, load_timm, size_options
from segtune.models.weight_files import local_weights_or_word, read_weights, weights_not_found

# The words in model.weights that mean the library's own ImageNet weights of an encoder.
HUB = ("imagenet", "smp")
# An encoder of timm.
TIMM = "tu-"
# The parameters that are called `decoder_channels` in segtune, by their names in the constructors.
WIDTHS = ("decoder_channels", "decoder_segmentation_channels", "psp_out_channels")
# PAN pools the map at 1/16 three times. DPT halves the map of a ViT's patches, and doubles it.
SMALLEST_SIDE = {"PAN": 128}
MULTIPLE = {"DPT": 32}


class SmpModel(SegmentationModel):
    """An architecture of segmentation_models_pytorch on one of its encoders.

    The logits have the stride of the decoder: 1 for Unet, 4 for FPN and DeepLabV3Plus, 8 for
    PSPNet and DeepLabV3. The library upsamples them to the size of the image with aligned corners;
    losses and evaluation do it without, as mmseg.
    """

    head_prefixes = ("net.decoder.", "net.segmentation_head.")
    classifier_prefixes = ("net.segmentation_head.",)

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.net = _build(config, num_classes)
        head = self.net.segmentation_head
        if isinstance(head, nn.Sequential):
            # The layers are a convolution, the upsampling and the activation; only the first has
            # weights.
            self.net.segmentation_head = nn.Sequential(head[0])
        else:
            self.classifier_prefixes = ("net.segmentation_head.head.4.",)  # of DPT
        architecture = config.name.removeprefix(SMP)
        self.multiple = MULTIPLE.get(architecture, int(self.net.encoder.output_stride))
        self.smallest = SMALLEST_SIDE.get(architecture, self.multiple)
        _check_size(self, config)
        if config.weights:
            _load(self.net.encoder, config.encoder, config.weights)
        freeze_unused(self)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/s, w/s] for images [N, 3, h, w] of any size.

        With `with_auxiliary`, return the pair (logits, None).
        """
        padded = pad_to_multiple(images, self.multiple, self.smallest)
        logits = cut_logits(self.net(padded), padded, images)
        return (logits, None) if with_auxiliary else logits


def _build(config: ModelConfig, num_classes: int) -> Any:
    """Return the library's model with random weights. Raises ConfigError as `build_model`."""
    smp = _import()
    encoder = config.encoder
    if encoder.startswith("mit_"):
        raise ConfigError(
            [
                f"model.encoder: {encoder} of segmentation_models_pytorch has a licence that "
                "forbids commercial use, so segtune does not use it; choose another encoder, such "
                "as resnet50 or tu-convnext_tiny, or MiT in model.name: segformer"
            ]
        )
    architecture = _architecture(smp, config)
    known = smp.encoders.encoders
    if encoder.startswith(TIMM):
        check_is_model(encoder.removeprefix(TIMM))
    if not (encoder in known or encoder.startswith((TIMM, "timm-"))):
        names = [name for name in known if not name.startswith("mit_")]
        raise ConfigError(
            [
                f"model.encoder: segmentation_models_pytorch has no {encoder!r}"
                f"{nearest(encoder, names)}; tu-NAME takes an encoder of timm, such as tu-"
                "convnext_tiny"
            ]
        )
    options = _options(architecture, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the prefix timm-
        try:
            return architecture(encoder, encoder_weights=None, classes=num_classes, **options)
        except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
            # Each encoder raises the error that it happens to run into.
            reason = f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error)
            if "drop_path_rate" in str(error):
                reason = "it has no stochastic depth: set model.drop_path: 0"
            raise ConfigError(
                [f"model.encoder: {encoder!r} does not go with {config.name}: {reason}"]
            ) from None


def _import() -> ModuleType:
    """Import the library. Raises ConfigError if it is not installed."""
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        if error.name != "segmentation_models_pytorch":
            raise
        raise ConfigError(
            [
                "model.name: smp:… needs segmentation_models_pytorch, which is not installed; "
                'install it with: pip install "segtune[smp]"'
            ]
        ) from None
    return smp


def _architecture(smp: ModuleType, config: ModelConfig) -> type[nn.Module]:
    """Return the class of an architecture. Raises ConfigError with the nearest name."""
    name = config.name.removeprefix(SMP)
    known = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if name not in known:
        near = nearest(name, known).replace("'", f"'{SMP}", 1)
        raise ConfigError(
            [
                f"model.name: segmentation_models_pytorch has no {name!r}{near}; allowed are "
                f"{', '.join(SMP + other for other in known)}"
            ]
        )
    return known[name]


def _options(architecture: type[nn.Module], config: ModelConfig) -> dict[str, Any]:
    """Return the arguments for the settings of the head and of the encoder."""
    options: dict[str, Any] = {}
    if config.encoder.startswith(TIMM):
        options |= size_options(config.encoder.removeprefix(TIMM))
    if config.drop_path:
        if not config.encoder.startswith(TIMM):
            raise ConfigError(
                [
                    f"model.drop_path: {config.encoder} of segmentation_models_pytorch has no "
                    "stochastic depth; set model.drop_path: 0, or take an encoder of timm "
                    f"(model.encoder: {TIMM}NAME)"
                ]
            )
        options["drop_path_rate"] = config.drop_path
    if config.decoder_channels is not None:
        parameters = inspect.signature(architecture).parameters
        names = [n for n in WIDTHS if n in parameters and isinstance(parameters[n].default, int)]
        if not names:
            raise ConfigError(
                [
                    f"model.decoder_channels: the head of {config.name} has more than one width; "
                    "leave the setting out"
                ]
            )
        options[names[0]] = config.decoder_channels
    return options


def _check_size(model: SmpModel, config: ModelConfig) -> None:
    """Raise ConfigError for an encoder that takes images of one size only."""
    try:
        try_out(model)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            [
                f"model.encoder: {config.name} with {config.encoder!r} takes images of one size "
                f"only, and validation images have any size ({reason}); choose another encoder, "
                "such as resnet50 or tu-convnext_tiny"
            ]
        ) from None


def _load(encoder: Any, name: str, source: str) -> None:
    """Load weights from a file of an encoder or of a whole model, or the library's own.

    Raises WeightsError as `load_encoder`, or if there are none.
    """
    if hasattr(encoder, "model") and name.startswith((TIMM, "timm-")):
        words = "timm" if source in HUB else source
        return load_timm(encoder.model, name.removeprefix(TIMM), words)
    if path := local_weights_or_word(source, HUB, "smp"):
        return load_encoder(encoder, read_weights(path), source)
    try:
        weights = _import().encoders.get_encoder(name, weights=HUB[0]).state_dict()
    # The hub's client raises many types: no network, no such weights, no permission.
    except Exception as error:
        raise weights_not_found(source, error) from None
    load_encoder(encoder, weights, source)
