"""The keys of mmsegmentation's decode heads, auxiliary heads and norms to settings in `model`."""

from __future__ import annotations

from typing import Any

from segtune.mmseg.ledger import Fixed, Left, Ref, Row, Rule, Same, apply
from segtune.mmseg.map_loss import AUXILIARY_WEIGHT, map_auxiliary_losses

FROM_ENCODER = Same("follows from the encoder")
HEAD: dict[str, Rule] = {
    "in_channels": FROM_ENCODER,
    "in_index": FROM_ENCODER,
    "input_transform": FROM_ENCODER,
    "align_corners": Fixed((False,)),
    "ignore_index": Row("data.ignore_index"),
    "act_cfg": Fixed(({"type": "ReLU"},)),
    "interpolate_mode": Fixed(("bilinear",)),
    "pool_scales": Fixed(([1, 2, 3, 6],)),
    "feature_strides": FROM_ENCODER,
    "out_channels": Fixed((), "segtune has one output per class"),
    "threshold": Fixed((), "segtune has one output per class"),
}

# Keys of the auxiliary head: segtune's value, and mmseg's if a config leaves the key out.
AUXILIARY: dict[str, tuple[Any, Any]] = {
    "in_index": (2, -1),
    "num_convs": (1, 2),
    "concat_input": (False, True),
}


def map_norm(norm: Ref | None) -> None:
    """Map `norm_cfg`: SyncBN computes statistics over all workers."""
    if norm is None:
        return
    kind = norm.get("type")
    if kind and norm.type in ("SyncBN", "BN", "BN2d"):
        kind.carry({"model.sync_norms": norm.type == "SyncBN"})
    elif kind:
        kind.leave("segtune has batch norms here")
    apply(norm, {"requires_grad": Fixed((True,)), "eps": Fixed((1e-5,))})


def map_head(head: Ref, num_classes: int | None) -> None:
    """Map the keys of the decode head, without its type and its losses."""
    name = str(head.ledger.settings.get("model.name"))
    rules = dict(HEAD)
    if name in ("segformer", "upernet"):
        rules["channels"] = Row("model.decoder_channels")
        rules["dropout_ratio"] = Row("model.dropout", float)
    if name.startswith(("smp:", "deeplabv3_", "fcn_", "lraspp_")):
        reason = f"the head of {name} has a size of its own"
        for key in ("channels", "c1_in_channels", "c1_channels", "num_convs", "concat_input"):
            rules[key] = Left(reason)
        rules["dropout_ratio"] = Left(f"the head of {name} has a dropout of its own")
        rules["dilations"] = Fixed(([1, 12, 24, 36],))
        rules["c1_in_channels"] = FROM_ENCODER
        rules["c1_channels"] = Fixed((48,))
    authors = head.get("decoder_params")  # in the configs of SegFormer's authors
    if authors and name == "segformer":
        apply(authors, {"embed_dim": Row("model.decoder_channels")})
        rules["channels"] = Same("decoder_params says it")
    apply(head, rules)
    map_norm(head.get("norm_cfg"))
    _map_num_classes(head, num_classes)


def _map_num_classes(head: Ref, num_classes: int | None) -> None:
    ref = head.get("num_classes")
    if ref is None:
        return
    if num_classes is None and isinstance(ref.plain, int):
        names = [f"class_{label}" for label in range(ref.plain)]
        ref.carry({"data.classes": names}, "the names are not in the config; set data.classes")
    elif num_classes is None:
        ref.leave("the names of the classes are not known; set data.classes")
    elif ref.plain == num_classes:
        ref.same("the number of data.classes")
    else:
        ref.leave(f"the data set has {num_classes} classes, and segtune has one output for each")


def map_auxiliary(model: Ref, decode_head: Ref, num_classes: int | None) -> None:
    """Map the auxiliary head: upernet and torchvision's models have one with a fixed form."""
    name = str(model.ledger.settings.get("model.name"))
    heads = model.get("auxiliary_head")
    has_one = name == "upernet" or name.startswith(("deeplabv3_", "fcn_"))
    if heads is None:
        if has_one:
            text = f"segtune's {name} has an auxiliary head with weight {AUXILIARY_WEIGHT}"
            model.ledger.note(f"{text}; mmseg's config has none", changes_numbers=True)
        return
    items = heads.items()
    if not has_one:
        heads.leave(f"segtune's {name} has no auxiliary head")
    elif len(items) != 1 or not items[0].is_dict:
        heads.leave(f"segtune's {name} has one auxiliary head; the config has {len(items)}")
    else:
        _map_one_auxiliary(items[0], name)
        _map_num_classes(items[0], num_classes)
        map_auxiliary_losses(items[0], decode_head)


def _map_one_auxiliary(head: Ref, name: str) -> None:
    """Compare an auxiliary head with that of a model, an FCN head on the third map."""
    kind = head.get("type")
    if kind and head.type == "FCNHead":
        kind.same(f"the auxiliary head of {name}")
    elif kind:
        kind.leave(f"the auxiliary head of {name} is an FCN head")
    rules: dict[str, Rule] = {
        **HEAD,
        "channels": Fixed((256,)),
        "dropout_ratio": Row("model.dropout", float) if name == "upernet" else Fixed((0.1,)),
    }
    for key, (ours, default) in AUXILIARY.items():
        rules[key] = Fixed((ours,))
        if head.get(key) is None:
            text = f"{head.key}: {key} is not set: mmseg has {default} then, segtune has {ours}"
            head.ledger.note(text, changes_numbers=True)
    apply(head, rules)
    map_norm(head.get("norm_cfg"))
