"""mmsegmentation's models to the settings in `model`: architecture, encoder, weights."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from segtune.mmseg.backbones import DROP_PATH, Encoder, backbone_rules, encoder_of
from segtune.mmseg.ledger import Left, Ref, Same, apply
from segtune.mmseg.map_heads import map_auxiliary, map_head, map_norm
from segtune.mmseg.map_loss import fill_loss, map_losses

# Weights that each library has for its encoders, by the beginning of model.name.
OWN_WEIGHTS = {"upernet": "timm", "smp:": "imagenet", "": "torchvision"}
MIT_FILE = re.compile(r"mit_(b[0-5])")
# A ResNet, without the letter of its stem.
PLAIN_RESNET = re.compile(r"resnet\d+(?=[cd]?$)")
REMOTE = re.compile(r"[a-z-]+://")


class Network(NamedTuple):
    """An architecture of segtune."""

    name: str
    stride: int = 32  # the last map of the encoder is at 1/stride
    remark: str = ""
    is_other: bool = False  # another network than mmseg's, as the remark says


def map_model(root: Ref, num_classes: int | None) -> None:
    """Map the model with its losses."""
    model = root.get("model")
    if model is None or not model.is_dict:
        text = "the model is not known" if model else "the config has no model"
        root.ledger.note(f"{text}: set model.name and model.encoder", changes_numbers=True)
        fill_loss(root)
        return
    kind = model.get("type")
    if kind and model.type == "EncoderDecoder":
        kind.same("every model of segtune is one")
    elif kind:
        kind.leave("segtune trains one encoder and one decode head")
    backbone, head = model.get("backbone"), model.get("decode_head")
    encoder = _map_architecture(model, backbone, head)
    _map_weights(model, backbone, encoder)
    if head and head.is_dict:
        map_head(head, num_classes)
        map_losses(head)
        map_auxiliary(model, head, num_classes)
    elif head:
        head.leave("segtune has one decode head")
    fill_loss(root)
    _map_neck(model)
    apply(model, {"train_cfg": Same("empty in mmseg"), "asymmetric_loss": Same("not used")})
    _map_test_cfg(model.get("test_cfg"))
    _map_test_cfg(root.get("test_cfg") if not root.get("test_dataloader") else None)


def _network(head: str, encoder: Encoder) -> Network | None:
    """Return the architecture for a head and an encoder."""
    family, plain = encoder.family, PLAIN_RESNET.match(encoder.name)
    torchvision = plain[0] if plain and plain[0] in ("resnet50", "resnet101") else None
    match head:
        case "SegformerHead" | "SegFormerHead" if family == "mit":
            remark = "mmseg's head has a norm and a ReLU after each projection; segtune's head is "
            return Network("segformer", remark=remark + "that of the paper")
        case "UPerHead":
            return Network("upernet")
        case "DepthwiseSeparableASPPHead":
            return Network("smp:DeepLabV3Plus", 16)
        case "ASPPHead" if torchvision:
            return Network(f"deeplabv3_{torchvision}", 8)
        case "FCNHead" if torchvision:
            return Network(f"fcn_{torchvision}", 8)
        case "FCNHead" if family == "unet":
            remark = "a U-Net with another encoder and decoder"
            return Network("smp:Unet", remark=remark, is_other=True)
        case "FCNHead" if family == "vit":
            remark = "upernet's head instead of an FCN head on a neck"
            return Network("upernet", remark=remark, is_other=True)
        case "ASPPHead":
            return Network("smp:DeepLabV3", 8)
        case "PSPHead":
            remark = "smp ends the encoder after stage 2, at 1/8, and dilates nothing"
            return Network("smp:PSPNet", 8, remark, is_other=True)
        case "FPNHead":
            return Network("smp:FPN")
        case "LRASPPHead":
            return Network("lraspp_mobilenet_v3_large", 16)
    return None


def _map_architecture(model: Ref, backbone: Ref | None, head: Ref | None) -> Encoder | None:
    """Set model.name and model.encoder; return the encoder."""
    settings = model.ledger.settings
    settings |= {"model.drop_path": 0.0, "model.sync_norms": False}
    _report_absent(model, backbone, head)
    encoder = encoder_of(backbone) if backbone else None
    kind = backbone.get("type") if backbone else None
    if backbone is None or encoder is None or kind is None:
        _replace_encoder(model, backbone, head)
        return None
    network = _map_head_type(model, head, encoder)
    name = network.name
    settings["model.encoder"] = _named_for(name, encoder)
    remark = _encoder_remark(name, encoder)
    if name.startswith(("segformer", "upernet", "smp:")):
        kind.carry({"model.encoder": _named_for(name, encoder)}, remark)
    else:
        settings.pop("model.encoder")
        kind.carry({"model.name": name}, remark) if remark else kind.same("part of model.name")
    by_name = backbone.type.startswith("mit_b")  # the classes of SegFormer's authors
    settings["model.drop_path"] = 0.1 if by_name else DROP_PATH.get(encoder.family, 0.0)
    _map_backbone_keys(backbone, encoder, network)
    return encoder


def _report_absent(model: Ref, backbone: Ref | None, head: Ref | None) -> None:
    """Report a backbone or a decode head that is absent or has no type."""
    parts = (
        ("backbone", backbone, "resnet50 is in its place, see model.encoder"),
        ("decode_head", head, "upernet is in its place, see model.name"),
    )
    for name, part, way_out in parts:
        if part is None:
            model.ledger.note(f"the model has no {name}: {way_out}", changes_numbers=True)
        elif part.is_dict and part.get("type") is None:
            part.leave(f"it has no type; {way_out}")


def _replace_encoder(model: Ref, backbone: Ref | None, head: Ref | None) -> None:
    """Take upernet with resnet50, because the encoder is not known."""
    model.ledger.settings |= {"model.name": "upernet", "model.encoder": "resnet50"}
    kind = backbone.get("type") if backbone else None
    text = "segtune knows no such encoder; resnet50 is in its place, see model.encoder"
    if backbone and (kind or not backbone.is_dict):
        backbone.leave(text)
    if kind and kind.node.unresolved:
        kind.leave(text)
    head_kind = head.get("type") if head else None
    if head_kind and head and head.type == "UPerHead":
        head_kind.carry({"model.name": "upernet"})
    elif head_kind:
        head_kind.leave("upernet is in its place, because the encoder is not known")


def _map_head_type(model: Ref, head: Ref | None, encoder: Encoder) -> Network:
    """Set model.name; return the architecture, upernet if segtune has no such one."""
    known = _network(head.type, encoder) if head else None
    network = known or Network("upernet")
    model.ledger.settings["model.name"] = network.name
    kind = head.get("type") if head else None
    if kind and known:
        kind.carry({"model.name": network.name}, network.remark)
        if network.is_other:
            kind.leave(f"model.name is {network.name}: {network.remark}")
    elif kind:
        kind.leave("segtune has no such architecture; upernet is in its place")
    return network


def _map_backbone_keys(backbone: Ref, encoder: Encoder, network: Network) -> None:
    """Map the keys of the backbone, without its type and its weights."""
    rules = backbone_rules(encoder, network.stride)
    if network.name == "smp:PSPNet":
        keys = ("strides", "dilations", "num_stages", "out_indices")
        rules |= dict.fromkeys(keys, Left(network.remark))
    apply(backbone, rules)
    if backbone.get("norm_cfg") and encoder.family == "resnet":
        map_norm(backbone.get("norm_cfg"))
    if encoder.family not in ("unet", "mobilenet"):
        return
    for part in backbone.parts().values():
        is_weights = part.key.endswith(("init_cfg", "pretrained"))
        if part.key not in backbone.ledger.entries and not is_weights:
            part.leave(f"the encoder of segtune is {_named_for(network.name, encoder)}")


def _named_for(model_name: str, encoder: Encoder) -> str:
    """Return the name of an encoder in the library of a model."""
    plain = PLAIN_RESNET.match(encoder.name)
    if plain and not model_name.startswith("upernet"):
        return plain[0]
    if model_name.startswith("smp:") and encoder.family != "unet":
        return f"tu-{encoder.name}"
    return encoder.name


def _encoder_remark(model_name: str, encoder: Encoder) -> str:
    """Return what the encoder of a model has otherwise than the backbone."""
    named = _named_for(model_name, encoder)
    if PLAIN_RESNET.match(encoder.name) and named != encoder.name:
        return f"the {named} of {model_name} has a stem of one convolution, mmseg's of three"
    return encoder.remark


def _map_weights(model: Ref, backbone: Ref | None, encoder: Encoder | None) -> None:
    """Map `pretrained` and `init_cfg` of the backbone."""
    init = backbone.get("init_cfg") if backbone else None
    if init and init.is_dict and init.type == "Pretrained":
        kind = init.get("type")
        if kind:
            kind.same("model.weights")
        apply(init, {"prefix": Same("segtune finds the encoder under any prefix")})
    elif init:
        init.leave("segtune starts with the initial weights of its libraries")
    checkpoint = init.get("checkpoint") if init and init.is_dict else None
    for source in (
        model.get("pretrained"),
        backbone.get("pretrained") if backbone else None,
        checkpoint,
    ):
        if source:
            _carry_weights(source, encoder)


def _carry_weights(source: Ref, encoder: Encoder | None) -> None:
    path = source.plain
    if not isinstance(path, str):
        source.leave("expected the path of a file of weights")
        return
    name = str(source.ledger.settings.get("model.name"))
    mit = MIT_FILE.search(path)
    if not REMOTE.match(path):
        source.carry({"model.weights": path})
    elif mit and encoder:
        hub = f"nvidia/mit-{mit[1]}"
        source.carry({"model.weights": hub}, f"the same ImageNet weights as {path}")
    elif encoder is None or encoder.family == "unet":
        source.leave("weights of another encoder; see model.encoder and model.weights")
    else:
        own = next(word for start, word in OWN_WEIGHTS.items() if name.startswith(start))
        remark = f"ImageNet weights of the same encoder, but not the file {path}; to use that "
        source.carry({"model.weights": own}, remark + "file, download it and set model.weights")


def _map_neck(model: Ref) -> None:
    neck = model.get("neck")
    if neck is None:
        return
    name = model.ledger.settings.get("model.name")
    if neck.type == "FPN" and name == "smp:FPN":
        neck.same("part of smp:FPN")
    else:
        neck.leave(f"segtune has no necks; {name} makes its maps itself")


def _map_test_cfg(test: Ref | None) -> None:
    """Map `test_cfg`: whole images or sliding windows, whose sizes are (height, width)."""
    if test is None:
        return
    mode = test.get("mode")
    if mode and mode.plain == "whole":
        mode.same("segtune predicts whole images in validation")
        return
    if mode is None:
        return
    crop, stride = test.get("crop_size"), test.get("stride")
    for ref, setting in ((mode, "val.mode"), (crop, "val.window"), (stride, "val.stride")):
        if ref:
            value: Any = ref.plain
            ref.carry({setting: [value, value] if isinstance(value, int) else value})
