"""The settings of the network and its pretrained weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segtune.config.settings import PathText, Settings, Share


class ModelConfig(Settings):
    """The network and its pretrained weights."""

    name: Literal["segformer", "upernet"] = Field(
        default="segformer", description="Architecture of the network."
    )
    encoder: str = Field(
        default="mit_b2",
        description="Encoder. segformer: mit_b0 to mit_b5, or mit_nano, which is small enough to "
        "train on a CPU. upernet: any timm encoder with feature maps at 1/4, 1/8, 1/16 and 1/32.",
    )
    weights: PathText | None = Field(
        default=None,
        description="Pretrained encoder weights: a file or folder of weights in which the encoder "
        "may be a part of a larger model, a checkpoint of segtune, or an id on the Hugging Face "
        "hub; for upernet also `timm`, which takes timm's own weights of the encoder. null: random "
        "weights.",
    )
    drop_path: Share = Field(
        default=0.1,
        description="Stochastic depth rate of the last encoder block. The rate grows linearly "
        "from 0 at the first block. Must be 0 for an encoder without stochastic depth.",
    )
    decoder_channels: int | None = Field(
        default=None,
        ge=8,
        description="Channels of the decode head. null: 512 for upernet; for segformer 256 with "
        "mit_b0 and mit_b1, 768 with mit_b2 to mit_b5 (as in the paper), 64 with mit_nano.",
    )
    sync_norms: bool = Field(
        default=False,
        description="Compute the statistics of batch norms over all workers of a training run. "
        "Works on GPUs only; on a CPU it is ignored with a warning.",
    )
