"""Masks with lossy compression are refused by their content, or snapped to known values."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.masks import read_mask
from segtune.errors import DataError


def disc(size: int = 128) -> np.ndarray:
    """Return a disc of 1 on 0, bool [size, size]."""
    rows, columns = np.mgrid[:size, :size] - size / 2
    return rows**2 + columns**2 < (size / 3) ** 2


def config(**settings: object) -> DataConfig:
    return DataConfig.parse({"classes": ["bg", "fg"], "allow_lossy_masks": True, **settings})


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_masks_are_refused_whatever_their_suffix(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / name
    Image.fromarray(disc().astype(np.uint8) * 255).convert("RGB").save(path, kind, quality=80)
    with pytest.raises(DataError, match=r"x\.\w+: is (JPEG|lossy WebP), .*allow_lossy_masks=true"):
        read_mask(path, config(allow_lossy_masks=False), 2)


def test_a_tiff_with_jpeg_compression_is_lossy(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(disc().astype(np.uint8)).save(path, compression="jpeg")
    with pytest.raises(DataError, match="TIFF with JPEG compression"):
        read_mask(path, config(allow_lossy_masks=False), 2)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_lossy_mask_of_0_and_255_has_the_labels_of_its_source(
    tmp_path: Path, mode: str, kind: str
) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(disc().astype(np.uint8) * 255).convert(mode).save(path, kind, quality=75)
    assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 2
    labels = read_mask(path, config(label_map={255: 1}), 2)
    assert (labels == disc()).mean() > 0.999
    assert set(np.unique(labels)) == {0, 1}


def test_an_ignored_grey_level_stays_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    values = np.where(disc(), 128, 0).astype(np.uint8)
    values[:, 120:] = 255
    Image.fromarray(values).save(path, quality=90)
    labels = read_mask(path, config(label_map={128: 1}), 2)
    expected = np.where(disc(), 1, 0)
    expected[:, 120:] = 255
    assert (labels == expected).mean() > 0.99


def test_labels_that_are_too_close_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(disc().astype(np.uint8)).save(path, quality=95)
    with pytest.raises(DataError, match=r"x\.jpg: the values of the labels are 1 apart, .*255: 1"):
        read_mask(path, config(), 2)


def test_a_mask_with_many_values_far_from_the_known_ones_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    Image.fromarray(np.tile(ramp, (128, 1))).save(path, quality=95)
    with pytest.raises(DataError, match=r"x\.jpg: \d\d\.\d % of the pixels are far from the val"):
        read_mask(path, config(label_map={255: 1}), 2)


def test_lossy_colours_have_the_nearest_class(tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_text("bg 0 0 0\nfg 128 64 128\n")
    settings = config(layout="folder", root=str(tmp_path), palette="colours.txt")
    path = tmp_path / "x.jpg"
    colours = np.where(disc()[..., None], (128, 64, 128), 0).astype(np.uint8)
    Image.fromarray(colours).save(path, quality=90)
    labels = read_mask(path, settings, 2)
    assert (labels == disc()).mean() > 0.99
    assert set(np.unique(labels)) == {0, 1}
    with pytest.raises(DataError, match=r"x\.jpg: a lossy mask with colours; set data\.palette"):
        read_mask(path, settings.override({"palette": None, "label_map": {255: 1}}), 2)
    (tmp_path / "close.txt").write_text("bg 0 0 0\nfg 0 0 9\n")
    with pytest.raises(DataError, match=r"are 9 apart"):
        read_mask(path, settings.override({"palette": "close.txt"}), 2)
