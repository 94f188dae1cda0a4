"""Laws of the layouts: the right pairs and labels, and for everything missing an error that names the file."""

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune.config.schema import IGNORE_INDEX, DataConfig
from segtune.config.yaml_io import write_yaml
from segtune.data import shapes
from segtune.data.decode import load_pair, palette, read_image
from segtune.data.layouts import class_names, open_split
from segtune.data_tools import main as data_tools
from segtune.errors import DataError


def image(path, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), 100, np.uint8))


def mask(path, labels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    found = Image.fromarray(np.asarray(labels, np.uint8), mode="L")
    if mode == "P":
        found = Image.fromarray(np.asarray(labels, np.uint8), mode="P")
        found.putpalette(palette(21).ravel().tolist())
    found.save(path)


def split(root, name, names, newline="\n"):
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(newline.join(names).encode("utf-8-sig"))


@pytest.fixture
def voc(tmp_path):
    labels = np.zeros((6, 8), np.uint8)
    labels[0, :3] = (1, 20, 255)
    for name in ("a", "b", "c"):
        image(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask(tmp_path / "SegmentationClass" / f"{name}.png", labels, "P")
        mask(tmp_path / "SegmentationClassAug" / f"{name}.png", labels)
    split(tmp_path, "train", ["a", "", "b"], "\r\n")
    split(tmp_path, "aug", ["b", "c"])
    split(tmp_path, "val", ["c"])
    return tmp_path


def voc_config(root, **changes):
    return DataConfig.parse({"layout": "voc", "root": str(root), **changes})


def names(pairs):
    return [p.name for p in pairs]


def test_voc_lists_are_joined_without_doubles_and_blank_lines(voc):
    assert names(open_split(voc_config(voc), "train")) == ["a", "b"]
    assert names(open_split(voc_config(voc, train=["train", "aug"]), "train")) == ["a", "b", "c"]
    assert names(open_split(voc_config(voc, num_images=1), "train")) == ["a"]


def test_aug_list_takes_the_aug_masks(voc):
    assert (
        "SegmentationClassAug" in open_split(voc_config(voc, train=["train", "aug"]), "val")[0].mask
    )
    assert "SegmentationClassAug" not in open_split(voc_config(voc), "val")[0].mask


@pytest.mark.parametrize("train", [["train"], ["aug"]])
def test_palette_and_grey_masks_are_the_same_labels(voc, train):
    config = voc_config(voc, train=train)
    _, labels = load_pair(open_split(config, "train")[0], config, 21)
    assert labels[0, :4].tolist() == [1, 20, 255, 0]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_have_pillows_pixels(tmp_path, mode, progressive):
    coloured = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    turned = Image.Exif()
    turned[274] = 6  # orientation: as a viewer would show it, not as it lies in the file
    smooth = Image.fromarray(cv2.GaussianBlur(coloured, (0, 0), 2)).convert(mode)
    smooth.save(tmp_path / "x.jpg", progressive=progressive, exif=turned, quality=80)
    with Image.open(tmp_path / "x.jpg") as saved:
        assert np.array_equal(read_image(tmp_path / "x.jpg"), np.asarray(saved.convert("RGB")))
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-40])
    with pytest.raises(DataError, match="not readable as an image"):
        read_image(tmp_path / "x.jpg")


def test_ade20k_moves_labels_down_and_ignores_zero(tmp_path):
    for part in ("training", "validation"):
        image(tmp_path / "images" / part / "x.jpg", (3, 1))
        mask(tmp_path / "annotations" / part / "x.png", [[0, 1, 150]])
    config = DataConfig.parse({"layout": "ade20k", "root": str(tmp_path), "classes": "ade20k"})
    _, labels = load_pair(open_split(config, "val")[0], config, 150)
    assert labels.tolist() == [[255, 0, 149]]
    assert len(class_names(config)) == 150


def test_folder_layout_pairs_any_suffixes(tmp_path):
    image(tmp_path / "images" / "train" / "x.jpeg", (2, 1))
    mask(tmp_path / "masks" / "train" / "x.png", [[0, 1]])
    image(tmp_path / "images" / "val" / "y.PNG", (2, 1))
    mask(tmp_path / "masks" / "val" / "y.bmp", [[0, 1]])
    (tmp_path / "labels.txt").write_text("sky\nroad\n")
    config = DataConfig.parse({"layout": "folder", "root": str(tmp_path), "classes": "labels.txt"})
    assert names(open_split(config, "train")) == ["x"]
    assert names(open_split(config, "val")) == ["y"]
    assert class_names(config) == ("sky", "road")


def test_everything_missing_is_named(voc):
    def message(config, which="train"):
        with pytest.raises(DataError) as caught:
            open_split(config, which)
        return str(caught.value)

    assert "train.txt" in message(voc_config(voc, train=["trian"]))
    assert f"no folder '{voc}x'; did you mean" in message(voc_config(f"{voc}x"))
    (voc / "SegmentationClass" / "b.png").unlink()
    assert "no mask for 'b'" in message(voc_config(voc))
    (voc / "JPEGImages" / "c.jpg").unlink()
    assert "no image for 'c'" in message(voc_config(voc), "val")
    split(voc, "val", [""])
    assert "is empty" in message(voc_config(voc), "val")
    split(voc, "val", ["../../etc/passwd"])
    assert "is a path" in message(voc_config(voc), "val")


def test_wrong_masks_are_named(voc):
    config = voc_config(voc)
    pair = open_split(config, "train")[0]
    mask(voc / "SegmentationClass" / "a.png", np.full((6, 8), 21))
    with pytest.raises(DataError, match=r"a\.png: labels \[21\] are outside the 21 classes"):
        load_pair(pair, config, 21)
    mask(voc / "SegmentationClass" / "a.png", np.zeros((6, 9)))
    with pytest.raises(DataError, match=r"a\.png: is 9x6 pixels, but .*a\.jpg is 8x6"):
        load_pair(pair, config, 21)
    image(voc / "SegmentationClass" / "a.png")
    with pytest.raises(DataError, match="one channel of labels"):
        load_pair(pair, config, 21)
    (voc / "JPEGImages" / "a.jpg").write_bytes((voc / "JPEGImages" / "a.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.jpg: not readable as an image"):
        read_image(pair.image)


def test_data_check_lists_every_problem_and_the_frequencies(voc, capsys):
    config = voc / "c.yaml"
    config.write_text(write_yaml({"data": voc_config(voc).dump()}))
    assert data_tools(["check", str(config)]) == 0
    assert "aeroplane" in capsys.readouterr().out
    mask(voc / "SegmentationClass" / "a.png", np.full((6, 8), 99))
    mask(voc / "SegmentationClass" / "b.png", np.full((6, 8), 255))
    assert data_tools(["check", str(config)]) == 2
    told = capsys.readouterr().err
    assert "a.png: labels [99]" in told
    assert "b.png: every pixel is ignored" in told
    assert (
        "class 'background' (label 0) is in the validation images and in no training image" in told
    )


def test_shapes_are_the_same_from_the_same_seed(tmp_path):
    spec = shapes.ShapesSpec(seed=3, num_train=3, num_val=1, size=64)
    for name in ("one", "two"):
        shapes.generate_if_needed(tmp_path / name, spec)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) == 2 * 4 + 3
    assert all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )
    shapes.generate_if_needed(tmp_path / "two", shapes.ShapesSpec(seed=4, num_train=3, num_val=1, size=64))
    assert any(
        (tmp_path / "one" / f).read_bytes() != (tmp_path / "two" / f).read_bytes() for f in files
    )


def test_shapes_are_imbalanced_and_hold_every_class():
    scenes = [shapes.draw_scene(np.random.default_rng(i), 96)[1] for i in range(80)]
    share = np.bincount(np.concatenate([s.ravel() for s in scenes]), minlength=256) / (80 * 96 * 96)
    assert 0.6 < share[0] < 0.95
    assert all(share[label] > 0 for label in range(len(shapes.CLASSES)))
    assert share[shapes.CLASSES.index("dot")] < 0.01 < share[shapes.CLASSES.index("box")]
    assert share[IGNORE_INDEX] > 0


def test_colours_are_those_of_voc():
    assert palette(21)[[0, 1, 15, 20]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
