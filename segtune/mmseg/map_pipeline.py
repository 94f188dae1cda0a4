"""mmsegmentation's pipelines to `data.resize`, `data.crop` and the settings in `augment`."""

from __future__ import annotations

from typing import Any

from segtune.mmseg.ledger import Fixed, Ref, Row, Rule, Same, apply, is_number
from segtune.mmseg.map_data import pipelines

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
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
NORMALISATION = "segtune normalises with ImageNet's mean and deviation"
PREPROCESSOR: dict[str, Rule] = {
    "type": Fixed(("SegDataPreProcessor",)),
    "mean": Fixed((IMAGENET[0],), NORMALISATION),
    "std": Fixed((IMAGENET[1],), NORMALISATION),
    "bgr_to_rgb": Fixed((True,), NORMALISATION),
    "to_rgb": Fixed((True,), NORMALISATION),
    "rgb_to_bgr": Fixed((False,), NORMALISATION),
    "pad_val": Fixed((0,), "segtune pads with the mean colour, which is 0 after normalisation"),
    "seg_pad_val": Row("data.ignore_index"),
    "size": Same("segtune pads training crops to data.crop"),
    "size_divisor": Same("segtune pads to the size that the encoder needs"),
    "test_cfg": Same("segtune pads to the size that the encoder needs"),
}
PREPROCESSOR_NAMES = ("data_preprocessor", "img_norm_cfg")


def map_pipelines(root: Ref) -> None:
    """Map the transforms of training and validation, and the normalisation."""
    old = root.get("data")
    sections = [root.get("train_dataloader"), root.get("val_dataloader")]
    train, val = (
        [old.get("train"), old.get("val")]
        if old
        else [section.get("dataset") if section else None for section in sections]
    )
    val_size = _validation_size(pipelines(val))
    first: Ref | None = None
    for pipeline in pipelines(train):
        if first and pipeline.plain == first.plain:
            pipeline.same("the pipeline of the first data set")
        elif first:
            pipeline.leave(f"segtune has one pipeline, that of {first.key}")
        else:
            for transform in pipeline.items():
                _map_transform(transform, val_size, is_old=old is not None)
        first = first or pipeline
    for pipeline in pipelines(val):
        for transform in pipeline.items():
            _map_validation(transform)
    _fill_sizes(root)
    model = root.get("model")
    for section in (root, model):
        apply(section.get("data_preprocessor") if section else None, PREPROCESSOR)


def _validation_size(found: list[Ref]) -> list[float]:
    """Return the long and the short side of validation images; [] if they are not known."""
    for transform in (item for pipeline in found for item in pipeline.items()):
        scale = transform.first("scale", "img_scale")
        sides = scale.plain if scale else None
        if isinstance(sides, list) and len(sides) == 2 and all(map(is_number, sides)):
            return [max(sides), min(sides)]
    return []


def _fill_sizes(root: Ref) -> None:
    """Choose the sizes that the config does not have; segtune always resizes and crops."""
    settings = root.ledger.settings
    if "data.resize" not in settings:
        text = "the config does not resize: set data.resize to the size of your images, [long, "
        root.ledger.note(f"{text}short]", changes_numbers=True)
    if "data.crop" not in settings:
        settings["data.crop"] = sorted(settings.get("data.resize", [512, 512]))
        text = "the config does not crop: data.crop is data.resize, for images that are wider than"
        root.ledger.note(f"{text} high", changes_numbers=True)


def _map_transform(ref: Ref, val_size: list[float], *, is_old: bool) -> None:
    """Map a transform of training."""
    kind = ref.type
    if kind in SAME_TRANSFORMS:
        _map_loading(ref)
        return
    handlers = {
        "LoadAnnotations": _map_annotations,
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


def _type(ref: Ref, settings: dict[str, Any] | None = None, remark: str = "") -> None:
    """Report the type of a transform."""
    kind = ref.get("type")
    if kind and settings:
        kind.carry(settings, remark)
    elif kind:
        kind.same("a step of segtune's augmentation, in the order of docs/config.md")


def _map_loading(ref: Ref) -> None:
    _type(ref)
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


def _map_annotations(ref: Ref) -> None:
    _type(ref)
    apply(ref, {"reduce_zero_label": Row("data.reduce_zero_label")})
    apply(ref, {name: Same(LOADING) for name in ("imdecode_backend", "backend_args")})


def _map_resize(ref: Ref, *, keeps_ratio: bool) -> None:
    """Map Resize and RandomResize. mmcv's `scale` is (w, h); with keep_ratio, its order is free."""
    _type(ref)
    scale = ref.first("scale", "img_scale")
    if scale:
        _carry_size(scale)
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


def _carry_size(scale: Ref) -> None:
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
    _type(ref)
    shorts = [min(pair) for pair in pairs]
    middle = pairs[len(pairs) // 2]
    # A short side alone: the long side is free, up to max_size.
    longest, base = val_size or [max(middle) if len(middle) > 1 else 4 * middle[0], min(middle)]
    remark = "in segtune the largest long side changes with the factor too"
    scales.carry({"data.resize": [int(longest), int(base)]})
    factors = [round(short / base, 6) for short in shorts]
    scales.carry({"augment.scales": factors}, remark)
    if ref.takes("augment.scales", factors):
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
    _type(ref)
    size = ref.get("crop_size")
    if size:
        sides = size.plain
        size.carry({"data.crop": [sides, sides] if isinstance(sides, int) else sides})
    ratio = ref.get("cat_max_ratio")
    if ratio:
        ratio.carry({"augment.cat_max_ratio": ratio.plain})
    apply(ref, {"ignore_index": Row("data.ignore_index")})


def _map_flip(ref: Ref) -> None:
    _type(ref)
    prob = ref.first("prob", "flip_ratio")
    if prob:
        prob.carry({"augment.flip": prob.plain})
    apply(ref, {"direction": Fixed(("horizontal",), "segtune flips left and right only")})


def _map_photometric(ref: Ref) -> None:
    _type(ref, {"augment.photometric": True})
    apply(ref, PHOTOMETRIC)


def _map_cutout(ref: Ref) -> None:
    """Map RandomCutOut. Its shapes are (w, h), as pixels or as fractions of the crop."""
    _type(ref)
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
    _type(ref)
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
    _type(ref)
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
    _type(ref)
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


def _map_validation(ref: Ref) -> None:
    """Map a transform of validation: segtune resizes as in training and does nothing else."""
    kind = ref.type
    if kind == "MultiScaleFlipAug":
        _map_test_aug(ref)
    elif kind == "LoadAnnotations":
        _map_annotations(ref)
    elif kind == "Resize":
        _type(ref)
        keep = ref.get("keep_ratio")
        if keep:
            keep.same("segtune keeps the proportions") if keep.plain else keep.leave(
                "segtune keeps the proportions of an image"
            )
        _compare_size(ref.first("scale", "img_scale"))
    elif kind in SAME_TRANSFORMS or kind == "RandomFlip":
        _map_loading(ref)
    else:
        ref.leave("segtune resizes images of validation as in training, and does nothing else")


def _map_test_aug(ref: Ref) -> None:
    """Map 0.x's MultiScaleFlipAug around the transforms of validation."""
    _type(ref)
    _compare_size(ref.first("img_scale", "scale"))
    apply(ref, {"flip": Fixed((False,), "use segtune evaluate --flip", False)})
    inner = ref.get("transforms")
    for transform in inner.items() if inner else ():
        _map_validation(transform)


def _compare_size(scale: Ref | None) -> None:
    if scale is None:
        return
    resize = scale.ledger.settings.get("data.resize")
    sides = scale.plain
    if resize is None:
        _carry_size(scale)
    elif isinstance(sides, list) and sorted(map(str, sides)) == sorted(map(str, resize)):
        scale.same("data.resize, as in training")
    else:
        scale.leave(f"segtune resizes images of validation as in training: data.resize {resize}")


def _floats(value: Any) -> Any:
    """Return a list with its numbers as floats; any other value as it is."""
    if not isinstance(value, list):
        return value
    return [float(item) if is_number(item) else item for item in value]
