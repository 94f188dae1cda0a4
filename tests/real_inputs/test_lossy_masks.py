"""Masks with lossy compression are refused by content; with the setting, labels are exact."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mask_data import MakeDataSet, files_of, on_data, stripes
from PIL import Image, ImageDraw

from segtune import train
from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.layouts import open_split
from segtune.data.lossy_masks import known_values
from segtune.data.masks import read_mask
from segtune.errors import DataError

# Of CamVid and Cityscapes: black, purple, blue, red and green.
COLOURS = np.array([(0, 0, 0), (128, 64, 128), (70, 130, 180), (220, 20, 60), (0, 128, 0)], "u1")


def drawing(num_classes: int) -> np.ndarray:
    """Return labels [360, 480] of circles and rectangles on a background of 0."""
    rng = np.random.default_rng(num_classes)
    image = Image.new("L", (480, 360))
    draw = ImageDraw.Draw(image)
    for number in range(14):
        x, y, radius = rng.integers(480), rng.integers(360), rng.integers(15, 70)
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape([x - radius, y - radius, x + radius, y + radius], fill=number % num_classes)
    return np.asarray(image)


def near_edges(labels: np.ndarray) -> np.ndarray:
    """Return whether a label of the 3 x 3 pixels around a pixel differs."""
    window = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, window) != cv2.erode(labels, window)


def binary(num_classes: int = 2, **settings: object) -> DataConfig:
    classes = [f"c{label}" for label in range(num_classes)]
    return DataConfig.parse(
        {"classes": classes, "label_map": {255: 1}, "allow_lossy_masks": True, **settings}
    )


def with_colours(root: Path) -> DataConfig:
    lines = [f"c{label} {r} {g} {b}" for label, (r, g, b) in enumerate(COLOURS.tolist())]
    (root / "colours.txt").write_text("\n".join(lines))
    settings = {"root": str(root), "layout": "folder", "palette": "colours.txt"}
    return binary(5, label_map=None, **settings)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_lossy_masks_are_refused_by_their_content(
    file_format: str, name: str, tmp_path: Path
) -> None:
    Image.fromarray(drawing(2) * 255).save(tmp_path / name, file_format)
    kind = {"WEBP": "lossy WebP"}.get(file_format, file_format)
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / name, binary(allow_lossy_masks=False), 2)
    assert str(error.value) == (
        f"{tmp_path}/{name}: is {kind}, which changes values near edges, so that labels become "
        "other labels; save the masks as PNG again from their source, or --set "
        "data.allow_lossy_masks=true to round every pixel to the nearest known value"
    )


def test_tiff_with_jpeg_compression_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(drawing(2) * 255)
    image.save(tmp_path / "x.tif", compression="jpeg")
    with pytest.raises(DataError, match=r"x\.tif: is TIFF with JPEG compression, which changes"):
        read_mask(tmp_path / "x.tif", binary(allow_lossy_masks=False), 2)
    image.save(tmp_path / "x.tif", compression="tiff_lzw")
    assert read_mask(tmp_path / "x.tif", binary(), 2).tolist() == drawing(2).tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize(("name", "file_format"), [("x.jpg", "JPEG"), ("x.png", "WEBP")])
def test_black_and_white_is_exact_after_snapping(
    name: str, file_format: str, quality: int, channels: int, tmp_path: Path
) -> None:
    labels = drawing(2)
    image = Image.fromarray(labels * 255)
    image = image.convert("RGB") if channels == 3 else image
    image.save(tmp_path / name, file_format, quality=quality)
    assert len(np.unique(np.asarray(Image.open(tmp_path / name)))) > 10  # values have changed
    result = read_mask(tmp_path / name, binary(), 2)
    assert result.dtype == np.uint8
    assert np.array_equal(result, labels)


@pytest.mark.parametrize(
    ("settings", "file_format", "allowed_share"),
    [
        ({"quality": 75}, "JPEG", 0.002),
        ({"quality": 90}, "JPEG", 0.002),
        ({"quality": 90, "subsampling": 0}, "JPEG", 0.0),
        ({"quality": 90}, "WEBP", 0.003),
    ],
)
def test_colours_are_exact_after_snapping_except_at_edges(
    settings: dict, file_format: str, allowed_share: float, tmp_path: Path
) -> None:
    labels = drawing(5)
    path = tmp_path / "x.jpg"
    Image.fromarray(COLOURS[labels]).save(path, file_format, **settings)
    wrong = read_mask(path, with_colours(tmp_path), 5) != labels
    assert not (wrong & ~near_edges(labels)).any()
    assert wrong.mean() <= allowed_share


def test_lossless_masks_are_not_snapped_with_the_setting(tmp_path: Path) -> None:
    labels = drawing(2)
    grey = labels * 255
    grey[tuple(np.argwhere(labels)[0])] = 250  # in a JPEG this is 255
    Image.fromarray(grey).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png: labels \[250\] are outside the 2 classes"):
        read_mask(tmp_path / "x.png", binary(), 2)
    Image.fromarray(grey).save(tmp_path / "x.jpg", quality=95)
    assert np.array_equal(read_mask(tmp_path / "x.jpg", binary(), 2), labels)


@pytest.mark.parametrize(
    ("num_classes", "settings", "known"),
    [
        (2, {"label_map": {255: 1}}, [0, 255]),
        (3, {"label_map": {127: 1, 254: 2}}, [0, 127, 254]),  # 255 is next to 254
        (3, {"label_map": {100: 1, 200: 2}}, [0, 100, 200, 255]),
        (2, {"label_map": None}, [0, 1, 255]),
        (2, {"label_map": {0: 1, 255: 0}}, [0, 255]),
        (2, {"label_map": None, "reduce_zero_label": True}, [0, 1, 2, 255]),
    ],
)
def test_known_values_are_those_that_a_file_can_hold(
    num_classes: int, settings: dict, known: list[int]
) -> None:
    assert known_values(binary(num_classes, **settings), num_classes).tolist() == known


def test_grey_levels_of_three_classes_are_exact(tmp_path: Path) -> None:
    labels = drawing(3)
    Image.fromarray(labels * 127).save(tmp_path / "x.jpg", quality=90)
    config = binary(3, label_map={127: 1, 254: 2})
    wrong = read_mask(tmp_path / "x.jpg", config, 3) != labels
    assert not (wrong & ~near_edges(labels)).any()
    assert wrong.mean() < 0.001


def test_values_too_close_to_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(drawing(5)).save(path)
    with pytest.raises(DataError, match=r"x\.jpg: the values 0 and 1 of two labels are 1 apart"):
        read_mask(path, binary(5, label_map=None), 5)
    with pytest.raises(DataError, match=r"the values 240 and 250 of two labels are 10 apart, .*16"):
        read_mask(path, binary(3, label_map={240: 1, 250: 2}), 3)
    (tmp_path / "c.txt").write_text("c0 0 0 0\nc1 9 0 0\n")
    settings = {"root": str(tmp_path), "layout": "folder", "palette": "c.txt", "label_map": None}
    with pytest.raises(DataError, match=r"the colours \[0, 0, 0\] and \[9, 0, 0\] in .* are 9 ap"):
        read_mask(path, binary(**settings), 2)


def test_a_mask_that_is_far_from_all_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(drawing(2) * 128).save(path, quality=90)
    with pytest.raises(DataError, match=r"x\.jpg: 1[0-9]\.[0-9] % of the pixels are far from the "
                       r"values \[0, 255\], .* \(at most 5 %\)"):  # fmt: skip
        read_mask(path, binary(), 2)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    with pytest.raises(DataError, match=r"% of the pixels are far from the colours in .*colours\."):
        read_mask(path, with_colours(tmp_path), 5)
    with pytest.raises(DataError, match=r"x\.jpg: a lossy mask with colours; set data\.palette"):
        read_mask(path, binary(), 2)


def save_jpeg(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path, "JPEG", quality=90)


@pytest.mark.parametrize("layout", ["folder", "voc", "ade20k"])
def test_every_layout_lists_jpg_masks_with_the_setting_only(
    layout: str, make_data_set: MakeDataSet
) -> None:
    masks = {"train": [stripes(0, 255)] * 2}
    files = files_of(masks, save_jpeg, ".jpg")
    if layout == "voc":
        places = {"images": "JPEGImages", "masks": "SegmentationClass", "/train/": "/"}
        files["ImageSets/Segmentation/train.txt"] = lambda path: path.write_text("000\n001\n")
    elif layout == "ade20k":
        places = {"masks": "annotations", "/train/": "/training/"}
    else:
        places = {}
    for old, new in places.items():
        files = {name.replace(old, new): write for name, write in files.items()}
    settings = {"layout": layout, "label_map": {255: 1}, "reduce_zero_label": False}
    data = make_data_set(files, **settings)
    with pytest.raises(DataError, match=r"jpg.*data\.allow_lossy_masks=true"):
        open_split(data, "train")
    data = make_data_set({}, **settings, allow_lossy_masks=True)
    pairs = open_split(data, "train")
    assert [Path(pair.mask).suffix for pair in pairs] == [".jpg", ".jpg"]
    assert read_mask(pairs[0].mask, data, 2).tolist() == stripes(0, 1).tolist()


def test_data_check_and_train_refuse_jpeg_named_png_and_read_it_with_the_setting(
    make_data_set: MakeDataSet,
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    masks = {"train": [stripes(0, 255)] * 2, "val": [stripes(0, 255)]}
    data = make_data_set(files_of(masks, save_jpeg), label_map={255: 1})
    problems = audit(data).problems
    assert problems[0].startswith("2 files (first ")
    assert "000.png): is JPEG, which changes values near edges" in problems[0]
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(on_data(tiny_config, data).dump()))
    arguments = ["--config", str(file), "--out", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    assert "is JPEG, which changes values" in capsys.readouterr().err
    assert train.main([*arguments, "--set", "data.allow_lossy_masks=true"]) == 0
