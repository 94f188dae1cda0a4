"""Data sets of more than 255 classes: no label is cut to 8 bits, from the file to the report."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mask_data import MakeDataSet, files_of, on_data

from segtune import data_tools, evaluate, predict, train
from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.loss_config import LossConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.augment import Augmentation
from segtune.data.cache import DecodedPairs
from segtune.data.decode import decode_pair
from segtune.data.label_colours import voc_colours
from segtune.data.label_map import MAX_CLASSES
from segtune.data.layouts import open_split
from segtune.data.loader import TrainLoader, ValLoader
from segtune.data.masks import check_mask_settings
from segtune.data.mixing import cutmix
from segtune.errors import ConfigError
from segtune.losses.segmentation import build_loss
from segtune.metrics import ConfusionMatrix
from segtune.reporting.class_chart import MAX_CLASSES as MAX_SHOWN_CLASSES
from segtune.reporting.class_chart import drawn_classes
from segtune.runs.rundir import TrialDir
from segtune.training.drawing import Outputs, draw
from segtune.training.tta import AugmentedInference

NUM_CLASSES = 300
IGNORE = 65535
CLASSES = [f"c{label}" for label in range(NUM_CLASSES)]
# Every label of 0..299, each in a block of 4 x 4 pixels; some pixels are ignored.
GRID = np.arange(320).reshape(16, 20) % NUM_CLASSES
LABELS = GRID.repeat(4, 0).repeat(4, 1).astype(np.uint16)
LABELS[:4, :4] = IGNORE
SETTINGS = {"classes": CLASSES, "ignore_index": IGNORE}


@pytest.fixture
def many(make_data_set: MakeDataSet) -> DataConfig:
    masks = {"train": [LABELS, LABELS[::-1], LABELS], "val": [LABELS, LABELS]}
    return make_data_set(files_of(masks), **SETTINGS)


@pytest.fixture
def many_config(tiny_config: ExperimentConfig, many: DataConfig) -> ExperimentConfig:
    return on_data(tiny_config, many)


def test_labels_of_a_file_are_exact(many: DataConfig) -> None:
    labels = decode_pair(open_split(many, "val")[0], many, NUM_CLASSES).labels
    assert labels.dtype == np.uint16
    assert np.array_equal(labels, LABELS)


def test_255_is_a_class_and_not_ignored(many: DataConfig) -> None:
    content = audit(many)
    assert content.problems == []
    counts = np.bincount(LABELS.ravel(), minlength=IGNORE + 1)
    assert np.array_equal(content.val.pixels, 2 * counts)
    assert content.val.pixels[255] == 32


@pytest.mark.parametrize("settings", [{}, {"cat_max_ratio": 0.5}, {"ratio": [0.3, 0.4]},
                         {"cutout": {"prob": 1.0, "holes": [3, 3]}}])  # fmt: skip
def test_augmented_labels_are_those_at_their_pixels(
    settings: dict, many_config: ExperimentConfig
) -> None:
    """Red and green of the image hold the label, so that both must show the same after augment."""
    changes = {"augment.photometric": False, "augment.ratio": [1.0, 1.0]}
    changes["data.resize"] = [80, 64]  # the size of the image
    changes |= {f"augment.{name}": value for name, value in settings.items()}
    config = many_config.override(changes)
    augmentation = Augmentation(config.data, config.augment)
    image = np.dstack([LABELS >> 8, LABELS & 255, np.zeros_like(LABELS)]).astype(np.uint8)
    seen, num_ignored = set(), 0
    for seed in range(8):
        result, labels = augmentation(image, LABELS, np.random.default_rng(seed))
        assert labels.dtype == np.uint16
        assert labels.shape == config.data.crop
        assert set(np.unique(labels).tolist()) <= {*range(NUM_CLASSES), IGNORE}
        num_ignored += int((labels == IGNORE).sum())
        seen |= set(np.unique(labels).tolist())
        if "ratio" not in settings:  # resized images are interpolated, labels are not
            is_same = (result[..., 0].astype(int) << 8 | result[..., 1]) == labels
            assert is_same[labels != IGNORE].all()
    assert len(seen) > 256
    # Padding and holes are ignored; without them, only the block in the corner is.
    is_padded_or_cut = "ratio" in settings or "cutout" in settings
    assert (num_ignored > 8 * 16) == is_padded_or_cut


def test_cutmix_keeps_wide_labels() -> None:
    image = np.zeros((64, 80, 3), np.uint8)
    other = np.full_like(LABELS, 299)
    _, mixed = cutmix(image, LABELS, (image, other), np.random.default_rng(1))
    assert mixed.dtype == np.uint16
    assert ((mixed == LABELS) | (mixed == 299)).all()
    assert (mixed != LABELS).any()


def test_the_cache_returns_wide_labels(many: DataConfig, tmp_path: Path) -> None:
    data = DataConfig.parse({**many.dump(), "cache": str(tmp_path / "cache")})
    pairs = open_split(data, "val")
    first = DecodedPairs(pairs, data, NUM_CLASSES, "val")
    decoded = first[0][1]
    first.flush()
    cached = DecodedPairs(pairs, data, NUM_CLASSES, "val")
    read_again = cached[0][1]
    assert not read_again.flags.owndata  # from the memory map
    for labels in (decoded, read_again):
        assert labels.dtype == np.uint16
        assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("num_loaders", [0, 1])
def test_batches_have_the_labels_of_the_files(
    num_loaders: int, many_config: ExperimentConfig
) -> None:
    config = many_config.override({"data.num_loaders": num_loaders})
    (batch,) = ValLoader(config, 0, 1)
    assert batch.masks.dtype == torch.int32
    assert np.array_equal(batch.masks.numpy(), np.stack([LABELS, LABELS]))
    for trained in TrainLoader(config, 0, 1).epoch(1):
        values = set(trained.masks.unique().tolist())
        assert values <= {*range(NUM_CLASSES), IGNORE}
        assert max(values - {IGNORE}) > 255


def test_few_classes_with_a_large_ignore_index_are_not_cut(
    make_data_set: MakeDataSet, tiny_config: ExperimentConfig
) -> None:
    labels = np.where(LABELS == IGNORE, IGNORE, LABELS % 3).astype(np.uint16)
    data = make_data_set(
        files_of({"train": [labels] * 2, "val": [labels]}),
        classes=["a", "b", "c"],
        ignore_index=IGNORE,
    )
    (batch,) = ValLoader(on_data(tiny_config, data), 0, 1)
    assert np.array_equal(batch.masks[0].numpy(), labels)


@pytest.mark.parametrize(
    "settings",
    [
        {"focal": {"weight": 1.0}},
        {"focal": {"weight": 1.0, "form": "softmax"}},
        {"dice": {"weight": 1.0}},
        {"dice": {"weight": 1.0, "per_class": True}},
        {"ce": {"weight": 1.0}},
        {"ce": {"weight": 1.0}, "ohem": {"keep": 0.5}},
    ],
)
def test_the_loss_of_300_classes_is_that_of_the_same_labels_below_256(settings: dict) -> None:
    """Rotate the classes, in the labels and in the logits."""
    off = {"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 0.0}}
    loss = build_loss(LossConfig.parse({**off, **settings}), NUM_CLASSES, IGNORE)
    logits = torch.randn(1, NUM_CLASSES, 16, 20, generator=torch.Generator().manual_seed(0))
    high = torch.from_numpy(np.where(LABELS == IGNORE, IGNORE, 250 + LABELS % 50).astype(np.int64))
    low = torch.where(high == IGNORE, high, high - 250)
    rotated = logits.roll(-250, 1)  # its class 0 is class 250 of `logits`
    of_high, of_low = loss(logits, high[None])["total"], loss(rotated, low[None])["total"]
    assert of_high.item() == pytest.approx(of_low.item(), rel=1e-5)
    assert of_high > 0


def test_the_loss_of_a_batch_is_that_of_its_labels_as_int64(many_config: ExperimentConfig) -> None:
    (batch,) = ValLoader(many_config, 0, 1)
    settings = {"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 1.0}}
    loss = build_loss(LossConfig.parse(settings), NUM_CLASSES, IGNORE)
    logits = torch.randn(2, NUM_CLASSES, 16, 20, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(np.stack([LABELS, LABELS]).astype(np.int64))
    ours = loss(logits, batch.masks.long())["total"]
    assert torch.equal(ours, loss(logits, expected)["total"])
    full_size = torch.nn.functional.interpolate(logits, LABELS.shape, mode="bilinear")
    plain = torch.nn.functional.cross_entropy(full_size, expected, ignore_index=IGNORE)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-4)


def test_the_confusion_matrix_counts_300_classes() -> None:
    target = torch.from_numpy(LABELS.astype(np.int64))
    prediction = target.where(target != IGNORE, 0)
    prediction = prediction.where(prediction != 299, 43)  # 299 modulo 256
    matrix = ConfusionMatrix(NUM_CLASSES, IGNORE)
    matrix.update(prediction, target)
    assert matrix.matrix.sum() == LABELS.size - 16
    assert matrix.matrix[299, 43] == 16
    iou = matrix.summary()["iou"]
    assert (iou[299], iou[298], iou[255]) == (0, 1, 1)
    num_43 = int((target == 43).sum())
    assert iou[43] == pytest.approx(num_43 / (num_43 + 16))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training run of one epoch with 300 classes."""
    root = tmp_path_factory.mktemp("many")
    for name, write in files_of({"train": [LABELS] * 2, "val": [LABELS]}).items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / "data" / name)
    tree = {
        "data": {
            **{"layout": "folder", "root": str(root / "data"), "cache": "none", "num_loaders": 0},
            **{"resize": [80, 64], "crop": [64, 64], **SETTINGS},
        },
        "model": {"encoder": "mit_nano"},
        "schedule": {"epochs": 1, "warmup_epochs": 0.5, "batch_size": 2, "val_every": 1},
    }
    (root / "config.yaml").write_text(write_yaml(tree))
    arguments = ["--config", str(root / "config.yaml"), "--out", str(root / "run")]
    assert train.main(arguments) == 0
    return root / "run"


def test_training_validates_300_classes(trained: Path) -> None:
    (record,) = TrialDir(trained).read_epochs()
    assert record.validation
    assert len(record.validation.class_iou) == NUM_CLASSES
    assert all(value is not None for value in record.validation.class_iou)  # each one occurs


def test_evaluate_writes_a_row_for_each_of_300_classes(trained: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    assert evaluate.main(["--checkpoint", str(trained), "--csv", str(table)]) == 0
    rows = list(csv.reader(table.open()))
    assert [row[0] for row in rows[1 : NUM_CLASSES + 1]] == CLASSES


class _PredictsLabels(torch.nn.Module):
    """Predicts LABELS for every image, and class 0 for its ignored pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        labels = torch.from_numpy(np.where(LABELS == IGNORE, 0, LABELS).astype(np.int64))
        return torch.nn.functional.one_hot(labels, NUM_CLASSES).permute(2, 0, 1)[None].float()


def test_overlays_have_different_colours_for_classes_above_255(
    many_config: ExperimentConfig,
) -> None:
    colours = voc_colours(NUM_CLASSES)
    assert colours.shape == (NUM_CLASSES, 3)
    assert len(np.unique(colours, axis=0)) == NUM_CLASSES
    image = np.zeros((*LABELS.shape, 3), np.uint8)
    config = many_config.override({"data.resize": [80, 64]})
    device, views = torch.device("cpu"), AugmentedInference()
    drawing = draw(_PredictsLabels(), config, image, device, Outputs(Path()), views, opacity=1.0)
    expected = colours[np.where(LABELS == IGNORE, 0, LABELS)]
    assert drawing.overlay is not None
    assert np.array_equal(drawing.overlay[:, :, ::-1], expected)


def test_predict_writes_the_overlay_of_a_model_of_300_classes(
    trained: Path, tmp_path: Path
) -> None:
    image = trained.parent / "data/images/val/000.png"
    out = tmp_path / "out"
    assert predict.main(["--checkpoint", str(trained), "--out", str(out), str(image)]) == 0
    (written,) = out.glob("*.png")
    pixels = cv2.imread(str(written))
    assert pixels is not None
    assert pixels.shape == (*LABELS.shape, 3)


def test_the_report_shows_the_classes_that_differ_most_by_name() -> None:
    before = [0.1] * NUM_CLASSES
    after = [*before[:299], 0.9]
    drawn = drawn_classes(before, after)
    assert drawn[-1] == 299
    assert len(drawn) == MAX_SHOWN_CLASSES


def test_data_check_prints_the_last_class(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_tools.main(["check", str(trained.parent / "config.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "c299" in printed
    assert "65535" in printed
    assert "no problems found" in printed


@pytest.mark.parametrize(
    ("num_classes", "settings", "message"),
    [
        (300, {}, "data.ignore_index: 255 is also the label of one of the 300 classes; --set "
         "data.ignore_index=65535"),
        (256, {}, "data.ignore_index: 255 is also the label of one of the 256 classes; --set "
         "data.ignore_index=65535"),
        (65_535, {"ignore_index": IGNORE}, "data.classes: 65535 classes; at most 65534 are "
         "possible"),
        (70_000, {}, "data.classes: 70000 classes; at most 65534 are possible"),
    ],
)  # fmt: skip
def test_too_many_classes_are_refused_before_a_file_is_read(
    num_classes: int,
    settings: dict,
    message: str,
    make_data_set: MakeDataSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = files_of({"train": [LABELS], "val": [LABELS]})
    names = "\n".join(f"c{label}" for label in range(num_classes))
    data = make_data_set(files, classes="labels.txt", **settings)
    Path(data.root, "labels.txt").write_text(names)
    for file in Path(data.root).rglob("*.png"):
        file.write_bytes(b"no image")
    tree = {"data": data.dump(), "model": {"encoder": "mit_nano"}}
    (tmp_path / "config.yaml").write_text(write_yaml(tree))
    for command, arguments in (
        (data_tools, ["check", str(tmp_path / "config.yaml")]),
        (train, ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]),
    ):
        assert command.main(arguments) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


def test_255_classes_fit_the_default_and_the_largest_number_is_accepted(tmp_path: Path) -> None:
    for count, settings in ((255, {}), (MAX_CLASSES, {"ignore_index": IGNORE})):
        classes = [f"c{label}" for label in range(count)]
        check_mask_settings(DataConfig.parse({"classes": classes, **settings}))
    with pytest.raises(ConfigError, match="65535"):
        DataConfig.parse({"ignore_index": 65536})
