"""SegFormer: the MiT encoder of transformers with its all-MLP head, computed in a cheaper order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, nearest
from segtune.models.bilinear import resize
from segtune.models.mit_names import to_transformers_names
from segtune.models.pretrained import load_encoder
from segtune.models.segmentation_model import SegmentationModel
from segtune.models.weight_files import SUFFIXES, local_weights, read_weights, weights_not_found

# Hidden sizes, depths and head width by encoder (Xie et al. 2021, table 6). mit_nano is ours: it is
# small enough for trials on a CPU.
MIT: dict[str, tuple[list[int], list[int], int]] = {
    "mit_nano": ([16, 32, 64, 96], [1, 1, 1, 1], 64),
    "mit_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "mit_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "mit_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "mit_b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "mit_b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "mit_b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}


class SegFormer(SegmentationModel):
    """A MiT encoder with the all-MLP head."""

    head_prefixes = ("net.decode_head.",)
    classifier_prefixes = ("net.decode_head.classifier.",)

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if config.encoder not in MIT:
            raise ConfigError(
                [
                    f"model.encoder: segformer takes {', '.join(MIT)}; "
                    f"got {config.encoder!r}{nearest(config.encoder, MIT)}"
                ]
            )
        hidden_sizes, depths, head_width = MIT[config.encoder]
        self.net = SegformerForSemanticSegmentation(
            SegformerConfig(
                hidden_sizes=hidden_sizes,
                depths=depths,
                num_attention_heads=[1, 2, 4, 8] if config.encoder == "mit_nano" else [1, 2, 5, 8],
                decoder_hidden_size=config.decoder_channels or head_width,
                drop_path_rate=config.drop_path,
                classifier_dropout_prob=config.dropout,
                num_labels=num_classes,  # pyright: ignore[reportCallIssue]
            )
        )
        if config.weights:
            _load_mit(self.net.segformer, config.weights)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/4, w/4] for images [N, 3, h, w].

        With `with_auxiliary`, return the pair (logits, None): SegFormer has no auxiliary head.
        """
        maps = self.net.segformer(images, output_hidden_states=True).hidden_states
        logits = decode(self.net.decode_head, maps)
        return (logits, None) if with_auxiliary else logits


def decode(head: Any, maps: Sequence[Tensor]) -> Tensor:
    """Return the logits [N, C, h, w] of transformers' SegformerDecodeHead, computed more cheaply.

    `maps` are the feature maps of the encoder, the largest [N, C0, h, w] first.

    The head as published projects each of four maps to D channels, upsamples it to a quarter of the
    image, and fuses the 4 * D channels to D with a 1x1 convolution at that size. This is more than
    half of the compute of SegFormer-B0. But projection, upsampling and fusion are linear, and
    upsampling does not mix channels. So each projection and its part of the fusion are multiplied
    into one small matrix. It is applied at the small size of the map. The results are upsampled and
    added: the same numbers for a twentieth of the work.
    """
    # Channels stay last in memory from here to the logits. In that layout a 1x1 convolution is a
    # linear layer, and nothing is copied between the layers.
    size = maps[0].shape[-2:]
    fused: Any = 0.0
    for map_nchw, (weight, bias) in zip(maps, _fold_projections(head), strict=True):
        fused = fused + resize(F.linear(map_nchw.permute(0, 2, 3, 1), weight, bias), size)
    hidden = head.dropout(head.activation(head.batch_norm(fused.permute(0, 3, 1, 2))))
    classifier = head.classifier
    logits_nhwc = F.linear(
        hidden.permute(0, 2, 3, 1), classifier.weight.flatten(1), classifier.bias
    )
    return logits_nhwc.permute(0, 3, 1, 2)


def _fold_projections(head: Any) -> list[tuple[Tensor, Tensor]]:
    """Return, for each map, the matrix [D, channels] and bias [D] that project and fuse it."""
    # In float32: a product of weights would lose too many digits in half precision.
    with torch.autocast(head.linear_fuse.weight.device.type, enabled=False):
        parts = head.linear_fuse.weight.flatten(1).chunk(len(head.linear_projections), dim=1)
        # The fusion takes the channels of the smallest map first.
        pairs = zip(reversed(parts), (p.proj for p in head.linear_projections), strict=True)
        return [(part @ projection.weight, part @ projection.bias) for part, projection in pairs]


def _load_mit(encoder: nn.Module, source: str) -> None:
    """Load MiT weights from a file or folder of any naming, or from the hub.

    Raises WeightsError if `source` does not exist, cannot be read or does not fit the encoder.
    """
    if path := local_weights(source):
        weights = read_weights(path)
        return load_encoder(encoder, weights, source, to_transformers_names, hint=_encoder_hint)
    if Path(source).suffix in SUFFIXES or source.count("/") != 1:
        raise weights_not_found(source, "not a hub id of the form owner/name")
    try:
        pretrained, report = SegformerModel.from_pretrained(
            source,
            local_files_only=bool(os.environ.get("HF_HUB_OFFLINE")),
            output_loading_info=True,
        )  # pyright: ignore[reportGeneralTypeIssues]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise weights_not_found(source, error) from None
    # transformers leaves parameters that a file lacks at random values, and only warns.
    weights = {
        name: value
        for name, value in pretrained.state_dict().items()
        if name not in report["missing_keys"]
    }
    load_encoder(encoder, weights, source, hint=_encoder_hint)


def _encoder_hint(weights: Mapping[str, Tensor]) -> str:
    """Return which encoder has weights of these shapes, or "" if none has."""
    norms = [weights.get(f"stages.{stage}.layer_norm.weight") for stage in range(4)]
    sizes = [len(norm) for norm in norms if norm is not None]
    depths = [
        len({name.split(".")[3] for name in weights if name.startswith(f"stages.{stage}.blocks.")})
        for stage in range(4)
    ]
    fitting = (
        name for name, (hidden, blocks, _) in MIT.items() if (hidden, blocks) == (sizes, depths)
    )
    name = next(fitting, None)
    return f"They seem to be the weights of {name}: set model.encoder: {name}" if name else ""
