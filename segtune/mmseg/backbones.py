"""mmsegmentation's backbones as encoders by name, and which of their keys segtune fixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from segtune.mmseg.ledger import Fixed, Ref, Row, Rule, Same

PYRAMID = "upernet and segformer take maps at 1/4, 1/8, 1/16 and 1/32"
FOLLOWS = Same("follows from model.encoder")
# By embed_dims and num_layers.
MIT = {
    (32, (2, 2, 2, 2)): "mit_b0",
    (64, (2, 2, 2, 2)): "mit_b1",
    (64, (3, 4, 6, 3)): "mit_b2",
    (64, (3, 4, 18, 3)): "mit_b3",
    (64, (3, 8, 27, 3)): "mit_b4",
    (64, (3, 6, 40, 3)): "mit_b5",
}
# By embed_dims, the depth of stage 3, and window_size.
SWIN = {
    (96, 6, 7): "swin_tiny_patch4_window7_224",
    (96, 18, 7): "swin_small_patch4_window7_224",
    (128, 18, 7): "swin_base_patch4_window7_224",
    (128, 18, 12): "swin_base_patch4_window12_384",
    (192, 18, 7): "swin_large_patch4_window7_224",
    (192, 18, 12): "swin_large_patch4_window12_384",
}
VIT = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
RESNETS = ("ResNet", "ResNetV1c", "ResNetV1d")
# timm's ResNets with mmseg's stem of V1c.
DEEP_STEMS = (50, 101, 152)


class Encoder(NamedTuple):
    """An encoder of timm, or a MiT."""

    family: str  # mit, resnet, swin, convnext, vit, unet, mobilenet
    name: str
    remark: str = ""


def encoder_of(backbone: Ref) -> Encoder | None:
    """Return the encoder for a backbone; None if segtune knows none."""
    kind = backbone.type
    width = backbone.value("embed_dims", 64)
    match kind:
        case "MixVisionTransformer" | "MiT":
            depths = tuple(backbone.value("num_layers", [3, 4, 6, 3]))
            name = MIT.get((width, depths)) or (kind if kind.startswith("mit_") else None)
            return Encoder("mit", name) if name else None
        case "mit_b0" | "mit_b1" | "mit_b2" | "mit_b3" | "mit_b4" | "mit_b5":
            return Encoder("mit", kind)
        case "ResNet" | "ResNetV1c" | "ResNetV1d":
            return _resnet(kind, backbone.value("depth", 50))
        case "ResNeXt":
            groups = backbone.value("groups", 1)
            cardinality = f"{groups}x{backbone.value('base_width', 4)}d"
            return Encoder("resnet", f"resnext{backbone.value('depth', 50)}_{cardinality}")
        case "ResNeSt":
            depth = backbone.value("depth", 50)
            return Encoder("resnet", f"resnest{depth}{'d' if depth == 50 else 'e'}")
        case "SwinTransformer":
            depths = backbone.value("depths", [2, 2, 6, 2])
            if len(depths) != 4 or [*depths[:2], depths[3]] != [2, 2, 2]:
                return None
            key = (backbone.value("embed_dims", 96), depths[2], backbone.value("window_size", 7))
            return Encoder("swin", SWIN[key]) if key in SWIN else None
        case "ConvNeXt":
            return Encoder("convnext", f"convnext_{backbone.value('arch', 'tiny')}")
        case "VisionTransformer":
            size = VIT.get(backbone.value("embed_dims", 768))
            patch = backbone.value("patch_size", 16)
            return Encoder("vit", f"vit_{size}_patch{patch}_224") if size else None
        case "MobileNetV2":
            return Encoder("mobilenet", "mobilenetv2_100")
        case "MobileNetV3":
            return Encoder("mobilenet", "mobilenetv3_large_100")
        case "UNet":
            remark = "mmseg's U-Net has an encoder of its own, without a name"
            return Encoder("unet", "resnet34", remark)
    return None


def _resnet(kind: str, depth: int) -> Encoder:
    plain = f"resnet{depth}"
    if kind == "ResNet":
        return Encoder("resnet", plain)
    if kind == "ResNetV1c" and depth in DEEP_STEMS:
        remark = (
            f"ResNetV1c has a stem of three convolutions, as timm's {plain}c; timm's {plain} has "
            f"one, and {plain}d also pools in its shortcuts"
        )
        return Encoder("resnet", f"{plain}c", remark)
    return Encoder("resnet", f"{plain}d")


# mmseg's stochastic depth if a config leaves it out; 0 for other families.
DROP_PATH = {"swin": 0.1}
TRANSFORMER: dict[str, Rule] = {
    "in_channels": Fixed((3,)),
    "embed_dims": FOLLOWS,
    "num_layers": FOLLOWS,
    "num_heads": FOLLOWS,
    "num_stages": FOLLOWS,
    "depths": FOLLOWS,
    "out_indices": Fixed(([0, 1, 2, 3],), PYRAMID),
    "mlp_ratio": Fixed((4,)),
    "qkv_bias": Fixed((True,)),
    "qk_scale": FOLLOWS,
    "drop_rate": Fixed((0,)),
    "attn_drop_rate": Fixed((0,)),
    "drop_path_rate": Row("model.drop_path", float),
    "norm_cfg": FOLLOWS,
    "act_cfg": FOLLOWS,
    "with_cp": Same("saves memory only"),
    "pretrain_img_size": FOLLOWS,
}
RESNET: dict[str, Rule] = {
    "depth": FOLLOWS,
    "in_channels": Fixed((3,)),
    "num_stages": Fixed((4,)),
    "norm_eval": Fixed((False,)),
    "style": Fixed(("pytorch",)),
    "contract_dilation": Fixed((True,)),
    "frozen_stages": Fixed((-1, 0)),
    "with_cp": Same("saves memory only"),
    "groups": FOLLOWS,
    "base_width": FOLLOWS,
    "radix": FOLLOWS,
    "reduction_factor": FOLLOWS,
    "avg_down_stride": FOLLOWS,
    "stem_channels": FOLLOWS,
    "zero_init_residual": Fixed((True,)),
}
# Strides and dilations of the four stages, by the factor that the last map is smaller than the
# image.
STRIDES: Mapping[int, tuple[list[int], list[int]]] = {
    8: ([1, 2, 1, 1], [1, 1, 2, 4]),
    16: ([1, 2, 2, 1], [1, 1, 1, 2]),
    32: ([1, 2, 2, 2], [1, 1, 1, 1]),
}
ONE_STAGE = "segtune's encoder has maps at all sizes, whose strides follow from model.name"
RULES: dict[str, dict[str, Rule]] = {
    "mit": {
        **TRANSFORMER,
        "style": Same("not used"),
        "patch_sizes": Fixed(([7, 3, 3, 3],)),
        "sr_ratios": Fixed(([8, 4, 2, 1],)),
        "strides": Fixed(([4, 2, 2, 2],)),
    },
    "swin": {
        **TRANSFORMER,
        "patch_size": FOLLOWS,
        "window_size": FOLLOWS,
        "strides": Fixed(([4, 2, 2, 2],)),
        "patch_norm": Fixed((True,)),
        "use_abs_pos_embed": Fixed((False,)),
    },
    "convnext": {
        "arch": FOLLOWS,
        "out_indices": Fixed(([0, 1, 2, 3],), PYRAMID),
        "drop_path_rate": Row("model.drop_path", float),
        "layer_scale_init_value": Fixed((1e-6, 1.0)),
        "gap_before_final_norm": Fixed((False,)),
    },
    "vit": {
        **TRANSFORMER,
        "img_size": Same("segtune's encoder takes images of any size"),
        "patch_size": FOLLOWS,
        "out_indices": Fixed((), "segtune chooses the blocks that give the maps"),
        "with_cls_token": FOLLOWS,
        "final_norm": FOLLOWS,
        "norm_eval": Fixed((False,)),
        "interpolate_mode": FOLLOWS,
    },
    "resnet": {**RESNET},
    "mobilenet": {},
    "unet": {},
}


def backbone_rules(encoder: Encoder, stride: int) -> dict[str, Rule]:
    """Return the rules for the keys of a backbone in a network whose last map is at 1/stride."""
    rules = dict(RULES[encoder.family])
    if encoder.family == "resnet":
        strides, dilations = STRIDES[stride]
        rules |= {
            "strides": Fixed((strides,), f"the last map of segtune's model is at 1/{stride}"),
            "dilations": Fixed((dilations,), f"the last map of segtune's model is at 1/{stride}"),
            "out_indices": Fixed(([0, 1, 2, 3],), PYRAMID),
        }
    return rules
