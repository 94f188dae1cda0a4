"""Which files are images and masks, and which mask belongs to which image, by their names."""

import logging
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_assignments
from segtune.data.decode import decode_pair
from segtune.data.file_names import Suffix, is_stray
from segtune.data.layouts import open_split
from segtune.errors import DataError

Writer = Callable[[Path], object]
MakeDataSet = Callable[..., DataConfig]


def touch(*names: str) -> dict[str, Writer]:
    """Return empty files: pairs are found by names alone."""
    return dict.fromkeys(names, Path.touch)


def both(*names: str) -> dict[str, Writer]:
    return touch(
        *(f"images/train/{n}.jpg" for n in names), *(f"masks/train/{n}.png" for n in names)
    )


def pairs_of(config: DataConfig, split: str = "train") -> dict[str, tuple[str, str]]:
    """Return {name: (image, mask)}, as paths under the root."""
    root = os.path.abspath(config.root)
    return {
        pair.name: (os.path.relpath(pair.image, root), os.path.relpath(pair.mask, root))
        for pair in open_split(config, split)
    }


def message_of(config: DataConfig, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_split(config, split)
    return str(caught.value).replace(os.path.abspath(config.root), "ROOT")


CITYSCAPES = touch(
    *(f"leftImg8bit/train/{city}/{city}_0_leftImg8bit.png" for city in ("aachen", "bonn")),
    *(
        f"gtFine/train/{city}/{city}_0_gtFine_{kind}"
        for city in ("aachen", "bonn")
        for kind in ("color.png", "instanceIds.png", "labelTrainIds.png", "polygons.json")
    ),
)


def test_cityscapes_is_paired_by_the_two_suffixes(make_data_set: MakeDataSet) -> None:
    folders = {"images": "leftImg8bit", "masks": "gtFine"}
    suffixes = {"image_suffix": "_leftImg8bit", "mask_suffix": "_gtFine_labelTrainIds"}
    assert pairs_of(make_data_set(CITYSCAPES, **folders, **suffixes)) == {
        f"{city}/{city}_0": (
            f"leftImg8bit/train/{city}/{city}_0_leftImg8bit.png",
            f"gtFine/train/{city}/{city}_0_gtFine_labelTrainIds.png",
        )
        for city in ("aachen", "bonn")
    }


def test_the_message_proposes_the_suffixes_that_pair_the_files(make_data_set: MakeDataSet) -> None:
    message = message_of(make_data_set(CITYSCAPES, images="leftImg8bit", masks="gtFine"))
    assert "no mask for 'aachen/aachen_0_leftImg8bit' (and 1 more)" in message
    assert "the masks end in _gtFine_color, _gtFine_instanceIds, _gtFine_labelTrainIds" in message
    assert message.endswith(
        "--set data.mask_suffix=_gtFine_labelTrainIds --set data.image_suffix=_leftImg8bit"
    )


@pytest.mark.parametrize(
    ("images", "masks", "settings"),
    [
        (("ISIC_01.jpg", "ISIC_02.jpg"), "ISIC_{}_segmentation.png", "mask_suffix=_segmentation"),
        (("f_01.png", "f_02.png"), "f_{}_L.png", "mask_suffix=_L"),
        (("t_01.jpg", "t_02.jpg"), "t_{}_labelTrainIds.png", "mask_suffix=_labelTrainIds"),
        (("s_01.jpg", "s_02.jpg"), "s_{}.jpg.png", "mask_suffix=.jpg.png"),
        (("c_01_0000.png", "c_02_0000.png"), "c_{}.png", "image_suffix=_0000"),
        (
            ("d_01_training.tif", "d_02_training.tif"),
            "d_{}_manual1.gif",
            "mask_suffix=_manual1 --set data.image_suffix=_training",
        ),
    ],
    ids=["isic", "camvid", "coco-stuff", "supervisely", "nnunet", "drive"],
)
def test_the_proposed_suffix_pairs_the_files(
    images: tuple[str, str], masks: str, settings: str, make_data_set: MakeDataSet
) -> None:
    mask_names = [masks.format(number) for number in ("01", "02")]
    files = touch(
        *(f"images/train/{name}" for name in images),
        *(f"masks/train/{name}" for name in mask_names),
    )
    config = make_data_set(files)
    message = message_of(config)
    assert message.endswith(f": --set data.{settings}")
    # The proposal itself, as the shell would pass it on.
    assignments = message.partition(": --set ")[2].split(" --set ")
    changes, _ = parse_assignments([text.removeprefix("data.") for text in assignments])
    paired = pairs_of(config.override(changes))
    assert list(paired.values()) == [
        (f"images/train/{image}", f"masks/train/{mask}")
        for image, mask in zip(images, mask_names, strict=True)
    ]


def test_no_suffix_is_proposed_from_a_single_image(make_data_set: MakeDataSet) -> None:
    # `_01` and `_road_01` differ between images, so they are no suffixes.
    files = touch(
        *(f"images/train/um_0{i}.png" for i in range(2)),
        *(f"masks/train/um_road_0{i}.png" for i in range(2)),
    )
    message = message_of(make_data_set(files))
    assert "_suffix" not in message
    assert "did you mean 'um_road_00'?" in message


def test_names_of_other_images_are_not_taken_for_suffixes(make_data_set: MakeDataSet) -> None:
    names = [f"{i:03d}" for i in range(30)]
    files = touch(
        *(f"images/train/f_x{name}.png" for name in names),
        *(f"masks/train/f_y{name}.png" for name in names),
    )
    assert "_suffix" not in message_of(make_data_set(files))


def test_masks_beside_their_images_are_no_images(make_data_set: MakeDataSet) -> None:
    files = touch("train/x.rf.1.jpg", "train/x.rf.1_mask.png", "valid/z.jpg", "valid/z_mask.png")
    message = message_of(make_data_set(files))
    settings = {"images": ".", "masks": ".", "mask_suffix": "_mask"}
    for name, value in settings.items():
        assert f"--set data.{name}={value}" in message
    config = make_data_set({}, **settings)
    assert pairs_of(config) == {"x.rf.1": ("train/x.rf.1.jpg", "train/x.rf.1_mask.png")}
    assert message_of(config, "val").endswith("ROOT/valid is there: --set data.val=valid")
    assert pairs_of(config.override({"val": "valid"}), "val") == {
        "z": ("valid/z.jpg", "valid/z_mask.png")
    }


def test_one_folder_of_images_and_masks_needs_a_suffix(make_data_set: MakeDataSet) -> None:
    files = touch("train/100_sat.jpg", "train/100_mask.png", "train/1000_sat.jpg")
    message = message_of(make_data_set(files, images=".", masks="."))
    assert "ROOT/train: is the folder of images and of masks" in message
    assert message.endswith("--set data.mask_suffix=_mask --set data.image_suffix=_sat")


def test_an_image_is_never_its_own_mask(make_data_set: MakeDataSet) -> None:
    config = make_data_set(
        touch("images/a.png", "masks/a.png")
        | {"train.txt": lambda path: path.write_text("images/a.png\timages/a.png\n")}
    )
    assert "ROOT/images/a.png: is an image and its own mask" in message_of(config)


@pytest.mark.parametrize("suffix", [".gif", ".GIF", ".tga", ".ppm", ".webp", ".PNG", ".TIFF"])
def test_lossless_formats_are_masks_in_upper_and_lower_case(
    suffix: str, make_data_set: MakeDataSet
) -> None:
    config = make_data_set(touch("images/train/a.JPG", f"masks/train/a{suffix}"))
    assert pairs_of(config) == {"a": ("images/train/a.JPG", f"masks/train/a{suffix}")}


def test_a_gif_mask_with_a_suffix_gives_its_labels(make_data_set: MakeDataSet) -> None:
    labels = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    config = make_data_set(
        {
            "images/train/21_training.tif": Image.new("RGB", (3, 2), (9, 8, 7)).save,
            "masks/train/21_manual1.gif": Image.fromarray(labels).save,
        },
        image_suffix="_training",
        mask_suffix="_manual1",
    )
    image, mask, _ = decode_pair(open_split(config, "train")[0], config, 2)
    assert mask.tolist() == labels.tolist()
    assert image[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    ("extra", "kind"), [("images/train/a.png", "image"), ("masks/train/a.tif", "mask")]
)
def test_two_files_of_one_name_are_an_error_that_names_both(
    extra: str, kind: str, make_data_set: MakeDataSet
) -> None:
    config = make_data_set(both("a") | touch(extra))
    files = {"image": "a.jpg and a.png", "mask": "a.png and a.tif"}[kind]
    assert f"ROOT/{kind}s/train: {files} are {kind}s of one name" in message_of(config)
    extension = {"image": ".jpg", "mask": ".png"}[kind]
    assert message_of(config).endswith(f"--set data.{kind}_suffix={extension}")
    chosen = config.override({f"{kind}_suffix": extension})
    assert pairs_of(chosen) == {"a": ("images/train/a.jpg", "masks/train/a.png")}
    other = config.override({f"{kind}_suffix": extra[-4:]})
    assert extra in pairs_of(other)["a"]


def test_a_jpeg_beside_a_png_mask_counts_only_if_lossy_masks_are_allowed(
    make_data_set: MakeDataSet,
) -> None:
    config = make_data_set(both("a") | touch("masks/train/a.jpg"))
    assert pairs_of(config) == {"a": ("images/train/a.jpg", "masks/train/a.png")}
    lossy = config.override({"allow_lossy_masks": True})
    assert "a.jpg and a.png are masks of one name" in message_of(lossy)


def test_jpeg_masks_are_named_with_the_reason_and_the_setting(make_data_set: MakeDataSet) -> None:
    config = make_data_set(touch("images/train/a.jpg", "masks/train/a.jpg"))
    message = message_of(config)
    assert "no mask for 'a'; a.jpg is there, but JPEG changes the labels" in message
    assert message.endswith("--set data.allow_lossy_masks=true")
    lossy = config.override({"allow_lossy_masks": True})
    assert pairs_of(lossy) == {"a": ("images/train/a.jpg", "masks/train/a.jpg")}
    with_suffix = config.override({"mask_suffix": "_m.jpg"})
    assert "data.mask_suffix: '_m.jpg' are JPEG files" in message_of(with_suffix)


def test_files_that_are_no_masks_are_named(make_data_set: MakeDataSet) -> None:
    config = make_data_set(touch("images/train/a.jpg", "masks/train/a.npy"))
    assert "a.npy is there, but a mask file must be one of .bmp, .gif" in message_of(config)


def test_files_that_are_no_images_are_named(make_data_set: MakeDataSet) -> None:
    config = make_data_set(touch("images/train/a.heic", "masks/train/a.png"))
    assert "the folder has 1 x .heic. Convert HEIC to JPEG, for example" in message_of(config)
    config = make_data_set(both("b"), image_suffix="_left")
    assert "and no name ends in '_left'" in message_of(config)


def test_names_that_differ_by_case_are_not_the_same(make_data_set: MakeDataSet) -> None:
    config = make_data_set(touch("images/train/A.jpg", "masks/train/a.png"))
    assert "no mask for 'A'; did you mean 'a'? (upper and lower case differ)" in message_of(config)


@pytest.mark.parametrize("decomposed", ["images", "masks"])
def test_nfc_and_nfd_are_the_same_name(decomposed: str, make_data_set: MakeDataSet) -> None:
    name = {kind: unicodedata.normalize("NFC", "Bäume") for kind in ("images", "masks")}
    name[decomposed] = unicodedata.normalize("NFD", "Bäume")
    assert name["images"] != name["masks"]
    image, mask = f"images/train/{name['images']}.jpg", f"masks/train/{name['masks']}.png"
    below = f"images/val/{name['images']}/1.jpg", f"masks/val/{name['masks']}/1.png"
    config = make_data_set(touch(image, mask, *below))
    assert pairs_of(config) == {"Bäume": (image, mask)}
    assert pairs_of(config, "val") == {"Bäume/1": below}


STRAY = (
    *("._a.png", ".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini", "@eaDir", "__MACOSX"),
    *(".ipynb_checkpoints", "a.png~", ".a.png.swp", "#a.png#", "~$a.png", ".#a.png"),
)


@pytest.mark.parametrize("name", STRAY)
def test_files_of_tools_are_stray(name: str) -> None:
    assert is_stray(name)


@pytest.mark.parametrize("name", ["a.png", "#5.png", "_a.png", "a~b.png", "thumbs.png", "$a.jpg"])
def test_names_of_users_are_not_stray(name: str) -> None:
    assert not is_stray(name)


def test_stray_files_are_ignored_and_counted_once(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    files = both("a") | touch(
        *(f"images/train/{name}" for name in ("._a.jpg", "._b.png", "Thumbs.db", ".DS_Store")),
        "images/train/.ipynb_checkpoints/a-checkpoint.jpg",
        "masks/train/._a.png",
    )
    caplog.set_level(logging.INFO, logger="segtune")
    assert list(pairs_of(make_data_set(files))) == ["a"]
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == [
        "data.train: ignored 6 files of tools (hidden files, Thumbs.db and the like)"
    ]


def test_a_suffix_may_be_a_text_an_extension_or_both() -> None:
    assert Suffix.parse("_mask", [".png", ".tif"]).name_of("a_mask.TIF") == "a"
    assert Suffix.parse("_mask.png", [".png", ".tif"]).name_of("a_mask.tif") is None
    assert Suffix.parse("*_mask.png", [".png"]).name_of("a_mask.png") == "a"
    assert Suffix.parse(".png", [".png", ".tif"]).name_of("a.tif") is None
    assert Suffix.parse("", [".png"]).name_of("a.b.png") == "a.b"
    assert Suffix.parse("_mask", [".png"]).name_of("_mask.png") is None
