"""The names and colours of well-known data sets."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.known_classes import (
    NAMED_CLASSES,
    class_colours,
    colours_of,
    current_names,
    voc_colours,
)
from segtune.data.layouts import class_names
from segtune.training.drawing import Outputs, draw
from segtune.training.tta import AugmentedInference


@pytest.mark.parametrize(
    ("data_set", "number"), [("voc", 21), ("ade20k", 150), ("cityscapes", 19), ("camvid", 11)]
)
def test_known_classes_have_the_official_number(data_set: str, number: int) -> None:
    names = class_names(DataConfig.parse({"classes": data_set, "root": "absent"}))
    assert len(names) == len(set(names)) == number


# From objectInfo150 and color150.mat, and from cityscapesscripts/helpers/labels.py.
@pytest.mark.parametrize(
    ("data_set", "label", "name", "colour"),
    [
        ("ade20k", 0, "wall", (120, 120, 120)),
        ("ade20k", 7, "bed", (204, 5, 255)),
        ("ade20k", 12, "person", (150, 5, 61)),
        ("ade20k", 44, "chest of drawers", (6, 51, 255)),
        ("ade20k", 89, "television receiver", (0, 255, 194)),
        ("ade20k", 105, "conveyer belt", (133, 0, 255)),
        ("ade20k", 149, "flag", (92, 0, 255)),
        ("cityscapes", 0, "road", (128, 64, 128)),
        ("cityscapes", 6, "traffic light", (250, 170, 30)),
        ("cityscapes", 13, "car", (0, 0, 142)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("camvid", 0, "sky", (128, 128, 128)),
        ("camvid", 10, "bicyclist", (0, 128, 192)),
    ],
)
def test_known_class_has_its_official_name_and_colour(
    data_set: str, label: int, name: str, colour: tuple[int, int, int]
) -> None:
    assert NAMED_CLASSES[data_set][label] == name
    assert tuple(colours_of(data_set)[label].tolist()) == colour


def test_only_road_and_skyscraper_of_ade20k_share_a_colour() -> None:
    colours = colours_of("ade20k").tolist()
    shared = [
        name
        for name, colour in zip(NAMED_CLASSES["ade20k"], colours, strict=True)
        if colours.count(colour) > 1
    ]
    assert shared == ["road", "skyscraper"]
    assert len({tuple(colour) for colour in colours_of("cityscapes").tolist()}) == 19


def test_colours_go_by_names_and_by_label_if_the_names_are_not_known() -> None:
    city = [name.title().replace(" ", "_") for name in NAMED_CLASSES["cityscapes"]]
    assert np.array_equal(class_colours(city, 19), colours_of("cityscapes"))
    ade20k = [f"{name};something else" for name in NAMED_CLASSES["ade20k"]]
    assert np.array_equal(class_colours(ade20k, 150), colours_of("ade20k"))
    assert np.array_equal(class_colours(NAMED_CLASSES["voc"], 21), voc_colours(21))
    assert np.array_equal(class_colours(city[::-1], 19), voc_colours(19))
    assert np.array_equal(class_colours((), 3), voc_colours(3))
    # The names of a file that has changed since the training.
    assert np.array_equal(class_colours(city, 18), voc_colours(18))


def test_checkpoints_of_earlier_versions_have_todays_names_of_ade20k() -> None:
    assert current_names([f"class_{i}" for i in range(1, 151)]) == NAMED_CLASSES["ade20k"]
    assert current_names(["class_1", "class_2"]) == ("class_1", "class_2")


class AlwaysCar(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = (len(images), 19, images.shape[2] // 4, images.shape[3] // 4)
        logits = torch.zeros(size)
        logits[:, 13] = 1
        return logits


def test_overlay_of_cityscapes_has_the_colours_of_cityscapes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(NAMED_CLASSES["cityscapes"]))
    rgb = np.full((64, 64, 3), 100, np.uint8)
    for classes in ("cityscapes", "labels.txt"):
        data = {"classes": classes, "root": str(tmp_path), "resize": [64, 64], "crop": [64, 64]}
        config = ExperimentConfig.parse({"data": data})
        device, views = torch.device("cpu"), AugmentedInference()
        drawing = draw(AlwaysCar(), config, rgb.copy(), device, Outputs(Path()), views, opacity=1.0)
        assert drawing.overlay is not None
        colours = cv2.cvtColor(drawing.overlay, cv2.COLOR_BGR2RGB).reshape(-1, 3)
        assert np.unique(colours, axis=0).tolist() == [[0, 0, 142]]
