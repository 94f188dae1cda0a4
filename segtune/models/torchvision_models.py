"""DeepLabV3, FCN and LR-ASPP of torchvision, with its auxiliary head.

torchvision upsamples logits to the size of the image. The losses and the evaluation do this
themselves, to the same numbers and in bands, so the logits stay at the stride of the head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segtune.config.model_config import TORCHVISION_ENCODERS, ModelConfig
from segtune.errors import ConfigError
from segtune.models.pretrained import load_encoder
from segtune.models.segmentation_model import SegmentationModel
from segtune.models.weight_files import local_weights_or_word, read_weights, weights_not_found

# The word in model.weights that means torchvision's own weights.
HUB = "torchvision"


class TorchvisionModel(SegmentationModel):
    """A segmentation model of torchvision. The logits are at 1/8 of the image."""

    head_prefixes = ("net.classifier.", "net.aux_classifier.")

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        from torchvision.models import get_model

        _check_settings(config)
        options: dict[str, Any] = {"weights": None, "weights_backbone": None}
        if not config.name.startswith("lraspp"):
            options["aux_loss"] = True
        self.net: Any = get_model(config.name, num_classes=num_classes, **options)
        self.classifier_prefixes = _classifiers(config.name)
        if config.weights:
            _load(self.net.backbone, config, config.weights)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/8, w/8] for images [N, 3, h, w].

        With `with_auxiliary`, return the pair (logits, logits of the FCN head, or None for LR-ASPP,
        which has none).
        """
        maps = self.net.backbone(images)
        # LR-ASPP's head takes both of its maps, which have other names.
        logits = self.net.classifier(maps.get("out", maps))
        if not with_auxiliary:
            return logits
        return logits, self.net.aux_classifier(maps["aux"]) if "aux" in maps else None


def _classifiers(name: str) -> tuple[str, ...]:
    if name.startswith("lraspp"):
        return ("net.classifier.low_classifier.", "net.classifier.high_classifier.")
    return ("net.classifier.4.", "net.aux_classifier.4.")


def _check_settings(config: ModelConfig) -> None:
    """Raise ConfigError for settings of the encoder and the head that torchvision does not have."""
    problems = []
    if config.encoder != TORCHVISION_ENCODERS[config.name]:
        problems.append(
            f"model.encoder: {config.name} has the encoder {TORCHVISION_ENCODERS[config.name]}, "
            f"got {config.encoder!r}; leave the setting out, or choose the encoder freely with "
            "model.name: smp:DeepLabV3, smp:DeepLabV3Plus or upernet"
        )
    if config.drop_path:
        problems.append(
            f"model.drop_path: {config.name} has no stochastic depth; set model.drop_path: 0"
        )
    if config.decoder_channels is not None:
        problems.append(
            f"model.decoder_channels: the head of {config.name} has a fixed width; leave the "
            "setting out"
        )
    if problems:
        raise ConfigError(problems)


def _load(backbone: nn.Module, config: ModelConfig, source: str) -> None:
    """Load the encoder's weights from a file of the encoder or of a whole model, or from the hub.

    Raises WeightsError as `load_encoder`, or if there are none.
    """
    if path := local_weights_or_word(source, (HUB,), config.name):
        return load_encoder(backbone, read_weights(path), source)
    from torchvision.models import get_model_weights

    weights = get_model_weights(config.encoder)["IMAGENET1K_V1"]
    try:
        tensors = weights.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:  # no network; a download that was cut off
        raise weights_not_found(source, error, f"curl -O {weights.url}") from None
    load_encoder(backbone, tensors, source)
