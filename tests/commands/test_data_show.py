"""`segtune data show`: the steps of an augmentation, each alone, and the sheet that shows them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune import data_tools
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.augment_steps import columns, steps
from segtune.data.known_classes import voc_colours
from segtune.data.label_colours import drawing_colours
from segtune.data.layouts import class_names
from segtune.data.loader import TrainLoader
from segtune.data.mask_colours import STRIPES
from segtune.data.samples import TrainSamples, epoch_keys
from segtune.reporting.contact_sheet import (
    GAP,
    TILE,
    SheetColumn,
    Tile,
    class_legend,
    draw_sheet,
    shortened,
    tile_size,
)
from segtune.training.overlays import is_overlay

EVERY_STEP = {
    "augment.rotate.prob": 0.3,
    "augment.cutout.prob": 0.3,
    "augment.erase.prob": 0.3,
    "augment.extra": [{"name": "GaussNoise", "p": 0.2}, {"name": "Blur"}],
    "augment.mix.kind": "mixup",
    "augment.mix.prob": 0.3,
}


def names_and_details(config: ExperimentConfig) -> list[tuple[str, str]]:
    return [(step.name, step.detail) for step in steps(config.augment)]


def test_steps_are_those_that_are_switched_on_in_the_order_of_training(
    tiny_config: ExperimentConfig,
) -> None:
    assert names_and_details(tiny_config.override(EVERY_STEP)) == [
        ("crop", "at scale 1"),
        ("scale", "0.5 to 2"),
        ("flip", "p 0.5"),
        ("photometric", "each part p 0.5"),
        ("rotate", "p 0.3"),
        ("cutout", "p 0.3"),
        ("erase", "p 0.3"),
        ("GaussNoise", "p 0.2"),
        ("Blur", "p 0.5"),
        ("mixup", "p 0.3"),
    ]
    off = {"augment.flip": 0.0, "augment.photometric": False, "augment.scales": [0.5, 1.0]}
    assert names_and_details(tiny_config.override(off)) == [
        ("crop", "at scale 1"),
        ("scale", "0.5, 1"),
    ]


def test_the_last_column_has_the_first_samples_of_training(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override(EVERY_STEP)
    keys = epoch_keys(config.seed, 1, 24)[:8]
    *_, everything = columns(TrainSamples(config), keys)
    batch = next(TrainLoader(config, 0, 1).epoch(1))
    for sample, image, mask in zip(everything.samples, batch.images, batch.masks, strict=True):
        assert np.array_equal(sample.image, image.permute(1, 2, 0))
        assert np.array_equal(sample.mask, mask)


def test_a_column_differs_from_the_crop_by_its_own_step_only(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({**EVERY_STEP, "augment.cutout.prob": 0.01})
    keys = epoch_keys(config.seed, 1, 24)[:6]
    by_name = {column.name: column for column in columns(TrainSamples(config), keys)}
    assert next(iter(by_name)) == "image"
    for index, crop in enumerate(by_name["crop"].samples):
        flipped = by_name["flip"].samples[index]
        assert np.array_equal(flipped.image, crop.image[:, ::-1])
        assert np.array_equal(flipped.mask, crop.mask[:, ::-1])
        noisy = by_name["GaussNoise"].samples[index]
        assert np.array_equal(noisy.mask, crop.mask)
        assert not np.array_equal(noisy.image, crop.image)
        # Always applied, however improbable it is in training.
        with_holes = by_name["cutout"].samples[index]
        hidden = (with_holes.mask == 255) & (crop.mask != 255)
        assert hidden.any()
        kept = ~hidden & (crop.mask != 255)
        assert np.array_equal(with_holes.image[kept], crop.image[kept])


def one_tile_sheet() -> np.ndarray:
    image = np.full((50, 100, 3), (10, 20, 30), np.uint8)
    colours = np.full((50, 100, 3), (200, 0, 0), np.uint8)
    ignored = np.zeros((50, 100), bool)
    ignored[:, 50:] = True
    legend = class_legend(["road", "car"], voc_colours(2), [0, 1], 255)
    return draw_sheet(
        [SheetColumn("flip", "p 0.5", [Tile(image, colours, ignored)])], ["a"], legend
    )


def test_a_mask_lies_below_its_image_in_class_colours_with_stripes_for_ignored_pixels() -> None:
    sheet = one_tile_sheet()
    assert tile_size(50, 100) == (TILE // 2, TILE)
    rows, columns_ = np.nonzero((sheet == (10, 20, 30)).all(-1))
    assert np.ptp(rows) + 1 == TILE // 2
    assert np.ptp(columns_) + 1 == TILE
    assert columns_.min() == GAP
    mask_rows, mask_columns = np.nonzero((sheet == (200, 0, 0)).all(-1))
    assert mask_rows.min() > rows.max()
    assert np.ptp(mask_rows) + 1 == TILE // 2
    assert np.ptp(mask_columns) + 1 == TILE // 2
    right = sheet[mask_rows.min() : mask_rows.max() + 1, GAP + TILE // 2 : GAP + TILE]
    assert {tuple(colour) for colour in right.reshape(-1, 3).tolist()} == set(STRIPES)


def test_the_legend_names_the_classes_and_the_ignored_pixels() -> None:
    colours = voc_colours(3)
    legend = class_legend(["sky", "road", "car"], colours, [0, 1], 255)
    assert [(entry.text, entry.colour) for entry in legend] == [
        ("0 sky", (0, 0, 0)),
        ("1 road", (128, 0, 0)),
        ("2 car", (0, 128, 0)),
        ("255 ignored", None),
    ]
    swatch = (np.array(colours[1]) == one_tile_sheet()).all(-1)
    assert swatch.sum() > 100


def test_a_legend_of_many_classes_has_those_that_occur() -> None:
    names = [f"c{label}" for label in range(150)]
    legend = class_legend(names, voc_colours(150), [0, 7, 149, 255], 255)
    texts = [entry.text for entry in legend]
    assert texts == ["0 c0", "7 c7", "149 c149", "255 ignored", "147 more classes"]


def test_a_long_name_loses_its_middle() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(15)
    short = shortened("a" * 40 + "b" * 40, 200, font)
    assert font.getlength(short) <= 200
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert "…" in short
    assert shortened("road", 200, font) == "road"


def test_classes_have_the_colours_of_the_palette(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    (tmp_path / "colours.txt").write_text("a 1 2 3\nb 4 5 6\n")
    palette = {"data.classes": ["a", "b"], "data.palette": "colours.txt"}
    where = {"data.layout": "folder", "data.root": str(tmp_path)}
    data = tiny_config.override({**where, **palette}).data
    assert drawing_colours(data, ("a", "b"), 2).tolist() == [[1, 2, 3], [4, 5, 6]]
    names = class_names(tiny_config.data)
    assert np.array_equal(drawing_colours(tiny_config.data, names, 7), voc_colours(7))


@pytest.fixture
def config_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(write_yaml(tiny_config.dump()))
    return path


def test_the_command_writes_a_sheet_and_says_when_it_replaces_one(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "sheets" / "sheet.png"
    command = ["show", str(config_file), "--out", str(target), "--images", "2"]
    assert data_tools.main([*command, "--set", "augment.photometric=false"]) == 0
    out = capsys.readouterr().out
    assert out == (f"{target}: 2 of 24 training images; columns: image, crop, scale, flip, all\n")
    # So that `segtune predict` on the folder does not take the sheet for an image.
    assert is_overlay(target)
    with Image.open(target) as sheet:
        assert sheet.mode == "RGB"
        assert sheet.width == 5 * (TILE + GAP) + GAP
    assert data_tools.main(command) == 0
    assert capsys.readouterr().out.startswith(f"{target} (replaced): 2 of 24")


def test_the_command_never_replaces_a_file_of_the_user(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mine.png"
    target.write_bytes(b"mine")
    assert data_tools.main(["show", str(config_file), "--out", str(target)]) == 2
    assert f"--out: {target} exists, and segtune has not written it" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images: allowed is a number from 1 to 32; got 0"),
        (["--out", "a.jpg"], "--out: a.jpg: the sheet is a PNG; write a.png"),
        (["--set", "augment.extra=[{name: Blurr}]"], "did you mean 'Blur'?"),
    ],
)
def test_wrong_arguments_are_refused(
    config_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert data_tools.main(["show", str(config_file), *arguments]) == 2
    assert message in capsys.readouterr().err
