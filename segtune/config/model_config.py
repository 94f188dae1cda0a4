"""The settings of the network and its pretrained weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from segtune.config.import_path import OWN_CODE, is_import_path
from segtune.config.settings import PathText, Settings, Share
from segtune.errors import nearest

OWN_MODELS = ("segformer", "upernet")
# torchvision's models, each with the one encoder that it has.
TORCHVISION_ENCODERS = {
    "deeplabv3_resnet50": "resnet50",
    "deeplabv3_resnet101": "resnet101",
    "deeplabv3_mobilenet_v3_large": "mobilenet_v3_large",
    "fcn_resnet50": "resnet50",
    "fcn_resnet101": "resnet101",
    "lraspp_mobilenet_v3_large": "mobilenet_v3_large",
}
# `smp:Unet` is the architecture Unet of segmentation_models_pytorch.
SMP = "smp:"
DEFAULT_ENCODER = "mit_b2"


def _check_name(name: str) -> str:
    """Return the name of a model. Raises ValueError that lists the names, with the nearest."""
    known = (*OWN_MODELS, *TORCHVISION_ENCODERS)
    is_smp = name.startswith(SMP) and name.removeprefix(SMP).isidentifier()
    if name in known or is_smp or is_import_path(name):
        return name
    raise ValueError(
        f"{name!r} is no model; allowed are {', '.join(known)}, smp:ARCHITECTURE such as smp:Unet, "
        f"and code of your own such as my_pkg.models:build{nearest(name, (*known, 'smp:Unet'))}"
    )


class ModelConfig(Settings):
    """The network and its pretrained weights."""

    name: (
        Annotated[str, AfterValidator(_check_name)]
        | Literal[
            "segformer",
            "upernet",
            "deeplabv3_resnet50",
            "deeplabv3_resnet101",
            "deeplabv3_mobilenet_v3_large",
            "fcn_resnet50",
            "fcn_resnet101",
            "lraspp_mobilenet_v3_large",
        ]
    ) = Field(
        default="segformer",
        description="Architecture of the network. deeplabv3_…, fcn_… and lraspp_… are those of "
        "torchvision. smp:Unet, smp:DeepLabV3Plus, smp:FPN and so on are the architectures of "
        'segmentation_models_pytorch (pip install "segtune[smp]"). my_pkg.models:build is a model '
        "of your own (docs/own-code.md).",
        json_schema_extra=OWN_CODE,
    )
    encoder: str = Field(
        default=DEFAULT_ENCODER,
        description="Encoder. segformer: mit_b0 to mit_b5, or mit_nano, which is small enough to "
        "train on a CPU. upernet: any timm encoder with feature maps at 1/4, 1/8, 1/16 and 1/32, a "
        "plain ViT of timm, or a backbone of your own such as my_pkg.backbones:build "
        "(docs/own-code.md). smp:…: an encoder of segmentation_models_pytorch, also tu-NAME for "
        "those of timm. torchvision's models have the encoder in their name; leave the setting "
        "out.",
        json_schema_extra=OWN_CODE,
    )
    weights: PathText | None = Field(
        default=None,
        description="Pretrained encoder weights: a file or folder of weights in which the encoder "
        "may be a part of a larger model, a checkpoint of segtune, or an id on the Hugging Face "
        "hub; for upernet also `timm`, for torchvision's models `torchvision`, and for smp:… "
        "`imagenet`: the library's own ImageNet weights of the encoder, which it downloads. null: "
        "random weights.",
    )
    drop_path: Share = Field(
        default=0.1,
        description="Stochastic depth rate of the last encoder block. The rate grows linearly "
        "from 0 at the first block. Must be 0 for an encoder without stochastic depth.",
    )
    dropout: Share = Field(
        default=0.1,
        description="Share of the features before the last layer of the decode head that training "
        "drops: whole channels in upernet's two heads (as in mmseg), single values in segformer's. "
        "Other models have a dropout of their own.",
    )
    decoder_channels: int | None = Field(
        default=None,
        ge=8,
        description="Channels of the decode head. null: 512 for upernet; for segformer 256 with "
        "mit_b0 and mit_b1, 768 with mit_b2 to mit_b5 (as in the paper), 64 with mit_nano; for "
        "smp:… that architecture's default. Must be null for a head of fixed width.",
    )
    sync_norms: bool = Field(
        default=False,
        description="Compute the statistics of batch norms over all workers of a training run. "
        "Works on GPUs only; on a CPU it is ignored with a warning.",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_only_encoder(cls, tree: Any) -> Any:
        """Put the encoder of a torchvision model in place of the default, which is segformer's."""
        if not isinstance(tree, dict):
            return tree
        name = tree.get("name")
        only = TORCHVISION_ENCODERS.get(name) if isinstance(name, str) else None
        if only is None or tree.get("encoder", DEFAULT_ENCODER) != DEFAULT_ENCODER:
            return tree
        return {**tree, "encoder": only}
