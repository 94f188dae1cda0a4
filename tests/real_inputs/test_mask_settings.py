"""Values and colours in mask files become the labels that data.label_map and data.palette say."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.settings import differences
from segtune.config.yaml_io import parse_yaml, write_yaml
from segtune.data.cache import DecodedPairs
from segtune.data.label_colours import read_colour_file, voc_colours
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.errors import ConfigError, DataError

ROAD, CAR, SKY = (128, 64, 128), (0, 0, 142), (70, 130, 180)
CLASSES = ["road", "car", "sky"]


def grey_mask(path: Path, values: list[int]) -> Path:
    cv2.imwrite(str(path), np.array([values], np.uint8))
    return path


def colour_mask(path: Path, *colours: tuple[int, ...]) -> Path:
    Image.fromarray(np.array([colours], np.uint8)).save(path)
    return path


def colour_config(
    root: Path, text: str, name: str = "colours.txt", **settings: object
) -> DataConfig:
    (root / name).write_text(text)
    tree = {"layout": "folder", "root": str(root), "classes": CLASSES, "palette": name}
    return DataConfig.parse({**tree, **settings})


def test_255_becomes_label_1_although_it_is_the_ignore_index(tmp_path: Path) -> None:
    config = DataConfig.parse({"classes": ["bg", "fg"], "label_map": {255: 1}})
    path = grey_mask(tmp_path / "x.png", [0, 255, 255])
    assert config.ignore_index == 255
    assert read_mask(path, config, 2).tolist() == [[0, 1, 1]]


def test_values_are_mapped_at_once_and_other_values_stay(tmp_path: Path) -> None:
    config = DataConfig.parse({"label_map": {0: 1, 1: 0, 7: 255}})
    path = grey_mask(tmp_path / "x.png", [0, 1, 2, 7])
    assert read_mask(path, config, 3).tolist() == [[1, 0, 2, 255]]
    with pytest.raises(DataError, match=r"labels \[9\] are outside the 3 classes"):
        read_mask(grey_mask(tmp_path / "y.png", [0, 9]), config, 3)


def test_a_target_that_is_no_label_is_refused_before_a_mask_is_read(tmp_path: Path) -> None:
    config = DataConfig.parse({"label_map": {255: 2}})
    with pytest.raises(ConfigError, match=r"data\.label_map: 255 -> 2: no such label; .*0\.\.1"):
        read_mask(tmp_path / "absent.png", config, 2)


def test_the_keys_stay_whole_numbers_in_yaml_json_and_set(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data:\n  label_map: {255: 1, -1: 255}\n")
    config = load_config(path)
    assert config.data.label_map == {255: 1, -1: 255}
    assert load_config(path, ["data.label_map={255: 0}"]).data.label_map == {255: 0}
    assert load_config(path, ["data.label_map=null"]).data.label_map is None
    text = write_yaml(config.dump())
    assert "    255: 1\n" in text
    assert "'255'" not in text
    for tree in (parse_yaml(text, "x")[0], json.loads(json.dumps(config.dump()))):
        assert ExperimentConfig.parse(tree) == config
    assert not differences(config, ExperimentConfig.parse(config.dump()))
    changed = differences(config, config.override({"data.label_map": {255: 0}}))
    assert [str(change) for change in changed] == [
        "data.label_map: {255: 1, -1: 255} here, {255: 0} there"
    ]


@pytest.mark.parametrize(
    ("mapping", "wrong"),
    [({"fg": 1}, "fg: 1"), ({255: "fg"}, "255: fg"), ({255: -1}, "255: -1"), ({1.5: 1}, "1.5: 1")],
)
def test_a_label_map_without_whole_numbers_is_one_message(mapping: dict, wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"label_map: allowed are .*got {{{wrong}}}") as error:
        DataConfig.parse({"label_map": mapping})
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("mapping", [{}, [255, 1], 255, "255: 1"])
def test_a_label_map_that_is_no_mapping_is_one_message(mapping: object) -> None:
    with pytest.raises(ConfigError, match=r"label_map: allowed is \{value") as error:
        DataConfig.parse({"label_map": mapping})
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"label_map": {255: 1}, "reduce_zero_label": True},
        {"label_map": {255: 1}, "layout": "ade20k"},
        {"label_map": {255: 1}, "palette": "voc"},
        {"palette": "voc", "reduce_zero_label": True},
    ],
)
def test_two_translations_of_the_values_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="cannot be used if"):
        DataConfig.parse(settings)
    allowed = {**settings, "reduce_zero_label": False, "palette": None}
    DataConfig.parse(allowed)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:70,130,180::\nroad:128,64,128::\n"
         "car:0,0,142:wheel:drive\n"),
        ("a.txt", "128 64 128\t\troad\n0 0 142\t\tcar\n70 130 180\t\tsky\n"),
        ("b.txt", "\ufeffroad 128 64 128\r\ncar 0 0 142\r\n\r\nsky 70 130 180\r\n"),
        ("class_dict.csv", "name,r,g,b\nroad,128,64,128\nCar,0,0,142\nsky, 70, 130, 180\n"),
        ("c.txt", "road #804080\ncar #00008e\n#4682B4 sky\n"),
        ("d.txt", "128 64 128\n0 0 142\n70 130 180\n"),
        ("e.json", '{"road": [128, 64, 128], "car": "#00008e", "sky": [70, 130, 180]}'),
        ("f.yaml", "road: [128, 64, 128]\ncar: '#00008e'\nsky: [70, 130, 180]\n"),
    ],
)  # fmt: skip
def test_every_kind_of_colour_file_gives_the_labels(tmp_path: Path, name: str, text: str) -> None:
    config = colour_config(tmp_path, text, name)
    path = colour_mask(tmp_path / "x.png", SKY, ROAD, CAR, ROAD)
    labels = read_mask(path, config, 3)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[2, 0, 1, 0]]


def test_names_with_blanks_have_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("traffic light 250 170 30\n0 60 100 big bus\n")
    assert read_colour_file(path) == [
        ("traffic light", (250, 170, 30)),
        ("big bus", (0, 60, 100)),
    ]


def test_a_palette_image_is_read_by_its_colours(tmp_path: Path) -> None:
    config = colour_config(tmp_path, "road 128 64 128\ncar 0 0 142\nsky 70 130 180\n")
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([*CAR, *SKY, *ROAD])  # an editor has sorted the palette in its own order
    image.save(tmp_path / "x.png")
    assert read_mask(tmp_path / "x.png", config, 3).tolist() == [[1, 2, 0]]
    indices = config.override({"palette": None})
    assert read_mask(tmp_path / "x.png", indices, 3).tolist() == [[0, 1, 2]]


def test_black_and_white_masks_have_colours_too(tmp_path: Path) -> None:
    config = colour_config(tmp_path, "white 255 255 255\nblack 0 0 0", classes=["black", "white"])
    path = grey_mask(tmp_path / "x.png", [0, 255])
    assert read_mask(path, config, 2).tolist() == [[0, 1]]
    colour_mask(path, (0, 0, 0, 255), (255, 255, 255, 255))
    assert read_mask(path, config, 2).tolist() == [[0, 1]]


def test_vocs_colours_are_built_in_and_its_border_is_ignored(tmp_path: Path) -> None:
    config = DataConfig.parse({"palette": "voc"})
    colours = [tuple(colour) for colour in voc_colours(21)[[0, 15, 20]].tolist()]
    path = colour_mask(tmp_path / "x.png", *colours, (224, 224, 192))
    assert read_mask(path, config, 21).tolist() == [[0, 15, 20, 255]]


def test_a_colour_of_no_class_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    config = colour_config(tmp_path, "road 128 64 128\ncar 0 0 142\nsky 70 130 180\n")
    path = colour_mask(tmp_path / "x.png", ROAD, (0, 0, 140), (0, 0, 140))
    with pytest.raises(
        DataError,
        match=r"x\.png: 2 of 3 pixels have a colour in no class; most have \[0, 0, 140\], the "
        r"nearest colour in .*colours\.txt is \[0, 0, 142\]; add a line 'name 0 0 140'",
    ):
        read_mask(path, config, 3)


def test_colours_of_other_names_are_ignored_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "road 128 64 128\ncar 0 0 142\nsky 70 130 180\nvoid 0 0 0\n"
    config = colour_config(tmp_path, text)
    path = colour_mask(tmp_path / "x.png", (0, 0, 0), CAR)
    with caplog.at_level(logging.WARNING):
        assert [read_mask(path, config, 3).tolist() for _ in range(3)] == [[[255, 1]]] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"data.palette: {tmp_path / 'colours.txt'}: 1 names are in no class of data.classes; "
        "their pixels are ignored: void"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road 1 2 3\ncars 0 0 142\nsky 7 7 7", r"no colour for class 'car'; did you mean 'cars'"),
        ("road 1 2 3\ncar 1 2 3\nsky 7 7 7", r"the colour \(1, 2, 3\) belongs to two classes"),
        ("road 1 2 3\ncar 1 2 300\nsky 7 7 7", r"colours\.txt:2: \[1, 2, 300\] is no colour"),
        ("road 1 2 3\ncar 1 2\nsky 7 7 7", r"colours\.txt:2: 'car 1 2': expected a class and"),
        ("1 2 3\n4 5 6", r"has 2 colours without names, and there are 3 classes"),
        ("# nothing\n", r"colours\.txt: has no colours"),
        ("0 0 0 0 0 0 0 \"Clear Label\"", r"colours\.txt:1: .*expected a class and three numbers"),
    ],
)  # fmt: skip
def test_an_unclear_colour_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    config = colour_config(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read_mask(colour_mask(tmp_path / "x.png", ROAD), config, 3)


def test_a_colour_file_is_in_the_root(tmp_path: Path) -> None:
    config = colour_config(tmp_path, "road 1 2 3", "labelmap.txt")
    path = colour_mask(tmp_path / "x.png", ROAD)
    with pytest.raises(DataError, match=r"no file .*labelmp\.txt; did you mean 'labelmap\.txt'"):
        read_mask(path, config.override({"palette": "labelmp.txt"}), 3)
    with pytest.raises(DataError, match=r"data\.palette: '\.\./x\.txt' is outside data\.root"):
        read_mask(path, config.override({"palette": "../x.txt"}), 3)


def test_a_colour_mask_without_a_palette_names_its_colours(tmp_path: Path) -> None:
    config = colour_config(tmp_path, "", "labelmap.txt").override({"palette": None})
    path = colour_mask(tmp_path / "x.png", ROAD, ROAD, CAR)
    with pytest.raises(
        DataError,
        match=r"x\.png: a mask must have one channel of labels, this one has 2 colours: "
        r"\(128, 64, 128\), \(0, 0, 142\); set data\.palette=labelmap\.txt",
    ):
        read_mask(path, config, 3)


def test_a_mask_of_the_full_ade20k_release_is_recognised(tmp_path: Path) -> None:
    path = colour_mask(tmp_path / "ADE_train_1_seg.png", (10, 200, 3), (20, 3, 0))
    with pytest.raises(DataError, match=r"full ADE20K release.*red / 10 \* 256 \+ green"):
        read_mask(path, DataConfig.parse({"classes": CLASSES}), 3)


def test_caches_change_with_everything_that_labels_depend_on(tmp_path: Path) -> None:
    text = "road 128 64 128\ncar 0 0 142\nsky 70 130 180\n"
    image = colour_mask(tmp_path / "image.png", ROAD)
    pairs = [Pair(str(image), str(colour_mask(tmp_path / "mask.png", ROAD)))]

    def folder(config: DataConfig) -> Path | None:
        config = config.override({"cache": str(tmp_path / "cache")})
        return DecodedPairs(pairs, config, 3, "train").folder

    colours = colour_config(tmp_path, text)
    plain = colours.override({"palette": None})
    folders = [
        folder(colours),
        folder(plain),
        folder(plain.override({"label_map": {255: 1}})),
        folder(plain.override({"allow_lossy_masks": True})),
        folder(plain.override({"ignore_index": 7})),
        folder(colours.override({"classes": ["car", "road", "sky"]})),
        folder(colour_config(tmp_path, text.replace("142", "143"))),
    ]
    assert None not in folders
    assert len(set(folders)) == len(folders)
    assert folder(plain.override({"crop": [64, 64]})) == folders[1]
