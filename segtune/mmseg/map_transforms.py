"""mmsegmentation's transforms of training to `data.resize`, `data.crop` and `augment`."""

from __future__ import annotations

from typing import Any

from segtune.mmseg.ledger import Fixed, Ref, Row, Rule, Same, apply, is_number

PHOTOMETRIC: dict[str, Rule] = {
    "brightness_delta": Fixed((32,)),
    "contrast_range": Fixed(([0.5, 1.5],)),
    "saturation_range": Fixed(([0.5, 1.5],)),
    "hue_delta": Fixed((18,)),
}
LOADING = "segtune reads, normalises and pads images itself"
# Transforms that segtune does anyway.
SAME_TRANSFORMS = (
    *("LoadImageFromFile", "PackSegInputs", "Collect", "DefaultFormatBundle", "Normalize"),
    *("ImageToTensor", "Pad", "TestTimeAug", "LoadImageFromNDArray"),
)
# Mean and standard deviation per channel, R G B, in 0..255.
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
NORMALISATION = "segtune normalises with ImageNet's mean and deviation"
PADS = "segtune pads training crops to data.crop"
PREPROCESSOR: dict[str, Rule] = {
    "type": Fixed(("SegDataPreProcessor",)),
    "mean": Fixed((IMAGENET[0],), NORMALISATION),
    "std": Fixed((IMAGENET[1],), NORMALISATION),
    "bgr_to_rgb": Fixed((True,), NORMALISATION),
    "to_rgb": Fixed((True,), NORMALISATION),
    "rgb_to_bgr": Fixed((False,), NORMALISATION),
    "pad_val": Fixed((0,), "segtune pads with the mean colour, which is 0 after normalisation"),
    "seg_pad_val": Row("data.ignore_index"),
    "size_divisor": Same("segtune pads to the size that the encoder needs"),
    "test_cfg": Same("segtune pads to the size that the encoder needs"),
}


def map_transform(ref: Ref, val_size: list[float], *, is_old: bool) -> None:
    """Map a transform of training."""
    kind = ref.type
    if kind in SAME_TRANSFORMS:
        if kind == "Pad":
            _compare_padding(ref, is_old=is_old)
        map_loading(ref)
        return
    handlers = {
        "LoadAnnotations": map_annotations,
        "RandomResize": _map_resize,
        "Resize": _map_resize,
        "RandomCrop": _map_crop,
        "RandomFlip": _map_flip,
        "PhotoMetricDistortion": _map_photometric,
        "RandomCutOut": _map_cutout,
        "RandomRotate": _map_rotate,
        "RandomErasing": _map_erasing,
        "Albu": _map_albu,
    }
    handler = handlers.get(kind)
    if kind == "RandomChoiceResize":
        _map_choice(ref, val_size)
    elif handler is None:
        ref.leave(f"segtune has no transform {kind}; see augment in docs/config.md")
    elif handler is _map_resize:
        _map_resize(ref, keeps_ratio=is_old)
    else:
        handler(ref)


def report_type(ref: Ref, settings: dict[str, Any] | None = None, remark: str = "") -> None:
    """Report the type of a transform."""
    kind = ref.get("type")
    if kind and settings:
        kind.carry(settings, remark)
    elif kind:
        kind.same("a step of segtune's augmentation, in the order of docs/config.md")


def map_loading(ref: Ref) -> None:
    """Report a transform that reads, normalises or pads: segtune does this itself."""
    report_type(ref)
    rules: dict[str, Rule] = {
        "mean": PREPROCESSOR["mean"],
        "std": PREPROCESSOR["std"],
        "to_rgb": PREPROCESSOR["to_rgb"],
        "pad_val": PREPROCESSOR["pad_val"],
        "seg_pad_val": Row("data.ignore_index"),
    }
    for name in ref.parts():
        rules.setdefault(name, Same(LOADING))
    apply(ref, rules)


def _compare_padding(ref: Ref, *, is_old: bool) -> None:
    """Compare Pad with the crop before it. Its size is (h, w) in mmseg 0.x, (w, h) in mmcv 2."""
    crop = ref.ledger.settings.get("data.crop")
    if crop is not None:
        apply(ref, {"size": Fixed((crop if is_old else crop[::-1],), PADS)})


def map_annotations(ref: Ref) -> None:
    """Map LoadAnnotations, which may set reduce_zero_label."""
    report_type(ref)
    apply(ref, {"reduce_zero_label": Row("data.reduce_zero_label")})
    apply(ref, {name: Same(LOADING) for name in ("imdecode_backend", "backend_args")})


def _map_resize(ref: Ref, *, keeps_ratio: bool) -> None:
    """Map Resize and RandomResize. mmcv's `scale` is (w, h); with keep_ratio, its order is free."""
    report_type(ref)
    scale = ref.first("scale", "img_scale")
    if scale:
        carry_size(scale)
    ratio = ref.get("ratio_range")
    if ratio:
        ratio.carry({"augment.ratio": _floats(ratio.plain)})
    apply(ref, {"resize_type": Fixed(("Resize",)), "interpolation": Fixed(("bilinear",))})
    keep = ref.get("keep_ratio")
    reason = "segtune keeps the proportions of an image; mmseg stretches it to this size"
    if keep and keep.plain is True:
        keep.same("segtune keeps the proportions")
    elif keep:
        keep.leave(reason)
    elif not keeps_ratio and scale:
        scale.leave(f"{reason} (keep_ratio is not set, and mmcv's default is False)")


def carry_size(scale: Ref) -> None:
    """Set data.resize, which is (long side, short side)."""
    sides = scale.plain
    if isinstance(sides, int):
        sides = [sides, sides]
    if not (isinstance(sides, list) and len(sides) == 2 and all(map(is_number, sides))):
        scale.leave("expected two sides; segtune has data.resize: [long, short]")
        return
    scale.carry({"data.resize": [int(max(sides)), int(min(sides))]})


def _map_choice(ref: Ref, val_size: list[float]) -> None:
    """Map RandomChoiceResize: one of several sizes, as factors of the size of validation.

    Without that size, they are factors of the size in the middle.
    """
    scales = ref.get("scales")
    sizes = scales.plain if scales and isinstance(scales.plain, list) else []
    pairs = [size if isinstance(size, list) else [size] for size in sizes]
    if (
        scales is None
        or not pairs
        or not all(pairs)
        or not all(is_number(s) and s > 0 for p in pairs for s in p)
    ):
        ref.leave("its sizes are not known")
        return
    report_type(ref)
    shorts = [min(pair) for pair in pairs]
    middle = pairs[len(pairs) // 2]
    # A short side alone: the long side is free, up to max_size.
    longest, base = val_size or [max(middle) if len(middle) > 1 else 4 * middle[0], min(middle)]
    remark = "in segtune the largest long side changes with the factor too"
    scales.carry({"data.resize": [int(longest), int(base)]})
    factors = [round(short / base, 6) for short in shorts]
    scales.carry({"augment.scales": factors}, remark)
    ref.ledger.settings.pop("augment.ratio", None)
    apply(
        ref,
        {
            "resize_type": Fixed(("ResizeShortestEdge", "Resize")),
            "keep_ratio": Fixed((True,)),
            "max_size": Same("the long side of data.resize"),
        },
    )


def _map_crop(ref: Ref) -> None:
    report_type(ref)
    size = ref.get("crop_size")
    if size:
        sides = size.plain
        size.carry({"data.crop": [sides, sides] if isinstance(sides, int) else sides})
    ratio = ref.get("cat_max_ratio")
    if ratio:
        ratio.carry({"augment.cat_max_ratio": ratio.plain})
    apply(ref, {"ignore_index": Row("data.ignore_index")})


def _map_flip(ref: Ref) -> None:
    report_type(ref)
    prob = ref.first("prob", "flip_ratio")
    if prob:
        prob.carry({"augment.flip": prob.plain})
    apply(ref, {"direction": Fixed(("horizontal",), "segtune flips left and right only")})


def _map_photometric(ref: Ref) -> None:
    report_type(ref, {"augment.photometric": True})
    apply(ref, PHOTOMETRIC)


def _map_cutout(ref: Ref) -> None:
    """Map RandomCutOut. Its shapes are (w, h), as pixels or as fractions of the crop."""
    report_type(ref)
    apply(ref, {"prob": Row("augment.cutout.prob", float)})
    holes = ref.get("n_holes")
    if holes:
        number = holes.plain
        holes.carry({"augment.cutout.holes": [number] * 2 if isinstance(number, int) else number})
    ratio = ref.get("cutout_ratio")
    if ratio:
        _carry_hole_size(ratio)
    labels = "segtune does not train on the labels under a hole (they become ignore_index)"
    apply(
        ref,
        {
            "cutout_shape": Fixed((), "in pixels; set augment.cutout.size, a fraction of the crop"),
            "fill_in": Same("segtune fills holes with one colour, the mean"),
            "seg_fill_in": Fixed((255,), labels),
        },
    )
    if ref.get("seg_fill_in") is None:
        ref.ledger.note(f"{ref.key}: seg_fill_in is not set: mmseg keeps the labels; {labels}")


def _carry_hole_size(ratio: Ref) -> None:
    """Set the range of the sides from one shape (w, h) or a list of shapes."""
    shapes = ratio.plain if isinstance(ratio.plain, list) else []
    shapes = shapes if all(isinstance(shape, list) for shape in shapes) else [shapes]
    sides = [side for shape in shapes for side in shape]
    if not sides or not all(map(is_number, sides)):
        ratio.leave("expected (w, h) or a list of these; see augment.cutout.size")
        return
    is_square = len(shapes) == 1 and len(set(sides)) == 1
    remark = (
        "mmseg draws one of these shapes; segtune draws both sides between the smallest and the "
        "largest"
    )
    size = [float(min(sides)), float(max(sides))]
    ratio.carry({"augment.cutout.size": size}, "" if is_square else remark)


def _map_rotate(ref: Ref) -> None:
    prob, degree = ref.get("prob"), ref.get("degree")
    report_type(ref)
    if prob:
        prob.carry({"augment.rotate.prob": prob.plain})
    if degree:
        angle = degree.plain
        angles = [-abs(angle), abs(angle)] if is_number(angle) else angle
        degree.carry({"augment.rotate.degree": _floats(angles)})
    apply(
        ref,
        {
            "pad_val": Same("segtune fills with the mean colour"),
            "seg_pad_val": Fixed((255,)),
            "auto_bound": Fixed((False,)),
        },
    )


def _map_erasing(ref: Ref) -> None:
    """Map mmpretrain's RandomErasing, whose areas are fractions of the image."""
    report_type(ref)
    areas = [ref.value("min_area_ratio", 0.02), ref.value("max_area_ratio", 0.4)]
    apply(
        ref,
        {
            "erase_prob": Row("augment.erase.prob", float),
            "min_area_ratio": Row("augment.erase.area", lambda _: areas),
            "max_area_ratio": Row("augment.erase.area", lambda _: areas),
            "mode": Fixed(("const", "rand"), "see augment.erase.fill"),
        },
    )


def _map_albu(ref: Ref) -> None:
    """Map transforms of albumentations: `type` becomes `name`."""
    report_type(ref)
    transforms = ref.get("transforms")
    if transforms is None:
        return
    if not all(item.is_dict for item in transforms.items()):
        transforms.leave("expected a list of dict(type=…)")
        return
    extra = [
        {"name": str(item.get("type")), **{k: v for k, v in item.items() if k != "type"}}
        for item in (ref.plain for ref in transforms.items())
    ]
    transforms.carry({"augment.extra": extra})
    for name in ("keymap", "update_pad_shape", "bgr_to_rgb"):
        part = ref.get(name)
        if part:
            part.same("segtune passes RGB images and their masks")


def _floats(value: Any) -> Any:
    """Return a list with its numbers as floats; any other value as it is."""
    if not isinstance(value, list):
        return value
    return [float(item) if is_number(item) else item for item in value]
