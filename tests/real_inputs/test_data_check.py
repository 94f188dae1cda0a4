"""`data check` and `train` say what the masks of a data set lack; `train` needs two classes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from segtune import data_tools, search, train
from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data import class_coverage
from segtune.data.class_coverage import check_training_masks
from segtune.data.layouts import class_names, open_split
from segtune.data.pairs import Pair
from segtune.errors import ConfigError, DataError

MakeDataSet = Callable[..., DataConfig]
SIDE = 64


def mask_of(*values: int) -> np.ndarray:
    """Return a mask [64, 64] of equal bands of rows with these values."""
    return np.repeat(np.array(values, np.uint8), SIDE // len(values))[:, None].repeat(SIDE, 1)


def files_of(split: str, masks: Sequence[np.ndarray]) -> dict[str, Callable[[Path], object]]:
    """Return the writers of a split: each image is different noise."""
    files: dict[str, Callable[[Path], object]] = {}
    for number, mask in enumerate(masks):
        rng = np.random.default_rng([number, len(split)])
        image = rng.integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        name = f"{split}/{number:03}.png"
        files[f"images/{name}"] = lambda path, image=image: cv2.imwrite(str(path), image)
        files[f"masks/{name}"] = lambda path, mask=mask: cv2.imwrite(str(path), mask)
    return files


@pytest.fixture
def make_masks(make_data_set: MakeDataSet) -> MakeDataSet:
    """Return a function that writes a data set of masks of two splits, and returns its config."""

    def make(
        train: Sequence[np.ndarray], val: Sequence[np.ndarray], **settings: object
    ) -> DataConfig:
        return make_data_set({**files_of("train", train), **files_of("val", val)}, **settings)

    return make


def config_file(data: DataConfig, folder: Path, **sections: object) -> Path:
    """Write the config of a short training run on a data set."""
    path = folder / "config.yaml"
    sizes = {"resize": [SIDE, SIDE], "crop": [SIDE, SIDE], "num_loaders": 0}
    schedule = {"epochs": 1, "warmup_epochs": 0.5, "batch_size": 2}
    tree = {"data": {**data.dump(), **sizes}, "model": {"encoder": "mit_nano"}}
    path.write_text(write_yaml({**tree, "schedule": schedule, **sections}))
    return path


BAND_255 = mask_of(*[0] * 7, 255)


def test_masks_of_0_and_255_are_refused_with_the_setting_that_reads_them(
    make_masks: MakeDataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_masks([BAND_255] * 3, [BAND_255])
    file = config_file(data, tmp_path)
    message = (
        f"data.train: class 'thing' has no pixel in the 3 training masks of {data.root}, and "
        "training needs two classes; the value 255 is 12.5 % of all pixels and is ignored "
        "(data.ignore_index); if it means 'thing', --set 'data.label_map={255: 1}'\n"
    )
    assert data_tools.main(["check", str(file)]) == 2
    head = f"error: 1 error in the data set {data.root}; the first: "
    assert capsys.readouterr().err == head + message
    assert train.main(["--config", str(file), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"error: {message}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_search_refuses_one_class_before_its_first_trial(
    options: list[str], make_masks: MakeDataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(make_masks([BAND_255] * 3, [BAND_255]), tmp_path)
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {loguniform: [1.0e-5, 1.0e-3]}\n")
    arguments = ["--space", str(space), "--config", str(file), "--out", str(tmp_path / "runs")]
    assert search.main([*arguments, *options]) == 2
    assert "class 'thing' has no pixel in the 3 training masks" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_masks_are_read_until_two_classes_have_occurred(
    make_masks: MakeDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first masks of the list have no object, as in lists that are sorted by patient.
    masks = [mask_of(0)] * 30 + [mask_of(0, 1)] * 10
    data = make_masks(masks, [mask_of(0, 1)])
    pairs, classes, read = open_split(data, "train"), class_names(data), []
    original = class_coverage.read_mask

    def read_mask(path: str, config: DataConfig, num_classes: int) -> np.ndarray:
        read.append(path)
        return original(path, config, num_classes)

    monkeypatch.setattr(class_coverage, "read_mask", read_mask)
    check_training_masks(pairs, data, classes)
    first_time = list(read)
    assert len(first_time) < 10
    check_training_masks(pairs, data, classes)
    assert read == first_time * 2  # the same masks in the same order
    read.clear()
    with pytest.raises(DataError, match="class 'thing' has no pixel in the 30 training masks"):
        check_training_masks(pairs[:30], data, classes)
    assert len(read) == len(set(read)) == 30


def test_check_at_the_start_takes_less_than_50_ms(make_masks: MakeDataSet) -> None:
    mask = cv2.resize(mask_of(0, 1), (2048, 1024), interpolation=cv2.INTER_NEAREST)
    data = make_masks([mask], [mask])
    pairs = [Pair(pair.image, pair.mask) for pair in open_split(data, "train") * 3000]
    start = time.process_time()
    check_training_masks(pairs, data, class_names(data))
    assert time.process_time() - start < 0.05


def test_absent_classes_are_notes_and_classes_only_in_val_are_problems(
    make_masks: MakeDataSet,
) -> None:
    classes = ["road", "sky", "car", "dog", "cat"]
    data = make_masks([mask_of(0, 1)], [mask_of(0, 2)], classes=classes)
    content = audit(data)
    (problem,) = content.problems
    assert problem.startswith(
        "class 'car' (label 2) is in the validation images and in no training image; "
    )
    assert content.notes == [
        "class 'sky' (label 1) is in no validation image; choose data.val so that each class is in "
        "it",
        "2 classes are in no image of either split: 'dog' (label 3), 'cat' (label 4)",
    ]
    assert [finding.severity for finding in content.findings] == ["error", "warning", "note"]
    assert [finding.count for finding in content.findings] == [1, 1, 2]


def test_notes_alone_leave_the_exit_code_at_0(
    make_masks: MakeDataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(make_masks([mask_of(0, 1)], [mask_of(0)]), tmp_path)
    assert data_tools.main(["check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert (
        "warning   [unmeasured-class] class 'thing' (label 1) is in no validation image" in printed
    )
    assert "no errors, 1 warning" in printed


def test_third_class_written_as_255_is_noted_with_its_setting(make_masks: MakeDataSet) -> None:
    mask = mask_of(0, 0, 1, 255)
    content = audit(make_masks([mask], [mask], classes=["bg", "rim", "cell"]))
    assert content.problems == []
    assert content.notes[0] == (
        "the training masks lack class 'cell'; the value 255 is 25 % of all pixels and is ignored "
        "(data.ignore_index); if it means 'cell', --set 'data.label_map={255: 2}'"
    )


def test_labels_from_0_that_are_lowered_by_1_are_noted(make_masks: MakeDataSet) -> None:
    mask = mask_of(0, 1, 2, 3)
    classes = ["a", "b", "c", "d"]
    content = audit(make_masks([mask], [mask], classes=classes, reduce_zero_label=True))
    assert "the training masks lack class 'd'; 25 % of all pixels have the value 0" in str(
        content.notes
    )
    assert "--set data.reduce_zero_label=false" in content.notes[0]
    content = audit(make_masks([mask], [mask], classes=classes))
    assert (content.problems, content.notes) == ([], [])


def test_equal_problems_are_one_line_with_their_number(make_masks: MakeDataSet) -> None:
    masks = [mask_of(0, 1), *[mask_of(255)] * 37]
    data = make_masks(masks, [mask_of(0, 1)])
    assert audit(data).problems == [
        f"37 files (first {data.root}/masks/train/001.png): every pixel is ignored"
    ]


def test_labels_above_255_are_counted(make_masks: MakeDataSet) -> None:
    labels = np.array([[0, 299], [299, 299]], np.uint16)
    names = [f"c{i}" for i in range(300)]
    data = make_masks([labels], [labels], classes=names, ignore_index=65535)
    assert audit(data).train.pixels[[0, 43, 299]].tolist() == [1, 0, 3]


def test_class_weights_of_0_for_all_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one of class_weights must be above 0"):
        ExperimentConfig().override({"loss.class_weights": [0, 0]})


def test_class_weights_of_0_for_all_classes_that_occur_are_refused(
    make_masks: MakeDataSet,
) -> None:
    data = make_masks([mask_of(0, 1)], [mask_of(0, 1)], classes=["bg", "thing", "rare"])
    pairs, classes = open_split(data, "train"), class_names(data)
    with pytest.raises(ConfigError, match=r"training masks is 0 \('bg', 'thing'\)"):
        check_training_masks(pairs, data, classes, [0, 0, 1])
    check_training_masks(pairs, data, classes, [0, 1, 0])


def test_start_warns_of_an_ignored_class_and_of_eta_min_above_lr(
    make_masks: MakeDataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_masks([mask_of(0, 1)] * 2, [mask_of(0, 1)], ignore_index=0)
    file = config_file(data, tmp_path)
    options = ["--set", "schedule.eta_min=0.1", "--set", "optim.lr=1e-3"]
    assert train.main(["--config", str(file), "--out", str(tmp_path / "run"), *options]) == 0
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "data.ignore_index: 0 is class 'background', which is not trained and does not count in "
        "mIoU",
        "schedule.eta_min: 0.1 is above optim.lr 0.001, so the learning rate rises until the end",
    ]


def test_class_weights_of_the_wrong_length_leave_no_folder(
    make_masks: MakeDataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(make_masks([mask_of(0, 1)] * 2, [mask_of(0, 1)]), tmp_path)
    arguments = ["--config", str(file), "--out", str(tmp_path / "run")]
    assert train.main([*arguments, "--set", "loss.class_weights=[1, 2, 3]"]) == 2
    assert "3 values for 2 classes" in capsys.readouterr().err
    assert train.main(arguments) == 0
