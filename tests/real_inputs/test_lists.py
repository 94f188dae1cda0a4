"""Split lists: encodings, whole lines as names, paths, two columns, comments, repetitions."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.config.data_config import DataConfig
from segtune.data.layouts import open_split, pairs_by_list
from segtune.data.text_files import read_lines
from segtune.errors import DataError

Writer = Callable[[Path], object]
MakeDataSet = Callable[..., DataConfig]


def touch(*names: str) -> dict[str, Writer]:
    """Return empty files: pairs are found by names alone."""
    return dict.fromkeys(names, Path.touch)


def flat(*names: str) -> dict[str, Writer]:
    return touch(
        *(f"images/{name}.jpg" for name in names), *(f"masks/{name}.png" for name in names)
    )


def lists(**texts: str | bytes) -> dict[str, Writer]:
    """Return files `NAME.txt`."""
    contents = {k: v if isinstance(v, bytes) else v.encode() for k, v in texts.items()}

    def writer(content: bytes) -> Writer:
        return lambda path: path.write_bytes(content)

    return {f"{name}.txt": writer(content) for name, content in contents.items()}


def pairs_of(config: DataConfig) -> list[tuple[str, str]]:
    """Return (image, mask) of the training pairs, as paths under the root."""
    root = os.path.abspath(config.root)
    return [
        (os.path.relpath(pair.image, root), os.path.relpath(pair.mask, root))
        for pair in open_split(config, "train")
    ]


def names_of(config: DataConfig) -> list[str]:
    return [pair.name for pair in open_split(config, "train")]


def message_of(config: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        open_split(config, "train")
    return str(caught.value).replace(os.path.abspath(config.root), "ROOT")


@pytest.mark.parametrize(
    "name", ["scan 00 (1)", "a,b", "a;b", "0007", "img.001", "Bäume", "#5", "a'b", "x\u2028y"]
)
@pytest.mark.parametrize("extension", ["", ".jpg", ".png"])
def test_a_whole_line_is_a_name(name: str, extension: str, make_data_set: MakeDataSet) -> None:
    # Each part of the name is an image, too, and must not be taken for it.
    others = ("scan", "a", "b", "7", "img", "5", "00", "x")
    config = make_data_set(flat(name, *others) | lists(train=f"{name}{extension}\n"))
    assert pairs_of(config) == [(f"images/{name}.jpg", f"masks/{name}.png")]


def test_quotes_around_a_name_are_removed(make_data_set: MakeDataSet) -> None:
    config = make_data_set(flat("a b", "c") | lists(train="\"a b\"\n'c'\n"))
    assert names_of(config) == ["a b", "c"]


def test_a_list_in_nfc_names_files_in_nfd(make_data_set: MakeDataSet) -> None:
    stored = unicodedata.normalize("NFD", "Bäume")
    files = touch(f"images/{stored}.jpg", "masks/Bäume.png") | lists(train="Bäume\n")
    assert pairs_of(make_data_set(files)) == [(f"images/{stored}.jpg", "masks/Bäume.png")]


@pytest.mark.parametrize(
    "line",
    [
        "sub/x",
        "sub/x.jpg",
        "./sub/x",
        "images/sub/x.jpg",
        "./images/sub/x.jpg",
        "/images/sub/x.jpg",
        "images\\sub\\x.jpg",
        "sub/../sub/x",
        "../images/sub/x.jpg",
        "ROOT/images/sub/x.jpg",
    ],
)
def test_paths_inside_the_root_are_accepted(line: str, make_data_set: MakeDataSet) -> None:
    files = flat("sub/x", "x", "other/x")
    root = make_data_set({}).root
    config = make_data_set(files | lists(train=line.replace("ROOT", root) + "\n"))
    assert pairs_of(config) == [("images/sub/x.jpg", "masks/sub/x.png")]
    assert names_of(config) == ["sub/x"]


def test_paths_through_a_link_to_the_root_are_accepted(
    make_data_set: MakeDataSet, tmp_path: Path
) -> None:
    real = make_data_set(flat("x")).root
    (tmp_path / "link").symlink_to(real)
    config = make_data_set(lists(train=f"{real}/images/x.jpg\n"), root=str(tmp_path / "link"))
    assert pairs_of(config) == [("images/x.jpg", "masks/x.png")]


@pytest.mark.parametrize("line", ["../../x", "/etc/x.jpg", "C:\\data\\images\\x.jpg", "~/x.jpg"])
def test_paths_outside_the_root_are_refused(line: str, make_data_set: MakeDataSet) -> None:
    config = make_data_set(flat("x") | lists(train=f"x\n{line}\n"))
    (Path(config.root).parent / "x.jpg").touch()
    (Path(config.root).parent.parent / "x.jpg").touch()
    assert f"ROOT/train.txt:2: {line!r} is outside ROOT" in message_of(config)


@pytest.mark.parametrize(
    "line",
    [
        "images/a x.jpg\tgt/one y.png",
        "a x.jpg,gt/one y.png",
        "a x, gt/one y",
        "a x.jpg;gt/one y.png",
        "a x.jpg gt/one y.png",
        '"a x.jpg","gt/one y.png"',
        "/images/a x.jpg /gt/one y.png",
    ],
)
def test_a_second_column_is_the_mask(line: str, make_data_set: MakeDataSet) -> None:
    files = touch("images/a x.jpg", "gt/one y.png", "masks/a x.png") | lists(train=f"{line}\n")
    assert pairs_of(make_data_set(files)) == [("images/a x.jpg", "gt/one y.png")]


def test_a_list_with_both_columns_needs_no_usual_folders(make_data_set: MakeDataSet) -> None:
    image, mask = "leftImg8bit/a/1_leftImg8bit.png", "gtFine/a/1_gtFine_labelTrainIds.png"
    config = make_data_set(touch(image, mask) | lists(train=f"image,mask\n{image},{mask}\n"))
    assert pairs_of(config) == [(image, mask)]


def test_a_line_that_can_be_split_in_two_ways_is_refused(make_data_set: MakeDataSet) -> None:
    files = touch("images/a.jpg", "images/a b.jpg", "masks/b c.png", "masks/c.png")
    message = message_of(make_data_set(files | lists(train="a b c\n")))
    assert "ROOT/train.txt:1: 'a b c' can be read as" in message
    assert message.endswith("separate image and mask by a tab")
    tabbed = make_data_set(lists(train="a b\tc\n"))
    assert pairs_of(tabbed) == [("images/a b.jpg", "masks/c.png")]


def test_a_name_with_a_blank_is_not_split_among_plain_names(make_data_set: MakeDataSet) -> None:
    # `scan x` and `scan 00` are absent, but `scan` and `x` are images with masks.
    files = flat("scan", "x")
    message = message_of(make_data_set(files | lists(train="x\nscan x\n")))
    assert "line 2 has an image and a mask, line 1 only an image" in message
    message = message_of(make_data_set(lists(train="x\nscan 00\n")))
    assert "ROOT/train.txt:2: 'scan 00': 'scan' is an image, but '00' is no mask" in message


def test_an_image_with_two_masks_is_refused(make_data_set: MakeDataSet) -> None:
    files = touch("images/a.jpg", "masks/a.png", "masks/b.png")
    message = message_of(make_data_set(files | lists(train="a.jpg\ta.png\na.jpg\tb.png\n")))
    assert "ROOT/images/a.jpg: is listed with two masks, ROOT/masks/a.png and ROOT" in message


def test_numbers_behind_every_name_are_not_used(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    files = flat("Abyssinian_1", "Bengal_2") | lists(
        train="# Image CLASS-ID SPECIES BREED\nAbyssinian_1 1 1 1\nBengal_2 6 1 2\n"
    )
    assert names_of(make_data_set(files)) == ["Abyssinian_1", "Bengal_2"]
    assert "the numbers behind the name are not used (lines of this kind: 2)" in caplog.text


def test_a_list_of_images_with_and_without_a_class_is_refused(make_data_set: MakeDataSet) -> None:
    message = message_of(make_data_set(flat("a", "b") | lists(train="a  1\nb -1\n")))
    assert "ROOT/train.txt:2: 'b -1': lists with 1 and -1 behind the names" in message


def test_comments_are_no_names_unless_an_image_has_the_name(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_data_set(flat("x", "#5", "y") | lists(train="# my list\nx\n#5\n#y\n"))
    assert names_of(config) == ["x", "#5"]
    assert "train.txt:4: " in caplog.text
    assert "is read as a comment or as names of columns (lines of this kind: 1)" in caplog.text


def test_names_that_are_listed_again_are_used_once_and_counted(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_data_set(
        flat("x", "y", "z") | lists(a="x\ny\nx.jpg\n", b="images/y.jpg\nz\n"), train=["a", "b"]
    )
    assert names_of(config) == ["x", "y", "z"]
    assert [record.getMessage() for record in caplog.records] == [
        "data.train: 2 of 5 listed images repeat an earlier one; each is used once"
    ]
    by_list = pairs_by_list(config, "train")
    listed = [(name, [pair.name for pair in pairs]) for name, pairs in by_list]
    assert listed == [("a", ["x", "y", "x"]), ("b", ["y", "z"])]


def test_an_absent_image_comes_with_its_line_and_a_way_out(make_data_set: MakeDataSet) -> None:
    files = touch("images/B_1_0000.png", "masks/B_1.png") | lists(train="\nB_1\nB_2\n")
    message = message_of(make_data_set(files))
    assert message == (
        "ROOT/images: no image for 'B_1' (and 1 more) (train.txt:2); 'B_1_0000' is there: "
        "--set data.image_suffix=_0000"
    )
    config = make_data_set(lists(train="B_1\n"), image_suffix="_0000")
    assert pairs_of(config) == [("images/B_1_0000.png", "masks/B_1.png")]


def test_an_absent_subfolder_is_named(make_data_set: MakeDataSet) -> None:
    message = message_of(make_data_set(flat("a/x") | lists(train="b/x\n")))
    assert message == (
        "ROOT/images: no image for 'b/x' (train.txt:1); ROOT/images has no folder 'b'"
    )
    config = make_data_set(touch("images/c/x.jpg") | lists(train="c/x\n"))
    assert message_of(config) == "ROOT/masks: no mask for 'c/x'; ROOT/masks has no folder 'c'"


def test_a_list_may_be_named_with_its_extension(make_data_set: MakeDataSet) -> None:
    config = make_data_set(flat("x") | lists(train="x\n"), train=["train.txt"])
    assert names_of(config) == ["x"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"], ids=lambda name: name
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_every_unicode_encoding_and_line_end_is_read(
    encoding: str, end: str, make_data_set: MakeDataSet
) -> None:
    text = f"ä b{end}{end}  c \t{end}".encode(encoding)
    assert names_of(make_data_set(flat("ä b", "c") | lists(train=text))) == ["ä b", "c"]


def test_joined_files_may_have_byte_order_marks_inside(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("a\n".encode("utf-8-sig") + "b\n\x1a".encode("utf-8-sig"))
    assert [(line.number, line.text) for line in read_lines(path)] == [(1, "a"), (2, "b")]


def test_windows_1252_is_refused_with_line_and_command(make_data_set: MakeDataSet) -> None:
    message = message_of(make_data_set(flat("x") | lists(train="x\nBäume\n".encode("cp1252"))))
    assert "ROOT/train.txt:2: byte 0xe4 is not UTF-8" in message
    assert "If this line should be 'Bäume', its encoding is Windows-1252: iconv" in message


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE"])
@pytest.mark.parametrize("name", ["frame", "Bäume"])
def test_utf_16_without_a_byte_order_mark_is_refused(
    encoding: str, name: str, make_data_set: MakeDataSet
) -> None:
    config = make_data_set(flat(name) | lists(train=f"{name}\r\n".encode(encoding)))
    assert f"ROOT/train.txt: looks like {encoding} without a byte order" in message_of(config)


def test_a_file_that_is_no_text_is_refused(make_data_set: MakeDataSet) -> None:
    config = make_data_set(flat("x") | lists(train=b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1ab"))
    assert "ROOT/train.txt: has zero bytes, so it is no text file" in message_of(config)
