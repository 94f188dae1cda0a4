"""SegFormer: transformers' MiT encoder with a folded head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from segtune.config.schema import ModelConfig
from segtune.errors import ConfigError, WeightsError, nearest
from segtune.models.pretrained import absent, load_encoder, read_weights, to_transformers_names
from segtune.models.segformer_head import decode

# hidden sizes, depths, width of the head (Xie et al. 2021, table 6). mit_nano is ours: small enough for trials on a CPU.
MIT: dict[str, tuple[list[int], list[int], int]] = {
    "mit_nano": ([16, 32, 64, 96], [1, 1, 1, 1], 64),
    "mit_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "mit_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "mit_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "mit_b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "mit_b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "mit_b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}


class SegFormer(nn.Module):
    """A MiT encoder with the all-MLP head."""

    head = ("net.decode_head.",)

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if config.encoder not in MIT:
            raise ConfigError(
                [
                    f"model.encoder: segformer takes {', '.join(MIT)}; got {config.encoder!r}{nearest(config.encoder, MIT)}"
                ]
            )
        sizes, depths, width = MIT[config.encoder]
        self.net = SegformerForSemanticSegmentation(
            SegformerConfig(
                hidden_sizes=sizes,
                depths=depths,
                num_attention_heads=[1, 2, 4, 8] if config.encoder == "mit_nano" else [1, 2, 5, 8],
                decoder_hidden_size=config.decoder_channels or width,
                drop_path_rate=config.drop_path,
                num_labels=num_classes,  # pyright: ignore[reportCallIssue]
            )
        )
        if config.weights:
            _load_mit(self.net.segformer, config.weights)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Returns logits [N, C, h/4, w/4] for images [N, 3, h, w]; with `with_auxiliary` the pair (logits, None)."""
        logits = decode(
            self.net.decode_head,
            self.net.segformer(images, output_hidden_states=True).hidden_states,
        )
        return (logits, None) if with_auxiliary else logits


def _load_mit(encoder: nn.Module, given: str) -> None:
    """Loads a MiT from a file of any naming, a local folder of transformers, or the hub."""
    path = Path(given)
    if path.is_file():
        return load_encoder(encoder, to_transformers_names(read_weights(path)), given)
    if not path.is_dir() and (path.suffix or given.count("/") != 1):
        raise absent(given, "not a hub id of the form owner/name")
    try:
        offline = path.is_dir() or bool(os.environ.get("HF_HUB_OFFLINE"))
        pretrained, report = SegformerModel.from_pretrained(
            given, local_files_only=offline, output_loading_info=True
        )  # pyright: ignore[reportGeneralTypeIssues]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if path.is_dir():
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"model.weights: {given}: expected config.json and model.safetensors of a SegFormer: {reason}"
            ) from None
        raise absent(given, error) from None
    # transformers leaves what a file lacks at random, with no more than a warning.
    weights = {
        name: value
        for name, value in pretrained.state_dict().items()
        if name not in report["missing_keys"]
    }
    load_encoder(encoder, weights, given)
