"""`segtune data sbd`: SBD's masks and the list trainaug in VOC 2012."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from segtune.config.data_config import DataConfig
from segtune.data.label_colours import voc_colours
from segtune.data.layouts import open_split
from segtune.data.masks import read_mask
from segtune.data_tools import main

SIZE = (6, 8)  # height and width
# VOC's lists, and SBD's. v1 is VOC's val and SBD's train; t2 is VOC's train and SBD's val.
TRAIN, VAL = ("t1", "t2"), ("v1", "v2")
SBD_TRAIN, SBD_VAL = ("s3", "v1", "s1"), ("t2", "s2")


def labels_of(name: str) -> np.ndarray:
    """Return SBD's labels of an image."""
    labels = np.zeros(SIZE, np.uint8)
    labels[1:4, 2:7] = 1 + int(name[1])
    return labels


def save_mat(path: Path, segmentation: np.ndarray) -> None:
    struct = {"Boundaries": np.zeros(SIZE), "Segmentation": segmentation, "CategoriesPresent": [1]}
    savemat(path, {"GTcls": struct}, do_compression=True)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of SBD and VOC 2012 as the archives have them, at small scale."""
    sbd, voc = tmp_path / "benchmark_RELEASE", tmp_path / "VOCdevkit" / "VOC2012"
    lists = voc / "ImageSets" / "Segmentation"
    for folder in (sbd / "dataset/cls", voc / "JPEGImages", voc / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(TRAIN) + "\n")
    (lists / "val.txt").write_text("\n".join(VAL) + "\n")
    (sbd / "dataset/train.txt").write_text("\n".join(SBD_TRAIN) + "\n")
    (sbd / "dataset/val.txt").write_text("\n".join(SBD_VAL) + "\n")
    for name in {*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL}:
        Image.new("RGB", (8, 6)).save(voc / "JPEGImages" / f"{name}.jpg")
    for name in (*TRAIN, *VAL):
        labels = np.full(SIZE, 20, np.uint8)
        labels[0] = 255
        mask = Image.fromarray(labels, mode="P")
        mask.putpalette(voc_colours(256).ravel().tolist())
        mask.save(voc / "SegmentationClass" / f"{name}.png")
    for name in (*SBD_TRAIN, *SBD_VAL):
        save_mat(sbd / "dataset/cls" / f"{name}.mat", labels_of(name))
    return sbd, voc


def convert(sbd: Path, voc: Path, *options: str) -> int:
    return main(["sbd", "--sbd", str(sbd), "--voc", str(voc), *options])


def names(voc: Path, split: str) -> list[str]:
    return (voc / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()


def test_trainaug_is_train_and_sbd_without_val(
    roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sbd, voc = roots
    assert convert(sbd, voc) == 0
    assert names(voc, "trainaug") == ["t1", "t2", "s3", "s1", "s2"]
    assert names(voc, "aug") == ["s3", "s1", "s2"]
    assert names(voc, "train") == list(TRAIN)
    assert names(voc, "val") == list(VAL)
    text = capsys.readouterr().out
    assert "7 masks written, 0 were there, 0 refused" in text
    assert "2 of VOC's train and 3 of SBD's 5, without VOC's 2 of val" in text
    assert "note: the full data sets give 10582 images, these lists give 5" in text


def test_mask_of_voc_is_kept_and_mask_of_sbd_has_its_labels_and_vocs_palette(
    roots: tuple[Path, Path],
) -> None:
    sbd, voc = roots
    convert(sbd, voc)
    masks = voc / "SegmentationClassAug"
    assert sorted(path.name for path in masks.iterdir()) == sorted(
        f"{name}.png" for name in ("t1", "t2", "v1", "v2", "s1", "s2", "s3")
    )
    for name in (*TRAIN, *VAL):  # t2 and v1 have a mask of SBD, too
        own = voc / "SegmentationClass" / f"{name}.png"
        assert (masks / f"{name}.png").read_bytes() == own.read_bytes()
    config = DataConfig.parse({"root": str(voc)})
    for name in ("s1", "s2", "s3"):
        assert np.array_equal(read_mask(masks / f"{name}.png", config, 21), labels_of(name))
        assert Image.open(masks / f"{name}.png").getpalette() == voc_colours(256).ravel().tolist()


def test_layout_voc_trains_on_trainaug_as_on_train_and_aug(roots: tuple[Path, Path]) -> None:
    sbd, voc = roots
    convert(sbd, voc)
    config = DataConfig.parse({"layout": "voc", "root": str(voc), "train": ["trainaug"]})
    both = config.override({"train": ["train", "aug"]})
    assert open_split(config, "train") == open_split(both, "train")
    assert [pair.name for pair in open_split(config, "train")] == ["t1", "t2", "s3", "s1", "s2"]
    for split in ("train", "val"):
        folders = {Path(pair.mask).parent.name for pair in open_split(config, split)}
        assert folders == {"SegmentationClassAug"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "it is no .mat file of MATLAB 5"),
        (None, "no such file"),
        ("half", "it is cut off"),
        (21, "48 pixels have labels that VOC does not have (21)"),
        ("inst", "has no field GTcls.Segmentation"),
        ("large", "has 8 x 6 pixels, its mask has 9 x 6"),
    ],
)
def test_broken_mask_of_sbd_is_named_and_the_lists_are_not_written(
    roots: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    content: object,
    reason: str,
) -> None:
    sbd, voc = roots
    path = sbd / "dataset/cls/s1.mat"
    whole = path.read_bytes()
    match content:
        case bytes():
            path.write_bytes(content)
        case None:
            path.unlink()
        case "half":
            path.write_bytes(whole[: len(whole) // 2])
        case "inst":
            savemat(path, {"GTinst": {"Segmentation": labels_of("s1")}})
        case "large":
            save_mat(path, np.zeros((6, 9), np.uint8))
        case label:
            save_mat(path, np.full(SIZE, label, np.uint8))
    assert convert(sbd, voc) == 2
    output = capsys.readouterr()
    refusals = [line for line in output.err.splitlines() if line.startswith("refused: ")]
    assert len(refusals) == 1
    assert "s1." in refusals[0]
    assert reason in refusals[0]
    assert "refused masks: 1, so the lists are not written" in output.err
    assert not (voc / "ImageSets/Segmentation/trainaug.txt").exists()
    assert not (voc / "SegmentationClassAug/s1.png").exists()

    assert convert(sbd, voc, "--skip-broken") == 1
    assert names(voc, "trainaug") == ["t1", "t2", "s3", "s2"]
    assert "0 masks written, 6 were there, 1 refused" in capsys.readouterr().out

    path.write_bytes(whole)
    assert convert(sbd, voc, "--overwrite") == 0
    assert names(voc, "trainaug") == ["t1", "t2", "s3", "s1", "s2"]
    assert "1 masks written, 6 were there, 0 refused" in capsys.readouterr().out


def test_absent_image_and_absent_mask_of_voc_are_named(
    roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sbd, voc = roots
    (voc / "JPEGImages/s2.jpg").unlink()
    (voc / "SegmentationClass/v2.png").unlink()
    assert convert(sbd, voc, "--skip-broken") == 2
    text = capsys.readouterr().err
    assert f"{voc / 'JPEGImages/s2.jpg'}: no such image" in text
    assert "1 of the 2 refused masks belong to VOC's train and val, the first is v2" in text


def test_second_run_keeps_equal_masks_and_lists_with_their_order(
    roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sbd, voc = roots
    convert(sbd, voc)
    grey = voc / "SegmentationClassAug/s1.png"  # as mmsegmentation's converter writes it
    Image.fromarray(labels_of("s1")).save(grey)
    before = grey.read_bytes()
    order = "s2\nt1\ns1\nt2\ns3\n"
    trainaug = voc / "ImageSets/Segmentation/trainaug.txt"
    trainaug.write_text(order)
    capsys.readouterr()
    assert convert(sbd, voc) == 0
    assert "0 masks written, 7 were there, 0 refused" in capsys.readouterr().out
    assert grey.read_bytes() == before
    assert trainaug.read_text() == order


def test_other_masks_and_lists_are_replaced_only_with_overwrite(
    roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sbd, voc = roots
    masks = voc / "SegmentationClassAug"
    masks.mkdir()
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(masks / "s1.png")
    (masks / "s2.png").write_bytes(b"half")
    assert convert(sbd, voc) == 2
    text = capsys.readouterr().err
    assert "s1.png: exists and has other labels" in text
    assert "s2.png: exists and is no mask" in text
    assert "move it away, or replace it: --overwrite" in text
    (voc / "ImageSets/Segmentation/aug.txt").write_text("other\n")
    assert convert(sbd, voc) == 2
    assert "aug.txt: exists and lists 1 other images; VOC and SBD give 3" in capsys.readouterr().err
    assert convert(sbd, voc, "--overwrite") == 0
    assert names(voc, "aug") == ["s3", "s1", "s2"]
    config = DataConfig.parse({"root": str(voc)})
    assert np.array_equal(read_mask(masks / "s1.png", config, 21), labels_of("s1"))


def test_folders_above_and_below_are_understood_or_named(
    roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sbd, voc = roots
    assert convert(sbd / "dataset", voc.parent) == 0
    assert convert(sbd.parent, voc.parent.parent) == 0
    capsys.readouterr()
    for arguments, message in [
        ((sbd / "dataset/cls", voc), f"did you mean {sbd / 'dataset'}?"),
        ((voc, sbd), "--voc: "),
        ((voc, sbd), f"did you mean --sbd {sbd} --voc {voc}?"),
        ((sbd, voc / "JPEGImages"), "no JPEGImages in"),
        ((sbd.parent / "benchmark_RELEAS", voc), "did you mean 'benchmark_RELEASE'?"),
        ((voc, voc), "is PASCAL VOC; expected SBD"),
    ]:
        assert convert(*arguments) == 2
        assert message in capsys.readouterr().err
    shutil.rmtree(sbd / "dataset/cls")
    (sbd / "dataset/cls").mkdir()
    assert convert(sbd, voc, "--overwrite") == 2
    assert "no .mat files in" in capsys.readouterr().err
