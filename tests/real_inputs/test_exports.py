"""Exports of real tools: the messages alone lead to the labels that training should read.

Each test writes the tree of a tool, pastes the settings and commands of the messages, as a user
does, and compares every label.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_assignments
from segtune.data.decode import decode_pair
from segtune.data.layouts import class_names, open_split
from segtune.errors import DataError, SegtuneError, setting

Writer = Callable[[Path], object]
MakeDataSet = Callable[..., DataConfig]
Files = dict[str, Writer]

SIZE = (24, 40)
WORD = r"--set (?:'[^']*'|[^\s;,']+)"
# Settings behind each other belong together; of alternatives, the first is taken.
SETTINGS = re.compile(rf"{WORD}(?: {WORD})*")
COMMAND = re.compile(r"cd .*(?:&& rm all\.tmp|; done)")
IGNORED = 255


def scene(number: int, num_labels: int) -> np.ndarray:
    """Return labels [24, 40] with every label; another place of label 0 for each number."""
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % SIZE[1] * num_labels // SIZE[1]
    labels[number : number + 4, 3 * number : 3 * number + 9] = 0
    return labels


def image(number: int) -> Writer:
    pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    return Image.fromarray(pixels).save


def mask(values: np.ndarray) -> Writer:
    return Image.fromarray(values).save


def grey(labels: np.ndarray) -> Writer:
    return mask(labels.astype(np.uint8))


def text(content: str, encoding: str = "utf-8") -> Writer:
    return lambda path: path.write_bytes(content.encode(encoding))


def parts(train: str, val: str) -> list[tuple[str, int]]:
    """Return the folder and the number of three training and two validation images."""
    return [(train, 0), (train, 1), (train, 2), (val, 3), (val, 4)]


def trouble(config: DataConfig) -> str:
    """Return what `segtune data check` complains about, or ""."""
    try:
        return "\n".join(audit(config).problems)
    except SegtuneError as error:
        return str(error)


def follow(config: DataConfig) -> DataConfig:
    """Return the config after the settings and commands of all messages."""
    for _ in range(8):
        message = trouble(config)
        if not message:
            return config
        command, pasted = COMMAND.search(message), SETTINGS.search(message)
        assert command or pasted, message
        if command:
            subprocess.run(["bash", "-c", command[0]], check=True)
        if pasted:
            words = [word for word in shlex.split(pasted[0]) if word != "--set"]
            changes, _ = parse_assignments([word.removeprefix("data.") for word in words])
            config = config.override(changes)
    raise AssertionError(trouble(config))


def check_labels(config: DataConfig, expected: Mapping[str, np.ndarray]) -> None:
    """Compare the labels of both splits with those of each image, by its path under the root."""
    read = {}
    for pair in (*open_split(config, "train"), *open_split(config, "val")):
        labels = decode_pair(pair, config, len(class_names(config))).labels
        read[os.path.relpath(pair.image, config.root)] = labels
    assert sorted(read) == sorted(expected)
    for name, labels in expected.items():
        assert read[name].tolist() == labels.tolist(), name


COLOURS = np.array([(0, 0, 142), (220, 20, 60), (128, 64, 128), (0, 0, 0)], np.uint8)
NAMES = ["car", "person", "road", "void"]


def test_cityscapes_has_its_training_labels(make_data_set: MakeDataSet) -> None:
    files, expected = {}, {}
    for (split, number), city in zip(parts("train", "val"), "aabcc", strict=True):
        name = f"{split}/{city}/{city}_{number}"
        labels = scene(number, 19)
        labels[0] = IGNORED
        files[f"leftImg8bit/{name}_leftImg8bit.png"] = image(number)
        files[f"gtFine/{name}_gtFine_labelTrainIds.png"] = grey(labels)
        files[f"gtFine/{name}_gtFine_labelIds.png"] = grey(labels // 2)
        files[f"gtFine/{name}_gtFine_color.png"] = image(9)
        expected[f"leftImg8bit/{name}_leftImg8bit.png"] = labels
    classes = [f"c{label}" for label in range(19)]
    check_labels(follow(make_data_set(files, classes=classes)), expected)


def test_the_34_ids_of_cityscapes_become_its_19_training_labels(
    make_data_set: MakeDataSet,
) -> None:
    ids = np.array([7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33, 4])
    files, expected = {}, {}
    for split, number in parts("train", "val"):
        labels = scene(number, 20)
        files[f"images/{split}/{number}.png"] = image(number)
        files[f"masks/{split}/{number}_gtFine_labelIds.png"] = grey(ids[labels])
        expected[f"images/{split}/{number}.png"] = np.where(labels == 19, IGNORED, labels)
    classes = [f"c{label}" for label in range(19)]
    config = make_data_set(files, classes=classes, mask_suffix="_gtFine_labelIds")
    check_labels(follow(config), expected)


def split_folders(kind: str) -> tuple[Files, dict[str, np.ndarray]]:
    """Return files and labels of an export with folders of splits, and 3 classes."""
    train, val = {
        "coco": ("train2017", "val2017"),
        "supervisely": ("ds0", "ds1"),
        "roboflow": ("train", "valid"),
        "mapillary": ("training", "validation"),
        "suim": ("train_val", "TEST"),
    }[kind]
    files, expected = {}, {}
    for split, number in parts(train, val):
        image_file, mask_file = {
            "coco": (f"images/{split}/{number}.jpg", f"annotations/{split}/{number}.png"),
            "supervisely": (f"{split}/img/{number}.jpg", f"{split}/masks_machine/{number}.png"),
            "roboflow": (f"{split}/a.rf.{number}.jpg", f"{split}/a.rf.{number}_mask.png"),
            "mapillary": (f"{split}/images/{number}.jpg", f"{split}/v1.2/labels/{number}.png"),
            "suim": (f"{split}/images/{number}_.jpg", f"{split}/masks/{number}_.bmp"),
        }[kind]
        expected[image_file] = scene(number, 3)
        files |= {image_file: image(number), mask_file: grey(expected[image_file])}
    return files, expected


@pytest.mark.parametrize("kind", ["coco", "supervisely", "roboflow", "mapillary", "suim"])
def test_both_splits_are_proposed_never_one_as_the_root(
    make_data_set: MakeDataSet, kind: str
) -> None:
    files, expected = split_folders(kind)
    root = make_data_set({}).root
    config = follow(make_data_set(files, classes=["a", "b", "c"]))
    check_labels(config, expected)
    assert config.root == root


def test_loveda_has_its_two_scenes_and_ignores_0(make_data_set: MakeDataSet) -> None:
    files, expected = {}, {}
    scenes = parts("Train/Rural", "Val/Rural")
    scenes[2] = ("Train/Urban", 2)
    for folder, number in scenes:
        labels = scene(number, 8)
        files[f"{folder}/images_png/{number}.png"] = image(number)
        files[f"{folder}/masks_png/{number}.png"] = grey(labels)
        expected[f"{folder}/images_png/{number}.png"] = np.where(labels, labels - 1, IGNORED)
    config = follow(make_data_set(files, classes=[*"abcdefg"]))
    check_labels(config, expected)
    assert config.train == ("Train/Rural", "Train/Urban")


def one_folder(
    images: str, masks: str, value: Callable[[np.ndarray], Writer], num_labels: int
) -> tuple[Files, dict[str, np.ndarray]]:
    """Return files and labels of an export without splits; `images` and `masks` are patterns."""
    files, expected = {}, {}
    for number in range(5):
        labels = scene(number, num_labels)
        files[images.format(number)] = image(number)
        files[masks.format(number)] = value(labels)
        expected[images.format(number)] = labels
    return files, expected


EXPORTS_OF_TWO_CLASSES = {
    "carvana": ("train/{}.jpg", "train_masks/{}_mask.gif"),
    "isic": ("ISIC_Training_Input/I_{}.jpg", "ISIC_Training_GroundTruth/I_{}_segmentation.png"),
    "kvasir": ("images/{}.jpg", "masks/{}.jpg"),
    "nnunet": ("imagesTr/case_{}_0000.png", "labelsTr/case_{}.png"),
    "name with a blank": ("my images/a ({}).jpg", "my masks/a ({}).png"),
}


@pytest.mark.parametrize("kind", EXPORTS_OF_TWO_CLASSES)
def test_masks_of_0_and_255_without_splits(make_data_set: MakeDataSet, kind: str) -> None:
    files, expected = one_folder(*EXPORTS_OF_TWO_CLASSES[kind], lambda m: grey(255 * m), 2)
    folder = next(iter(files)).rpartition("/")[0]
    files[f"{folder}/LICENSE.txt"] = text("no image")
    check_labels(follow(make_data_set(files)), expected)


def colours(labels: np.ndarray) -> Writer:
    return mask(COLOURS[labels])


def lines(pattern: str) -> str:
    """Return a line for each class; the pattern has the name, and red, green and blue."""
    rows = zip(NAMES, COLOURS.tolist(), strict=True)
    return "".join(pattern.format(name, *colour) + "\n" for name, colour in rows)


@pytest.mark.parametrize(
    ("images", "masks", "file", "content"),
    [
        ("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png", "label_colors.txt", ""),
        ("2_Ortho_RGB/{}_RGB.tif", "5_Labels_all/{}_label.tif", "palette.txt", "{} {} {} {}"),
        ("top/{}.tif", "gts_for_participants/{}.tif", "class_colours.txt", "{}: {}, {}, {}"),
        ("images/{}.jpg", "masks/{}.png", "class_mapping.csv", "{},{} {} {}"),
        ("images/{}.jpg", "masks/{}.png", "class_dict.csv", "{},{},{},{}"),
    ],
    ids=["camvid", "potsdam", "vaihingen", "v7", "deepglobe"],
)
def test_the_file_of_colours_is_found(
    make_data_set: MakeDataSet, images: str, masks: str, file: str, content: str
) -> None:
    files, expected = one_folder(images, masks, colours, 4)
    header = "class_name,class_color\n" if file == "class_mapping.csv" else ""
    header = "name,r,g,b\n" if file == "class_dict.csv" else header
    files[file] = text(header + lines(content or "{1} {2} {3}\t\t{0}"))
    config = follow(make_data_set(files, classes=file))
    assert class_names(config) == tuple(NAMES)
    check_labels(config, expected)


def test_cvat_has_one_list_that_is_divided(make_data_set: MakeDataSet) -> None:
    files, expected = one_folder("JPEGImages/{}.jpg", "SegmentationClass/{}.png", colours, 4)
    files["labelmap.txt"] = text("# label:color_rgb:parts:actions\n" + lines("{}:{},{},{}::"))
    files["ImageSets/Segmentation/default.txt"] = text("0\n1\n2\n3\n4\n")
    config = follow(make_data_set(files, layout="voc", classes="labelmap.txt"))
    check_labels(config, expected)
    assert (len(open_split(config, "train")), len(open_split(config, "val"))) == (4, 1)


def test_labelme_has_no_class_for_its_ignored_pixels(make_data_set: MakeDataSet) -> None:
    files, expected = one_folder("JPEGImages/{}.jpg", "SegmentationClassPNG/{}.png", grey, 3)
    files |= {f"SegmentationClass/{number}.npy": text("numpy") for number in range(5)}
    files["class_names.txt"] = text("__ignore__\n_background_\ncat\ndog\n")
    config = follow(make_data_set(files, layout="voc", classes="class_names.txt"))
    assert class_names(config) == ("_background_", "cat", "dog")
    check_labels(config, expected)


def test_oxford_pets_reads_trimaps_of_1_to_3(make_data_set: MakeDataSet) -> None:
    def trimap(labels: np.ndarray) -> Writer:
        return grey(labels + 1)

    files, expected = one_folder("images/A_{}.jpg", "annotations/trimaps/A_{}.png", trimap, 3)
    files |= {"images/A_0.mat": text("mat"), "annotations/trimaps/._A_0.png": text("Mac")}
    files["annotations/trainval.txt"] = text("A_0 1 1 1\nA_1 1 1 1\nA_2 1 1 1\n")
    files["annotations/test.txt"] = text("A_3 1 1 1\nA_4 1 1 1\n")
    config = follow(make_data_set(files, classes=["pet", "background", "border"]))
    check_labels(config, expected)
    assert (config.train, config.val) == (("annotations/trainval",), "annotations/test")


def test_the_labels_of_drive_are_not_its_field_of_view(make_data_set: MakeDataSet) -> None:
    files: Files = {}
    for folder, number in parts("training", "test"):
        files[f"{folder}/images/{number}_{folder}.tif"] = image(number)
        files[f"{folder}/1st_manual/{number}_manual1.gif"] = grey(scene(number, 2))
        files[f"{folder}/mask/{number}_{folder}_mask.gif"] = grey(np.ones(SIZE))
    message = trouble(make_data_set(files))
    assert message.endswith("--set 'data.train=[training]' --set data.masks=1st_manual")
    rows: dict[str, str] = {"train": "", "val": ""}
    expected = {}
    for folder, number in parts("training", "test"):
        name = f"{folder}/images/{number}_{folder}.tif"
        rows["train" if folder == "training" else "val"] += (
            f"{name}\t{folder}/1st_manual/{number}_manual1.gif\n"
        )
        expected[name] = scene(number, 2)
    lists = {f"{split}.txt": text(content) for split, content in rows.items()}
    check_labels(make_data_set(lists), expected)


def test_a_cvat_export_without_images_says_so(make_data_set: MakeDataSet) -> None:
    files: Files = {"SegmentationClass/0.png": grey(scene(0, 2))}
    files["ImageSets/Segmentation/train.txt"] = text("0\n")
    message = refused(make_data_set(files, layout="voc"))
    assert "JPEGImages: No such file or directory; if" in message
    assert message.endswith("has no images, copy them there")


def test_value_255_is_a_label_in_masks_of_459_classes(make_data_set: MakeDataSet) -> None:
    values = np.array([0, 1, 255, 256, 459])
    files, expected = {}, {}
    for split, number in parts("train", "val"):
        stored = values[scene(number, 5)]
        files[f"images/{split}/{number}.jpg"] = image(number)
        files[f"masks/{split}/{number}.png"] = mask(stored.astype(np.uint16))
        expected[f"images/{split}/{number}.jpg"] = np.where(stored, stored - 1, 65535)
    files["labels.txt"] = text("".join(f"{label}: name {label}\n" for label in range(1, 460)))
    config = follow(make_data_set(files, classes="labels.txt"))
    assert class_names(config)[254] == "name 255"
    check_labels(config, expected)


def test_a_list_in_utf_16_with_two_columns_has_no_name_twice(make_data_set: MakeDataSet) -> None:
    files, expected = one_folder("images/Bild {}.jpg", "masks/Bild {}.png", grey, 2)
    rows = [f"images\\Bild {n}.jpg\tmasks\\Bild {n}.png\r\n" for n in range(5)]
    files["train.txt"] = text("".join(rows[:3]), "utf-16")
    files["val.txt"] = text("".join(rows[3:]), "utf-16")
    config = make_data_set(files)
    assert trouble(config) == ""
    check_labels(config, expected)


def test_the_value_without_data_of_a_class_raster_is_ignored(make_data_set: MakeDataSet) -> None:
    files, expected = {}, {}
    tags = {42113: "0"}  # GDAL's value for no data
    for split, number in parts("train", "val"):
        labels = scene(number, 4)
        raster = Image.fromarray(labels.astype(np.uint8))
        files[f"images/{split}/{number}.tif"] = image(number)
        files[f"masks/{split}/{number}.tif"] = lambda path, r=raster: r.save(path, tiffinfo=tags)
        expected[f"images/{split}/{number}.tif"] = np.where(labels, labels - 1, IGNORED)
    config = make_data_set(files, classes=["a", "b", "c"])
    assert "the file declares 0 as nodata" in trouble(config)
    check_labels(follow(config), expected)


@pytest.mark.parametrize("end", ["_labels", "annot"])
def test_folders_of_masks_beside_those_of_the_splits_are_paired(
    make_data_set: MakeDataSet, end: str
) -> None:
    files, expected = {}, {}
    for split, number in parts("my tiff/train", "my tiff/val"):
        files[f"{split}/a {number}.tiff"] = image(number)
        files[f"{split}{end}/a {number}.tif"] = grey(scene(number, 2))
        expected[f"{split}/a {number}.tiff"] = scene(number, 2)
    check_labels(follow(make_data_set(files)), expected)


def refused(config: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        open_split(config, "train")
    return str(caught.value)


def test_one_mask_for_each_object_is_refused(make_data_set: MakeDataSet) -> None:
    bbbc = {f"stage1/{n}/images/{n}.png": image(n) for n in range(3)}
    bbbc |= {f"stage1/{n}/masks/{k}.png": image(n) for n in range(3) for k in "abc"}
    message = refused(make_data_set(bbbc))
    assert "has 1 image and 3 masks, one for each object: draw the masks" in message


def test_masks_of_label_studio_have_to_be_drawn_together(make_data_set: MakeDataSet) -> None:
    files = {"images/train/a.jpg": image(0)}
    files["masks/train/task-1-annotation-2-by-1-tag-crack-0.png"] = grey(scene(0, 2))
    assert "one class of one task of Label Studio" in refused(make_data_set(files))


def test_polygons_of_make_sense_have_to_be_exported_as_masks(make_data_set: MakeDataSet) -> None:
    files = {"images/train/a.jpg": image(0), "labels_project.json": text("{}")}
    message = refused(make_data_set(files))
    assert "labels_project.json may have the annotations as polygons" in message


def test_numbers_of_objects_are_no_labels(make_data_set: MakeDataSet) -> None:
    files = {"images/train/a.jpg": image(0), "images/val/b.jpg": image(1)}
    files |= {"masks/train/a.png": grey(scene(0, 7)), "masks/val/b.png": grey(scene(1, 7))}
    assert "save the masks as (mask > 0)" in trouble(make_data_set(files))


def test_problems_of_one_kind_are_one_line(make_data_set: MakeDataSet) -> None:
    files, _ = one_folder("images/train/{}.jpg", "masks/train/{}.png", grey, 4)
    files |= {"images/val/a.jpg": image(9), "masks/val/a.png": grey(scene(9, 3))}
    problems = audit(make_data_set(files, classes=["a", "b", "c"])).problems
    assert len(problems) == 1
    assert problems[0].startswith("5 files (first ")
    assert "/masks/train/0.png): labels [3] are outside the 3 classes" in problems[0]


@pytest.mark.parametrize(
    ("value", "pasted"),
    [
        (["train"], "--set 'data.x=[train]'"),
        (["no", "a,b", "7"], '--set \'data.x=["no", "a,b", "7"]\''),
        ({255: 1, 128: 0}, "--set 'data.x={255: 1, 128: 0}'"),
        ("/a b/it's", "--set 'data.x=/a b/it'\"'\"'s'"),
        ("masks", "--set data.x=masks"),
    ],
)
def test_a_proposed_setting_can_be_pasted(value: object, pasted: str) -> None:
    assert setting("data.x", value) == pasted  # pyright: ignore[reportArgumentType]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pasted}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    changes, _ = parse_assignments(words[1:])
    (read,) = changes.values()
    assert read == ({str(key): v for key, v in value.items()} if isinstance(value, dict) else value)
