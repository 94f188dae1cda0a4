"""Images with more than 8 bits are scaled by one range for the whole data set."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.decode import decode_pair
from segtune.data.images import read_image
from segtune.data.layouts import open_split
from segtune.data.value_range import find_value_range
from segtune.errors import ConfigError, DataError
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.prediction import load_model
from segtune.training.trainer import Trainer
from tests.real_inputs.conftest import MakeDataSet

RANGED = DataConfig.parse({"value_range": [1000, 3000]})


def ramp(low: float, high: float, dtype: type = np.uint16) -> np.ndarray:
    return np.linspace(low, high, 40 * 40).reshape(40, 40).astype(dtype)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_by_the_range(tmp_path: Path, name: str, order: str) -> None:
    values = np.array([[0, 1000, 2000, 3000, 60000]], f"{order}u2")
    Image.fromarray(values).save(tmp_path / name)
    pixels = read_image(tmp_path / name, RANGED)
    assert pixels.shape == (1, 5, 3)
    assert pixels[0, :, 2].tolist() == [0, 0, 128, 255, 255]


def test_colours_of_16_bits_are_scaled_and_stay_in_their_order(tmp_path: Path) -> None:
    rgb = np.array([[[1000, 2000, 3000]]], np.uint16)
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), rgb[:, :, ::-1])
        assert read_image(tmp_path / name, RANGED).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm", "a.jp2"])
def test_no_format_of_16_bits_loses_its_low_byte(tmp_path: Path, name: str) -> None:
    green = ramp(1000, 3000).repeat(4, 0).repeat(4, 1)  # JPEG 2000 needs some pixels
    rgb = np.dstack([green // 2, green, green + 7])
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    cv2.imwrite(str(tmp_path / name), rgb[:, :, ::-1], lossless if name == "a.jp2" else [])
    expected = ((rgb - 1000.0) * 255 / 2000).round().clip(0, 255)
    assert np.array_equal(read_image(tmp_path / name, RANGED), expected)
    with pytest.raises(DataError, match=r"has 16 bits per channel"):
        read_image(tmp_path / name, DataConfig())


def test_floats_are_scaled_and_pixels_without_data_are_black(tmp_path: Path) -> None:
    values = np.array([[1000, 3000, np.nan, np.inf, 9999]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={42113: "9999"})
    assert read_image(tmp_path / "a.tif", RANGED)[0, :, 0].tolist() == [0, 255, 0, 255, 0]


def test_without_a_range_an_image_of_16_bits_is_refused_with_its_values(tmp_path: Path) -> None:
    Image.fromarray(ramp(300, 4000)).save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"a\.png: has 16 bits .*mode I;16\), .*data\.value_range=\[300, 4000\]"
    ):
        read_image(tmp_path / "a.png", DataConfig())


def test_a_range_does_not_change_images_of_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", RANGED)[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize("value_range", [[5, 5], [9, 1], [0, float("inf")]])
def test_a_range_must_rise_and_be_finite(value_range: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"value_range.*(expected two numbers|list of 2)"):
        DataConfig.parse({"value_range": value_range})


def deep_set(make_data_set: MakeDataSet, num_train: int = 6) -> DataConfig:
    """Write images of 12 bits in 16; image i has the values 500 to 1000 + 400 * i."""
    files = {}
    names = [f"train/{i:02d}" for i in range(num_train)] + ["val/00"]
    for i, name in enumerate(names):
        files[f"images/{name}.png"] = lambda path, i=i: Image.fromarray(
            ramp(500, 1000 + 400 * i)
        ).save(path)
        files[f"masks/{name}.png"] = lambda path: Image.fromarray(
            np.tile(np.array([0, 1], np.uint8), (40, 20))
        ).save(path)
    return make_data_set(files)


def test_the_range_is_that_of_the_training_images(make_data_set: MakeDataSet) -> None:
    config = deep_set(make_data_set)
    value_range = find_value_range(config)
    assert value_range
    assert value_range[0] == pytest.approx(500, abs=5)
    assert value_range[1] == pytest.approx(3000, abs=30)
    # A proxy with fewer images has the same range.
    assert find_value_range(config.override({"num_images": 2})) == value_range


def test_images_of_8_bits_have_no_range(shapes_root: Path) -> None:
    config = DataConfig.parse({"layout": "shapes", "root": str(shapes_root), "classes": "shapes"})
    assert find_value_range(config) is None


def trained_config(data: DataConfig, tiny_config: ExperimentConfig) -> ExperimentConfig:
    changes = {f"data.{name}": value for name, value in data.dump().items()}
    changes |= {"data.resize": [64, 64], "data.crop": [64, 64], "data.num_loaders": 0}
    return tiny_config.override(
        {**changes, "schedule.batch_size": 2, "schedule.epochs": 1, "augment.cat_max_ratio": 1.0}
    )


def test_a_training_run_records_the_range_and_can_be_resumed(
    make_data_set: MakeDataSet, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    data = deep_set(make_data_set)
    config = trained_config(data, tiny_config)
    out = TrialDir(tmp_path / "run")
    list(Trainer.start(config, out, Ranks.join()).epochs())
    recorded = load_config(out.config).data
    assert recorded.value_range == find_value_range(data)
    pair = open_split(recorded, "val")[0]
    image, _, _ = decode_pair(pair, recorded, 2)
    assert (image.min(), image.max()) == (0, 255)
    Trainer.resume(config, out, Ranks.join())


def float_set(make_data_set: MakeDataSet, background: float) -> DataConfig:
    """Write float images of 0.1 to 0.3, of which the upper fifth is `background`."""
    values = ramp(0.1, 0.3, np.float32)
    values[:8] = background
    files = {}
    for name in ("train/a", "val/a"):
        files[f"images/{name}.tif"] = lambda path: Image.fromarray(values).save(path)
        files[f"masks/{name}.png"] = lambda path: Image.new("L", (40, 40)).save(path)
    return make_data_set(files)


@pytest.mark.parametrize("background", [-9999, np.nan, np.inf, -3.4e38, 1e20])
def test_pixels_without_data_do_not_set_the_range(
    make_data_set: MakeDataSet, background: float
) -> None:
    value_range = find_value_range(float_set(make_data_set, background))
    assert value_range == pytest.approx((0.14, 0.3), abs=0.005)


def test_a_background_that_counts_as_no_data_is_said(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    find_value_range(float_set(make_data_set, -9999))
    assert "20 % of the sampled pixels have the value -9999" in caplog.text
    assert "set data.value_range if they are data" in caplog.text


def test_a_few_hot_pixels_do_not_set_the_range(make_data_set: MakeDataSet) -> None:
    values = ramp(100, 900)
    values[0, :1] = 65535
    files = {}
    for name in ("train/a", "val/a"):
        files[f"images/{name}.png"] = lambda path: Image.fromarray(values).save(path)
        files[f"masks/{name}.png"] = lambda path: Image.new("L", (40, 40)).save(path)
    low, high = find_value_range(make_data_set(files)) or (0, 0)
    assert 100 <= low < 110
    assert 890 < high <= 900


def test_images_of_two_values_have_the_range_of_both(make_data_set: MakeDataSet) -> None:
    values = np.where(ramp(0, 1, np.float64) > 0.5, 60000, 7).astype(np.uint16)
    files = {}
    for name in ("train/a", "val/a"):
        files[f"images/{name}.png"] = lambda path: Image.fromarray(values).save(path)
        files[f"masks/{name}.png"] = lambda path: Image.new("L", (40, 40)).save(path)
    assert find_value_range(make_data_set(files)) == (7, 60000)


def test_data_check_reads_images_of_16_bits_and_lists_damaged_ones(
    make_data_set: MakeDataSet,
) -> None:
    config = deep_set(make_data_set)
    assert not audit(config).problems
    Path(open_split(config, "train")[0].image).write_bytes(b"")
    problems = audit(config).problems
    assert len(problems) == 1
    assert "the file is empty" in problems[0]


def test_a_checkpoint_keeps_the_range_under_another_config(
    make_data_set: MakeDataSet, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = trained_config(deep_set(make_data_set), tiny_config)
    out = TrialDir(tmp_path / "run")
    list(Trainer.start(config, out, Ranks.join()).epochs())
    assert config.data.value_range is None
    _, loaded, _ = load_model(out.path, config, torch.device("cpu"))
    assert loaded.data.value_range == find_value_range(config.data)


def test_large_images_are_scaled_in_bands(tmp_path: Path) -> None:
    values = np.arange(600 * 3, dtype=np.float32).reshape(600, 3)
    Image.fromarray(values).save(tmp_path / "a.tif")
    config = DataConfig.parse({"value_range": [0, 1799]})
    expected = (values * 255 / 1799).round()
    assert np.array_equal(read_image(tmp_path / "a.tif", config)[:, :, 0], expected)
