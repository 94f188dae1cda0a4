"""mmsegmentation's pipelines of training and validation, and its normalisation."""

from __future__ import annotations

from segtune.mmseg.ledger import Fixed, Ref, apply, is_number
from segtune.mmseg.map_data import pipelines
from segtune.mmseg.map_transforms import (
    PADS,
    PREPROCESSOR,
    SAME_TRANSFORMS,
    carry_size,
    map_annotations,
    map_loading,
    map_transform,
    report_type,
)


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
                map_transform(transform, val_size, is_old=old is not None)
        first = first or pipeline
    for pipeline in pipelines(val):
        for transform in pipeline.items():
            _map_validation(transform)
    _fill_sizes(root)
    model = root.get("model")
    rules = {**PREPROCESSOR, "size": Fixed((root.ledger.settings["data.crop"],), PADS)}
    for section in (root, model):
        apply(section.get("data_preprocessor") if section else None, rules)


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
        is_known = "data.resize" in settings
        settings["data.crop"] = sorted(settings["data.resize"]) if is_known else [512, 512]
        source = "data.resize, for images that are wider than high" if is_known else "512 x 512"
        root.ledger.note(f"the config does not crop: data.crop is {source}", changes_numbers=True)


def _map_validation(ref: Ref) -> None:
    """Map a transform of validation: segtune resizes as in training and does nothing else."""
    kind = ref.type
    if kind == "MultiScaleFlipAug":
        _map_test_aug(ref)
    elif kind == "LoadAnnotations":
        map_annotations(ref)
    elif kind == "Resize":
        report_type(ref)
        keep = ref.get("keep_ratio")
        if keep:
            keep.same("segtune keeps the proportions") if keep.plain else keep.leave(
                "segtune keeps the proportions of an image"
            )
        _compare_size(ref.first("scale", "img_scale"))
    elif kind in SAME_TRANSFORMS or kind == "RandomFlip":
        map_loading(ref)
    else:
        ref.leave("segtune resizes images of validation as in training, and does nothing else")


def _map_test_aug(ref: Ref) -> None:
    """Map 0.x's MultiScaleFlipAug around the transforms of validation."""
    report_type(ref)
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
        carry_size(scale)
    elif isinstance(sides, list) and sorted(map(str, sides)) == sorted(map(str, resize)):
        scale.same("data.resize, as in training")
    else:
        scale.leave(f"segtune resizes images of validation as in training: data.resize {resize}")
