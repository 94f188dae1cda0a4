"""UPerNet: any encoder of timm, or the user's own, with the heads of transformers."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from segtune.config.import_path import is_import_path
from segtune.config.model_config import ModelConfig
from segtune.models.own_models import build_own_backbone
from segtune.models.segmentation_model import SegmentationModel, cut_logits, freeze_unused
from segtune.models.timm_encoder import build_timm_encoder

# Weight of UPerNet's auxiliary loss (Zhao et al. 2017, and mmseg's configs).
AUXILIARY_WEIGHT = 0.4


class UPerNet(SegmentationModel):
    """An encoder with feature maps at 1/4 to 1/32, UPerNet's head, and an FCN head.

    The encoder is one of timm or the user's own. The FCN head is for the auxiliary loss in training
    only.
    """

    head_prefixes = ("decode_head.", "auxiliary_head.", "neck.")
    classifier_prefixes = ("decode_head.classifier.", "auxiliary_head.classifier.")

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if is_import_path(config.encoder):
            self.encoder, self.maps = build_own_backbone(config)
            self.neck = None
        else:
            self.encoder, self.maps, self.neck = build_timm_encoder(config)
        self.channels = self.maps.channels
        head_config = UperNetConfig(
            hidden_size=config.decoder_channels or 512,
            num_labels=num_classes,  # pyright: ignore[reportCallIssue]
            auxiliary_channels=256,
        )
        self.decode_head = UperNetHead(head_config, self.channels)
        self.auxiliary_head = UperNetFCNHead(head_config, self.channels)
        for head in (self.decode_head, self.auxiliary_head):
            head.classifier = DropoutConv2d.around(head.classifier, config.dropout)
        if is_import_path(config.encoder):
            freeze_unused(self)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/4, w/4] for images [N, 3, h, w].

        With `with_auxiliary`, return the pair (logits, logits of the FCN head).
        """
        padded = self.maps.padded(images)
        features = self.maps.take(self.encoder, padded)
        if self.neck is not None:
            features = self.neck(features)
        logits = cut_logits(self.decode_head(features), padded, images)
        if not with_auxiliary:
            return logits
        return logits, cut_logits(self.auxiliary_head(features), padded, images)


class DropoutConv2d(nn.Conv2d):
    """A convolution that drops whole channels of its input in training, at a rate in [0, 1].

    The heads of transformers have no dropout. Here it adds no level to the names of the weights.
    """

    rate: float = 0.0

    @classmethod
    def around(cls, layer: nn.Conv2d, rate: float) -> DropoutConv2d:
        """Return a layer with the parameters of a 1x1 convolution."""
        # On no device: the layer draws no weights, so the random numbers of all others stay.
        new = cls(layer.in_channels, layer.out_channels, 1, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        new.rate = rate
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Return the maps [N, out channels, h, w] of maps [N, in channels, h, w]."""
        return super().forward(F.dropout2d(input, self.rate, self.training))
