"""Laws of sliding windows: they are mmseg's, cover all pixels, and count every pixel once."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import ValBatch, ValLoader, normalize
from segtune.errors import ConfigError
from segtune.metrics import ConfusionMatrix
from segtune.models.build import build_model
from segtune.runs.rundir import TrialDir
from segtune.training import tta
from segtune.training.distributed import Ranks
from segtune.training.drawing import windows_for
from segtune.training.evaluation import evaluate
from segtune.training.trainer import Trainer
from segtune.training.tta import AugmentedInference
from segtune.training.windows import Windows, windowed_logits

# Window and stride of the experiments with cell images, and of mmseg's configs.
MMSEG_WINDOWS = [
    ((480, 480), (320, 320)),
    ((128, 128), (85, 85)),
    ((96, 96), (42, 42)),
    ((64, 128), (42, 85)),
]


def average_4x4(images: Tensor) -> Tensor:
    """Return logits [B, 3, ceil(H/4), ceil(W/4)] that tell each patch from its neighbours."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
    return F.avg_pool2d(padded, 4)


def average_whole_4x4(images: Tensor) -> Tensor:
    """Return logits [B, 3, H//4, W//4], as an encoder that drops incomplete patches."""
    return F.avg_pool2d(images, 4)


def random_images(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> Tensor:
    return random_images(70, 101)


@pytest.fixture
def model(tiny_config: ExperimentConfig) -> nn.Module:
    """Return a small SegFormer, whose logits depend on everything inside a window."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(tiny_config.model, 7).eval()


def mmseg_average(model: nn.Module, images: Tensor, window: tuple[int, int], stride: Any) -> Tensor:
    """Return the mean of the logits of all windows at each pixel, in float64, one pixel at a time.

    mmseg has ceil((length - window) / stride) + 1 windows along an axis. Each begins `stride` after
    the one before, or where it ends with the image, and all begin at 0 in a smaller image.
    """
    sides = images.shape[-2:]
    starts: list[list[int]] = []
    for length, size, step in zip(sides, window, stride, strict=True):
        begins, begin = [0], 0
        while begin + size < length:
            begin = min(begin + step, length - size)
            begins.append(begin)
        starts.append(begins)
    pixels: dict[tuple[int, int], list[Tensor]] = {}
    for top in starts[0]:
        for left in starts[1]:
            part = images[..., top : top + window[0], left : left + window[1]]
            logits = nn.Upsample(size=part.shape[-2:], mode="bilinear")(model(part)).double()
            for y in range(part.shape[-2]):
                for x in range(part.shape[-1]):
                    pixels.setdefault((top + y, left + x), []).append(logits[..., y, x])
    rows = [[torch.stack(pixels[y, x]).mean(0) for x in range(sides[1])] for y in range(sides[0])]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@pytest.mark.parametrize("size", [(70, 101), (96, 32), (33, 32), (33, 90)], ids=str)
@pytest.mark.parametrize(
    ("window", "stride"),
    [((64, 64), (42, 42)), ((64, 96), (64, 50)), ((32, 37), (21, 5)), ((512, 512), (341, 341))],
    ids=str,
)
@torch.no_grad()
def test_average_is_that_of_mmseg(
    model: nn.Module, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> None:
    images = random_images(*size)[:1]
    logits = windowed_logits(model, images, Windows(window, stride))
    expected = mmseg_average(model, images, window, stride)
    assert logits.shape == (1, 7, *size)
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("window", "stride"), MMSEG_WINDOWS, ids=str)
@pytest.mark.parametrize("size", [(512, 683), (96, 1000), (100, 40), (481, 479)], ids=str)
def test_windows_are_those_of_mmseg(
    window: tuple[int, int], stride: tuple[int, int], size: tuple[int, int]
) -> None:
    expected = []
    grids = [
        max(length - side + step - 1, 0) // step + 1
        for length, side, step in zip(size, window, stride, strict=True)
    ]
    for row in range(grids[0]):
        for column in range(grids[1]):
            bottom = min(row * stride[0] + window[0], size[0])
            right = min(column * stride[1] + window[1], size[1])
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            expected.append((slice(top, bottom), slice(left, right)))
    assert list(Windows(window, stride).cover(*size)) == expected


@pytest.mark.parametrize("stride", [8, 20, 32])
@pytest.mark.parametrize("window", [32, 64, 128])
def test_coarse_windows_cover_every_pixel(images: Tensor, window: int, stride: int) -> None:
    # The model looks at each patch alone, so the mean over any overlapping windows is the same.
    windows = replace(Windows.coarse(window), stride=(stride, stride))
    logits = windowed_logits(average_4x4, images, windows)
    torch.testing.assert_close(logits, average_4x4(images))


@pytest.mark.parametrize("window", [32, 64])
def test_coarse_windows_leave_no_gap_if_a_model_drops_incomplete_patches(
    images: Tensor, window: int
) -> None:
    logits = windowed_logits(average_whole_4x4, images, Windows.coarse(window))
    torch.testing.assert_close(logits, average_whole_4x4(images))


@pytest.mark.parametrize("stride", [1, 8])
def test_coarse_windows_take_models_of_any_stride(stride: int) -> None:
    def model(part: Tensor) -> Tensor:
        return F.avg_pool2d(part, stride)

    # A ramp, which every bilinear resizing keeps except at the border.
    ramp = torch.linspace(0, 1, 128).expand(1, 3, 96, 128)
    logits = windowed_logits(model, ramp, Windows.coarse(64))
    assert logits.shape == (1, 3, 24, 32)
    torch.testing.assert_close(logits[..., 2:-2], average_4x4(ramp)[..., 2:-2], atol=0.01, rtol=0)


def test_model_sees_windows_and_not_the_whole_image(images: Tensor) -> None:
    def sizes(windows: Windows) -> set[tuple[int, ...]]:
        seen: set[tuple[int, ...]] = set()

        def model(part: Tensor) -> Tensor:
            seen.add(tuple(part.shape[-2:]))
            return average_4x4(part)

        windowed_logits(model, images, windows)
        return seen

    assert sizes(Windows((32, 48), (32, 48))) == {(32, 48)}
    # The last coarse windows begin at a multiple of 4 pixels and reach to the border.
    coarse = replace(Windows.coarse(32), stride=(32, 32))
    assert sizes(coarse) == {(32, 32), (34, 32), (32, 33), (34, 33)}


def test_window_is_the_crop_and_the_stride_two_thirds_of_it_by_default() -> None:
    config = ExperimentConfig().override({"data.crop": [512, 128]})
    assert Windows.of(config) is None
    slides = config.override({"val.mode": "slide"})
    assert Windows.of(slides) == Windows((512, 128), (341, 85))
    chosen = slides.override({"val.window": [96, 90], "val.stride": [42, 41]})
    assert Windows.of(chosen) == Windows((96, 90), (42, 41))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val.window": [31, 64]}, "val.window.0: allowed is .*>= 32.*; got 31"),
        (
            {"val.window": [64, 64], "val.stride": [0, 4]},
            "val.stride.0: allowed is .*>= 1.*; got 0",
        ),
        (
            {"val.window": [64, 64], "val.stride": [64, 65]},
            r"val: stride \[64, 65\] is larger than window \[64, 64\]",
        ),
        ({"val.stride": [40, 40]}, r"val: stride \[40, 40\] needs a window; .* window: \[60, 60\]"),
        (
            {"val.mode": "slid"},
            r"val.mode: allowed is whole \| slide; got 'slid'; did you mean 'slide'",
        ),
    ],
)
def test_impossible_windows_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig().override(changes)


@pytest.fixture
def slides(tiny_config: ExperimentConfig) -> ExperimentConfig:
    """Return a config that validates images of 64 x 64 pixels in windows."""
    changes = {"val.mode": "slide", "val.window": [40, 48], "val.stride": [21, 13]}
    return tiny_config.override(changes)


def matrix_by_hand(model: nn.Module, config: ExperimentConfig) -> Tensor:
    """Return the confusion matrix from the mean of the windows, one image at a time."""
    confusion = ConfusionMatrix(7)
    for batch in ValLoader(config, 0, 1):
        for image, mask in zip(batch.images, batch.masks, strict=True):
            part = normalize(image[None])
            logits = windowed_logits(model, part, Windows((40, 48), (21, 13)))
            labels = F.interpolate(logits, mask.shape[-2:], mode="bilinear").argmax(1)
            confusion.update(labels[0], mask.long())
    return confusion.matrix


@torch.no_grad()
def test_evaluation_uses_the_windows_of_the_config(
    model: nn.Module, slides: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = matrix_by_hand(model, slides)
    arguments = (Ranks(), slides, 7, torch.float32)
    data = ValLoader(slides, 0, 1)
    assert torch.equal(evaluate(model, data, *arguments).matrix, expected)
    whole = evaluate(model, data, *arguments, AugmentedInference()).matrix
    assert not torch.equal(whole, expected)
    # One image at a time gives the same.
    monkeypatch.setattr(tta, "PIXEL_VALUES", 1)
    assert torch.equal(evaluate(model, data, *arguments).matrix, expected)


def test_windows_of_large_images_are_predicted_one_by_one() -> None:
    views = AugmentedInference(Windows((512, 512), (341, 341)))
    assert views.images_at_once(8, 150, (512, 2048)) == 1
    assert views.images_at_once(8, 2, (512, 512)) == 8
    assert views.images_at_once(8, 19, (1024, 2048)) == 6
    flipped = replace(views, flip=True, scales=(0.5, 1.0))
    assert flipped.images_at_once(8, 19, (1024, 2048)) == 2
    assert AugmentedInference().images_at_once(8, 150, (4096, 4096)) == 8


def test_batches_are_split_without_a_loss(
    model: nn.Module, slides: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tta, "PIXEL_VALUES", 7 * 64 * 64 * 2)
    sizes: list[int] = []

    def counting(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return model(images)

    def batches() -> Iterable[ValBatch]:
        yield ValBatch(
            torch.zeros(5, 3, 64, 64, dtype=torch.uint8),
            torch.zeros(5, 64, 64, dtype=torch.uint8),
            ["a"] * 5,
        )

    module = nn.Module()
    module.forward = counting
    matrix = evaluate(module, batches(), Ranks(), slides, 7, torch.float32).matrix
    assert matrix.sum() == 5 * 64 * 64
    num_windows = 3 * 3  # 0, 21, 24 and 0, 13, 16
    assert sizes == [2] * num_windows + [2] * num_windows + [1] * num_windows


def test_validation_of_a_training_run_slides_windows(
    slides: ExperimentConfig, tmp_path: Path
) -> None:
    config = slides.override({"schedule.epochs": 1, "schedule.warmup_epochs": 0.0})
    trainer = Trainer.start(config, TrialDir(tmp_path / "run"), Ranks())
    (record,) = trainer.epochs()
    with torch.no_grad():
        confusion = ConfusionMatrix(7)
        confusion.matrix = matrix_by_hand(trainer.network.eval(), config)
    assert record.miou == pytest.approx(confusion.summary()["mIoU"], abs=1e-12)


def test_windows_without_the_mode_are_warned_of(
    tiny_config: ExperimentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config.override({"val.window": [64, 64]})
    Trainer.start(config, TrialDir(tmp_path / "run"), Ranks())
    assert "val.window: [64, 64] has no effect, because val.mode is whole" in caplog.text


def test_predict_uses_the_windows_of_the_config_and_coarse_ones_for_large_images(
    slides: ExperimentConfig,
) -> None:
    config = slides.override({"data.resize": [2048, 2048]})  # 1025 x 2048 pixels keep their size
    windows = Windows((40, 48), (21, 13))
    assert windows_for((1024, 2048), config) == windows
    assert windows_for((1025, 2048), config) == Windows((40, 48), (20, 12), is_coarse=True)
    assert windows_for((1024, 2048), config, window=64) == Windows((64, 64), (40, 40), True)
    whole = config.override({"val.mode": "whole"})
    assert windows_for((1024, 2048), whole) is None
    assert windows_for((1025, 2048), whole) == Windows((1024, 1024), (680, 680), True)
