"""Laws of the mapping of data: what a type of data set sets, and sizes that mmseg pads to."""

from pathlib import Path

import pytest
from changed_config import changed, left, whole

from segtune.data.file_names import MASK_SUFFIXES, Suffix
from segtune.mmseg.convert import changes_numbers
from segtune.mmseg.ledger import Ledger

DATA = """
train_dataloader = dict(batch_size=4, dataset=dict(type='{kind}', data_root='data',
    data_prefix=dict(img_path='images/train', seg_map_path='masks/train'){keys}))
"""
TYPE = "train_dataloader.dataset.type"


def dataset(tmp_path: Path, kind: str, keys: str = "") -> Ledger:
    return whole(tmp_path, DATA.format(kind=kind, keys=keys))


@pytest.mark.parametrize(
    "kind, image_suffix, mask_suffix, reduce",
    [
        ("ISPRSDataset", None, None, True),
        ("PotsdamDataset", None, None, True),
        ("COCOStuffDataset", None, "_labelTrainIds.png", False),
        ("ChaseDB1Dataset", None, "_1stHO.png", False),
        ("DRIVEDataset", None, "_manual1.png", False),
        ("STAREDataset", None, ".ah.png", False),
        ("HRFDataset", None, None, False),
        ("iSAIDDataset", None, "_instance_color_RGB.png", False),
        ("NightDrivingDataset", "_leftImg8bit.png", "_gtCoarse_labelTrainIds.png", False),
        ("DarkZurichDataset", "_rgb_anon.png", "_gt_labelTrainIds.png", False),
    ],
)
def test_a_type_sets_suffixes_and_reduced_labels(
    tmp_path: Path, kind: str, image_suffix: str | None, mask_suffix: str | None, reduce: bool
) -> None:
    ledger = dataset(tmp_path, kind)
    assert ledger.settings.get("data.image_suffix") == image_suffix
    assert ledger.settings.get("data.mask_suffix") == mask_suffix
    assert ledger.settings["data.reduce_zero_label"] is reduce
    assert "segtune does not know" not in ledger.entries[TYPE].text


def test_a_suffix_with_two_dots_names_masks_beside_images() -> None:
    suffix = Suffix.parse(".ah.png", MASK_SUFFIXES)
    assert (suffix.name_of("im0001.ah.png"), suffix.name_of("im0001.png")) == ("im0001", None)


def test_an_unknown_type_changes_the_numbers_if_its_defaults_are_not_known(
    tmp_path: Path,
) -> None:
    reason = left(dataset(tmp_path, "MyDataset", ", img_suffix='.png'"), TYPE)
    assert "set data.mask_suffix, data.reduce_zero_label" in reason
    assert "img_suffix" not in reason


@pytest.mark.parametrize(
    "reduced",
    [
        ", reduce_zero_label=False",
        ", pipeline=[dict(type='LoadAnnotations', reduce_zero_label=False)]",
    ],
)
def test_an_unknown_type_with_all_its_settings_does_not_change_the_numbers(
    tmp_path: Path, reduced: str
) -> None:
    keys = ", img_suffix='.png', seg_map_suffix='.png', metainfo=dict(classes=('a', 'b'))"
    ledger = dataset(tmp_path, "MyDataset", keys + reduced)
    assert ledger.entries[TYPE].group == "same"


@pytest.mark.parametrize("kind", ["BaseSegDataset", "CustomDataset"])
def test_a_type_without_data_of_its_own_has_no_defaults_to_know(tmp_path: Path, kind: str) -> None:
    assert not dataset(tmp_path, kind).entries[TYPE].changes_numbers


def test_without_resize_and_crop_the_crop_is_named(tmp_path: Path) -> None:
    ledger = dataset(tmp_path, "PascalVOCDataset")
    assert "the config does not crop: data.crop is 512 x 512" in ledger.notes
    assert ledger.settings["data.crop"] == [512, 512]


@pytest.mark.parametrize(
    "size, group",
    [("(512, 512)", "same"), ("(1024, 1024)", "left"), ("(512, 1024)", "left"), ("None", "same")],
)
def test_a_size_of_padding_that_is_not_the_crop_is_not_carried_over(
    tmp_path: Path, size: str, group: str
) -> None:
    text = f"model = dict(data_preprocessor=dict(size={size}))"
    ledger = changed(tmp_path, "segformer_b2_v1_ce", text)
    assert ledger.entries["model.data_preprocessor.size"].group == group
    assert changes_numbers(ledger) == (group == "left")


PIPELINE = "[dict(type='RandomCrop', crop_size=(256, 512)), dict(type='Pad', size={size})]"


@pytest.mark.parametrize("size, group", [("(512, 256)", "same"), ("(256, 512)", "left")])
def test_pad_of_mmcv_2_has_width_and_height(tmp_path: Path, size: str, group: str) -> None:
    keys = f", pipeline={PIPELINE.format(size=size)}"
    ledger = dataset(tmp_path, "PascalVOCDataset", keys)
    assert ledger.entries["train_dataloader.dataset.pipeline[1].size"].group == group


@pytest.mark.parametrize("size, group", [("(512, 256)", "left"), ("(256, 512)", "same")])
def test_pad_of_mmseg_0_has_height_and_width(tmp_path: Path, size: str, group: str) -> None:
    text = "data = dict(samples_per_gpu=2, train=dict(type='CustomDataset', data_root='data', "
    text += "img_dir='images/train', ann_dir='masks/train', "
    ledger = whole(tmp_path, f"{text}pipeline={PIPELINE.format(size=size)}))")
    assert ledger.entries["data.train.pipeline[1].size"].group == group
