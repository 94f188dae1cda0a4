"""mmsegmentation's data sets to the settings in `data`: layout, folders, lists, classes."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segtune.mmseg.known_datasets import KNOWN, NUM_IMAGES, KnownDataset
from segtune.mmseg.ledger import Fixed, Ref, Row, Same, apply

LISTS = "ImageSets/Segmentation"
FROM_VOC = "segtune reads all masks from one folder; `data.masks` names it"
LOADING = "does not change the numbers; see data.num_loaders"
# Entries of a data set that segtune does anyway.
DATASET_RULES = {
    "test_mode": Same("segtune validates without augmentation"),
    "lazy_init": Same("loading only"),
    "serialize_data": Same("loading only"),
    "max_refetch": Same("segtune refuses images that cannot be read"),
    "filter_cfg": Fixed(({},)),
    "ignore_index": Row("data.ignore_index"),
    "palette": Same("colours of drawings only; the masks hold labels"),
    "indices": Row("data.num_images"),
}
LOADER_RULES = {
    "num_workers": Same(LOADING),
    "workers_per_gpu": Same(LOADING),
    "persistent_workers": Same(LOADING),
    "pin_memory": Same(LOADING),
    "prefetch_factor": Same(LOADING),
    "collate_fn": Same(LOADING),
    "drop_last": Same("segtune draws a new order for each epoch and fills the last batch"),
}
# What a type of mmseg may set for its data, with segtune's settings.
SETTINGS_OF_TYPES = {
    "img_suffix": "data.image_suffix",
    "seg_map_suffix": "data.mask_suffix",
    "reduce_zero_label": "data.reduce_zero_label",
}
WRAPPERS = ("ConcatDataset", "RepeatDataset", "MultiImageMixDataset")


class Part(NamedTuple):
    """The folders and the list of a data set, as text; "" if they are not set."""

    images: str
    masks: str
    list: str


@dataclass(frozen=True)
class DataFacts:
    """What the other mappings need to know about the data."""

    num_classes: int | None = None
    num_images: int | None = None  # of the training splits, if they are known
    times: int = 1  # RepeatDataset


def map_data(root: Ref) -> DataFacts:
    """Map the data sets of training and validation."""
    old = root.get("data")
    train_loader = old or root.get("train_dataloader")
    val_loader = old or root.get("val_dataloader")
    for loader in (train_loader, val_loader):
        apply(loader, LOADER_RULES)
        _map_sampler(loader)
    train = train_loader.get("train" if old else "dataset") if train_loader else None
    val = val_loader.get("val" if old else "dataset") if val_loader else None
    if train is None or not train.is_dict:
        root.ledger.note(
            "the config has no training data set: set data.layout and data.root",
            changes_numbers=True,
        )
        return DataFacts()
    times = _times(train)
    sets = unwrapped(train)
    lists = _map_places(sets, unwrapped(val) if val else [])
    num_classes = _map_classes(sets[0], root.ledger.settings.get("data.layout"))
    for dataset in (*sets, *(unwrapped(val) if val else ())):
        _map_labels(dataset)
    _map_test_loader(root, val)
    kind = sets[0].type
    return DataFacts(num_classes, NUM_IMAGES.get((kind, tuple(lists))), times)


def unwrapped(dataset: Ref) -> list[Ref]:
    """Return the data sets inside ConcatDataset, RepeatDataset and lists of data sets."""
    if dataset.type not in WRAPPERS and dataset.is_dict:
        return [dataset]
    if dataset.is_dict:
        kind = dataset.get("type")
        if kind and dataset.type != "MultiImageMixDataset":
            kind.same("segtune joins data sets")
    inner = dataset.first("datasets", "dataset") if dataset.is_dict else dataset
    items = inner.items() if inner else []
    return [part for item in items for part in unwrapped(item)] or [dataset]


def pipelines(dataset: Ref | None) -> list[Ref]:
    """Return the pipelines of a data set: that of each part, and that of a wrapper."""
    if dataset is None:
        return []
    parts = [*unwrapped(dataset), dataset]
    found = {ref.key: ref for part in parts if (ref := part.get("pipeline"))}
    return list(found.values())


def _times(train: Ref) -> int:
    """Return how often a data set is repeated in an epoch."""
    times = train.get("times") if train.type == "RepeatDataset" else None
    if times is None:
        return 1
    times.same("an epoch of segtune is one pass; schedule.epochs and schedule.val_every count it")
    return times.plain if isinstance(times.plain, int) else 1


def _map_sampler(loader: Ref | None) -> None:
    sampler = loader.get("sampler") if loader else None
    if sampler is None:
        return
    if sampler.type in ("InfiniteSampler", "DefaultSampler"):
        sampler.same("segtune shuffles the training images, and no others")
    else:
        sampler.leave("segtune draws every image once in each epoch")


def _map_test_loader(root: Ref, val: Ref | None) -> None:
    """Compare the data set of the test with that of the validation."""
    old = root.get("data")
    test = old.get("test") if old else root.get("test_dataloader")
    if test is None:
        return
    inner = test if old else test.get("dataset")
    if val is not None and inner is not None and inner.plain == val.plain:
        test.same("the same data as for validation")
    else:
        test.leave(
            "segtune validates on one split; set data.val for `segtune evaluate`",
            changes_numbers=False,
        )


def _parts_of(dataset: Ref) -> list[Part]:
    """Return the folders and lists of a data set; several if it has lists of them."""
    prefix = dataset.get("data_prefix")
    images = prefix.first("img_path", "img_dir") if prefix else dataset.get("img_dir")
    masks = prefix.first("seg_map_path", "ann_dir") if prefix else dataset.get("ann_dir")
    lists = dataset.first("ann_file", "split")
    columns = [_texts(ref) for ref in (images, masks, lists)]
    length = max(map(len, columns))
    full = [column * length if len(column) == 1 else column for column in columns]
    return [Part(*(column[row] for column in full)) for row in range(length)]


def _texts(ref: Ref | None) -> list[str]:
    value = ref.plain if ref else ""
    values = value if isinstance(value, list) else [value]
    texts = [text.strip("/") if isinstance(text, str) and text != "/" else "" for text in values]
    return texts or [""]


def _place_refs(dataset: Ref) -> list[Ref]:
    """Return the entries of a data set that say where its files are."""
    prefix = dataset.get("data_prefix")
    inner = list(prefix.parts().values()) if prefix else []
    names = ("data_root", "img_dir", "ann_dir", "ann_file", "split")
    return [*inner, *(ref for name in names if (ref := dataset.get(name)))]


def _map_places(train: Sequence[Ref], val: Sequence[Ref]) -> list[str]:
    """Set layout, folders and splits; return the names of the training splits."""
    parts = [part for dataset in train for part in _parts_of(dataset)]
    val_parts = [part for dataset in val for part in _parts_of(dataset)][:1]
    kind = train[0].type
    root = train[0].value("data_root", None)
    places = _layout(kind, parts, val_parts)
    settings: dict[str, Any] = {"data.root": root or "."}
    if root is None:
        train[0].ledger.note("the data set has no data_root: set data.root", changes_numbers=True)
    refs = [ref for dataset in (*train, *val) for ref in _place_refs(dataset)]
    if places is None:
        for ref in refs:
            ref.leave(
                "segtune needs the folders IMAGES/SPLIT and MASKS/SPLIT, or lists of names; see "
                "data.layout, data.images and data.masks"
            )
        if train[0].get("data_root"):
            refs_root = train[0].get("data_root")
            assert refs_root is not None
            refs_root.carry({"data.layout": "folder", **settings})
        return []
    settings |= places
    for ref in refs:
        _carry_place(ref, settings, root)
    return list(places["data.train"])


def _carry_place(ref: Ref, settings: dict[str, Any], root: Any) -> None:
    """Report a path of a data set, with the settings that stand for it."""
    name = ref.key.rpartition(".")[2]
    if name == "data_root" and ref.plain != root:
        ref.leave(f"segtune has one data.root, {root}; move the files there")
        return
    is_val = ref.key.startswith(("val_dataloader", "data.val"))
    wanted = {
        "data_root": ("data.layout", "data.root"),
        "img_path": ("data.images", "data.train"),
        "img_dir": ("data.images", "data.train"),
        "seg_map_path": ("data.masks", "data.train"),
        "ann_dir": ("data.masks", "data.train"),
    }.get(name, ("data.train",))
    names = [w.replace("data.train", "data.val") if is_val else w for w in wanted]
    found = {n: settings[n] for n in names if n in settings}
    masks = settings.get("data.masks") or ""
    remark = ""
    if name in ("seg_map_path", "ann_dir") and masks and masks not in _joined(ref.plain):
        remark = f"{FROM_VOC}: {masks}; it must hold these masks too (see `segtune data`)"
    ref.carry(found, remark)


def _joined(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _layout(kind: str, train: list[Part], val: list[Part]) -> dict[str, Any] | None:
    """Return the settings of layout, folders and splits; None if segtune has no layout for it."""
    every = [*train, *val]
    if all(part.list for part in train):
        return _layout_of_lists(train, every)
    halves = [_split_off(part) for part in every]
    known = [half for half in halves if half]
    if len(known) < len(halves) or len({(images, masks) for images, masks, _ in known}) > 1:
        return None
    images, masks, _ = known[0]
    names = [name for _, _, name in known]
    layout = "ade20k" if kind == "ADE20KDataset" else "folder"
    defaults = ("images", "annotations" if layout == "ade20k" else "masks")
    usual = {"training": "train", "validation": "val"} if layout == "ade20k" else {}
    names = [usual.get(name, name) for name in names]
    settings: dict[str, Any] = {"data.layout": layout, "data.train": names[: len(train)]}
    if val:
        settings["data.val"] = names[-1]
    if (images, masks) != defaults:
        settings |= {"data.images": images, "data.masks": masks}
    return settings


def _layout_of_lists(train: list[Part], every: list[Part]) -> dict[str, Any] | None:
    lists = [part.list.removesuffix(".txt") for part in every]
    is_voc = all(posixpath.dirname(name) == LISTS for name in lists)
    names = [posixpath.basename(name) for name in lists] if is_voc else lists
    layout = "voc" if is_voc else "folder"
    # The folder of the added masks, if there are several: it holds those of VOC too.
    masks = next((p.masks for p in train if p.masks.endswith("Aug")), train[-1].masks)
    images = train[0].images
    if {part.images for part in every} != {images}:
        return None
    settings: dict[str, Any] = {"data.layout": layout, "data.train": names[: len(train)]}
    if len(every) > len(train):
        settings["data.val"] = names[-1]
    defaults = ("JPEGImages", "SegmentationClass") if is_voc else ("images", "masks")
    if images and images != defaults[0]:
        settings["data.images"] = images
    if masks and masks != defaults[1]:
        settings["data.masks"] = masks
    return settings


def _split_off(part: Part) -> tuple[str, str, str] | None:
    """Return the folders of images and masks and the name of the split; None if it is unclear."""
    images, masks = part.images.split("/"), part.masks.split("/")
    if len(images) > 1 and len(masks) > 1 and images[-1] == masks[-1]:
        return "/".join(images[:-1]), "/".join(masks[:-1]), images[-1]
    if len(images) > 1 and len(masks) > 1 and images[0] == masks[0]:
        return "/".join(images[1:]), "/".join(masks[1:]), images[0]
    return None


def _map_classes(dataset: Ref, layout: Any) -> int | None:
    """Set data.classes; return the number of classes if it is known."""
    kind = dataset.get("type")
    known = KNOWN.get(dataset.type, KnownDataset())
    metainfo = dataset.get("metainfo")
    classes = (metainfo or dataset).get("classes")
    if classes is not None and isinstance(classes.plain, list):
        classes.carry({"data.classes": classes.plain})
        if kind:
            kind.same("data.layout and data.classes say what is read")
        return len(classes.plain)
    if known.classes and kind:
        kind.carry({"data.classes": known.classes})
    elif kind:
        kind.leave(
            "the names of its classes are not in the config; data.classes has invented names",
            changes_numbers=False,
        )
    if layout == "ade20k" and known.classes is None:
        dataset.ledger.settings["data.reduce_zero_label"] = known.reduce_zero_label
    return known.num_classes


def _map_labels(dataset: Ref) -> None:
    """Map suffixes, reduce_zero_label and what is the same in segtune, of any data set."""
    known = KNOWN.get(dataset.type, KnownDataset())
    apply(dataset, DATASET_RULES)
    kind = dataset.get("type")
    if kind and kind.key not in dataset.ledger.entries:
        kind.same("data.layout and data.classes say what is read")
    metainfo = dataset.get("metainfo")
    apply(metainfo, {"palette": DATASET_RULES["palette"]})
    classes = (metainfo or dataset).get("classes")
    if classes and classes.key not in dataset.ledger.entries:
        if classes.plain == dataset.ledger.settings.get("data.classes"):
            classes.same("the classes of training")
        else:
            classes.leave("segtune has the classes of the training data set")
    _report_unknown_type(dataset)
    rows = (
        ("data.image_suffix", ("img_suffix",), known.image_suffix),
        ("data.mask_suffix", ("seg_map_suffix", "ann_suffix"), known.mask_suffix),
    )
    for setting, names, default in rows:
        ref = dataset.first(*names)
        suffix = ref.plain if ref else default
        is_extension = isinstance(suffix, str) and suffix.rfind(".") == 0
        if is_extension or not isinstance(suffix, str):
            if ref and not is_extension:
                ref.leave("expected text")
            elif ref:
                ref.same("segtune finds files of every image format")
        elif ref:
            ref.carry({setting: suffix})
        else:
            dataset.ledger.settings[setting] = suffix
    reduce = dataset.get("reduce_zero_label")
    if reduce:
        reduce.carry({"data.reduce_zero_label": reduce.plain})
    elif "data.reduce_zero_label" not in dataset.ledger.settings:
        dataset.ledger.settings["data.reduce_zero_label"] = known.reduce_zero_label


def _report_unknown_type(dataset: Ref) -> None:
    """Report a type that segtune does not know if the config leaves out what follows from it."""
    kind = dataset.get("type")
    if kind is None or dataset.type in KNOWN:
        return
    rows = (("img_suffix",), ("seg_map_suffix", "ann_suffix"), ("reduce_zero_label",))
    absent = [names[0] for names in rows if dataset.first(*names) is None]
    pipeline = dataset.get("pipeline")
    loading = [item for item in pipeline.items() if item.is_dict] if pipeline else []
    if "reduce_zero_label" in absent and any(t.get("reduce_zero_label") for t in loading):
        absent.remove("reduce_zero_label")
    if absent:
        settings = ", ".join(SETTINGS_OF_TYPES[name] for name in absent)
        kind.leave(
            f"segtune does not know {dataset.type or 'this type'}, and the config leaves out what "
            f"the type may set: {', '.join(absent)}; set {settings}"
        )
