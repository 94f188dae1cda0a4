"""`data.palette`: masks of colours have the labels of a colour file, or one message."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from mask_data import MakeDataSet, files_of, on_data, stripes
from PIL import Image

from segtune import data_tools, train
from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.data.cache import DecodedPairs
from segtune.data.decode import decode_pair
from segtune.data.label_colours import read_colour_file, voc_colours
from segtune.data.layouts import open_split
from segtune.data.masks import check_mask_settings, palette_content, read_mask
from segtune.errors import DataError, SegtuneError

ROAD, SKY = (128, 64, 128), (70, 130, 180)
LINES = "road 128 64 128\nsky 70 130 180\n"
CLASSES = ["sky", "road"]  # another order than in the file
COLOURS = stripes(ROAD, SKY, ROAD, ROAD)
LABELS = stripes(1, 0, 1, 1)


def save(path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(path)


def config_of(root: Path, content: bytes | str, **settings: object) -> DataConfig:
    """Return a config of the two classes whose colour file has this content."""
    name = str(settings.pop("palette", "colours.txt"))
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    tree = {"layout": "folder", "root": str(root), "classes": CLASSES, "palette": name}
    return DataConfig.parse({**tree, **settings})


def labels_of(root: Path, config: DataConfig, image: Image.Image | np.ndarray) -> np.ndarray:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(root / "x.png")
    return read_mask(root / "x.png", config, len(config.classes))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\n"),
        ("labelmap.txt", "label:color_rgb:parts:actions\nroad:128,64,128:a,b:\nsky:70,130,180::\n"),
        ("a.txt", LINES),
        ("a.txt", "# colours\n\nroad  128, 64, 128\n\nsky\t70\t130\t180\n"),
        ("a.txt", "128 64 128 road\n70 130 180\t\tsky\n"),
        ("a.txt", "road #804080\nsky #4682B4\n"),
        ("a.txt", "#804080 road\n#4682b4 sky\n"),
        ("a.txt", "70 130 180\n128 64 128\n"),  # colours only, in the order of the classes
        ("class_dict.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n"),
        ("class_dict.csv", "name;red;green;blue\nroad;128;64;128\nsky;70;130;180\n"),
        ("a.csv", "r,g,b,name\n128,64,128,road\n70,130,180,sky\n"),
        ("a.json", '{"road": [128, 64, 128], "sky": "#4682b4"}'),
        ("labels.json", '[{"name": "road", "color": "#804080"}, '
         '{"name": "sky", "color": "4682b4"}]'),
        ("meta.json", '{"classes": [{"title": "road", "color": "#804080"}, '
         '{"title": "sky", "color": "#4682b4"}], "tags": []}'),
        ("config.json", '{"labels": [{"name": "road", "readable": "x", "color": [128, 64, 128]}, '
         '{"name": "sky", "color": [70, 130, 180]}]}'),
        ("a.yaml", "road: [128, 64, 128]\nsky: '#4682b4'\n"),
        ("a.yml", "Road: [128, 64, 128]\nSKY: [70, 130, 180]\n"),
    ],
)  # fmt: skip
def test_every_form_of_a_colour_file_gives_the_same_labels(
    name: str, content: str, tmp_path: Path
) -> None:
    labels = labels_of(tmp_path, config_of(tmp_path, content, palette=name), COLOURS)
    assert labels.dtype == np.uint8
    assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("suffix", [".txt", ".json", ".yaml"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_colour_files_are_decoded_like_all_other_text_files(
    suffix: str, encoding: str, tmp_path: Path
) -> None:
    text = {
        ".txt": "straße 1 2 3\r\nsky 4 5 6\r\n",
        ".json": '{"straße": [1, 2, 3],\r\n"sky": [4, 5, 6]}',
        ".yaml": "straße: [1, 2, 3]\r\nsky: [4, 5, 6]\r\n",
    }[suffix]
    path = tmp_path / f"colours{suffix}"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path.write_bytes(mark + text.encode(encoding))
    assert read_colour_file(path) == [("straße", (1, 2, 3)), ("sky", (4, 5, 6))]


def test_a_colour_file_in_windows_encoding_names_the_line_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "colours.txt"
    path.write_bytes("sky 4 5 6\nstraße 1 2 3\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"colours\.txt:2: byte 0xdf .*'straße 1 2 3'.*iconv"):
        read_colour_file(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"a\.txt: has no colours; expected lines such as 'road 128 64 128'"),
        ("a.txt", "# only a comment\n", r"a\.txt: has no colours"),
        ("a.txt", "road 1 2 3\nsky 4 5\n", r"a\.txt:2: 'sky 4 5': expected a class and three"),
        ("a.txt", "sky 4 5 300\n", r"a\.txt:1: \[4, 5, 300\] is no colour; .* 0\.\.255"),
        ("a.txt", "0 road 1 2 3\n", r"a\.txt:1: '0 road 1 2 3': expected a class and three"),
        ("a.json", "{bad", r"a\.json:1: not readable as JSON"),
        ("a.json", "[]", r"a\.json: expected names and colours"),
        ("a.json", '{"road": [1, 2]}', r"a\.json: road: \[1, 2\] is no colour"),
        ("a.json", '{"road": [true, 2, 3]}', r"a\.json: road: \[True, 2, 3\] is no colour"),
        ("a.json", '{"road": [0.5, 0.2, 0.5]}', r"a\.json: road: .* is no colour"),
        ("a.json", '{"road": [1, 2, 3], "road": [4, 5, 6]}', r"a\.json: 'road' occurs twice"),
        ("a.json", '[{"color": [1, 2, 3]}]', r"a\.json: entry 1 has no name"),
        ("a.yaml", "road: #804080\n", r"a\.yaml: road: None is no colour; .*\"#rrggbb\" in quotes"),
        ("a.yaml", "road: [1, 2, 3]\nroad: [4, 5, 6]\n", r"a\.yaml:2: road: given twice"),
    ],
)
def test_an_unclear_colour_file_is_refused_with_its_line(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SegtuneError, match=message):
        read_colour_file(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("road 1 2 3\n", r"colours\.txt: no colour for class 'sky'"),
        ("raod 1 2 3\nsky 4 5 6\n", r"no colour for class 'road'; did you mean 'raod'"),
        ("car 1 2 3\ndog 4 5 6\n", r"no colour for class 'sky' and 1 other classes"),
        ("road 1 2 3\nsky 1 2 3\n", r"the colour \(1, 2, 3\) belongs to two classes"),
        ("void 1 2 3\nroad 1 2 3\nsky 4 5 6\n", r"the colour \(1, 2, 3\) belongs to two classes"),
        ("1 2 3\n4 5 6\n7 8 9\n", r"has 3 colours without names, and there are 2 classes"),
    ],
)
def test_colours_that_do_not_fit_the_classes_are_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        check_mask_settings(config_of(tmp_path, content))


def test_a_class_may_have_several_colours(tmp_path: Path) -> None:
    config = config_of(tmp_path, LINES + "road 1 1 1\n")
    assert labels_of(tmp_path, config, stripes((1, 1, 1), SKY, ROAD, ROAD))[::16, 0].tolist() == [
        *(1, 0, 1, 1)
    ]


def test_classes_that_differ_in_case_keep_their_own_colours(tmp_path: Path) -> None:
    config = config_of(tmp_path, "Car 1 1 1\ncar 2 2 2\n", classes=["car", "Car"])
    assert labels_of(tmp_path, config, stripes((1, 1, 1), (2, 2, 2)))[::32, 0].tolist() == [1, 0]


def test_names_that_are_no_class_are_ignored_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, LINES + "void 0 0 0\nego vehicle 9 9 9\n")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            labels = labels_of(tmp_path, config, stripes(ROAD, (0, 0, 0), SKY, (9, 9, 9)))
    assert labels[::16, 0].tolist() == [1, 255, 0, 255]
    assert [record.message for record in caplog.records] == [
        f"data.palette: {tmp_path}/colours.txt: 2 names are no class of data.classes, so their "
        "pixels are ignored: void, ego vehicle"
    ]


def test_an_unknown_colour_is_named_with_its_count_and_the_nearest(tmp_path: Path) -> None:
    colours = COLOURS.copy()
    colours[0, :3] = (128, 64, 130)
    colours[1, 0] = (1, 1, 1)
    with pytest.raises(DataError) as error:
        labels_of(tmp_path, config_of(tmp_path, LINES), colours)
    assert str(error.value) == (
        f"{tmp_path}/x.png: 4 of 4096 pixels have 2 colours in no class; most have "
        f"[128, 64, 130], the nearest colour in {tmp_path}/colours.txt is [128, 64, 128]; add a "
        "line 'name 128 64 130' to the file, or save the mask without smoothing and loss"
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with alpha"])
def test_rgb_rgba_and_palette_images_have_the_labels_of_their_colours(
    mode: str, tmp_path: Path
) -> None:
    image = Image.fromarray(COLOURS)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(stripes(0, 255)))
    elif mode.startswith("P"):
        # The indices 5 and 0 are neither labels nor in the order of the file.
        indices = np.where(LABELS == 1, 5, 0).astype(np.uint8)
        image = Image.fromarray(indices, "P")
        image.putpalette([*SKY, *[0] * 12, *ROAD])
        if "alpha" in mode:
            image.info["transparency"] = 0
    labels = labels_of(tmp_path, config_of(tmp_path, LINES), image)
    assert labels.tolist() == LABELS.tolist()


def test_voc_reads_its_colours_and_ignores_the_border(tmp_path: Path) -> None:
    classes = [f"c{label}" for label in range(21)]
    config = DataConfig.parse({"root": str(tmp_path), "classes": classes, "palette": "voc"})
    colours = stripes((0, 0, 0), (128, 0, 0), (0, 64, 128), (224, 224, 192))
    assert labels_of(tmp_path, config, colours)[::16, 0].tolist() == [0, 1, 20, 255]
    with pytest.raises(DataError, match=r"most have \[1, 0, 0\], the nearest colour in data\.pal"):
        labels_of(tmp_path, config, stripes((1, 0, 0), (0, 0, 0)))


def test_voc_colours_differ_for_300_classes(tmp_path: Path) -> None:
    classes = [f"c{label}" for label in range(300)]
    settings = {"classes": classes, "palette": "voc", "ignore_index": 65535}
    config = DataConfig.parse({"root": str(tmp_path), **settings})
    colours = voc_colours(300)[None].repeat(2, 0)
    assert labels_of(tmp_path, config, colours).tolist() == [list(range(300))] * 2


def test_masks_that_have_no_colours_of_8_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.png: data\.palette needs masks with colours of 8 bit"):
        labels_of(tmp_path, config_of(tmp_path, LINES), np.full((4, 4), 700, np.uint16))


@pytest.mark.parametrize("palette", ["../colours.txt", "{outside}"])
def test_a_colour_file_outside_the_root_is_refused(palette: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "colours.txt").write_text(LINES)
    palette = palette.format(outside=tmp_path / "colours.txt")
    config = config_of(root, LINES).model_dump(mode="json") | {"palette": palette}
    with pytest.raises(DataError, match=r"data\.palette: '.*colours\.txt' is outside data\.root"):
        check_mask_settings(DataConfig.parse(config))


def test_an_absent_colour_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    config = config_of(tmp_path, LINES, palette="colors.txt")
    os.rename(tmp_path / "colors.txt", tmp_path / "colours.txt")
    with pytest.raises(DataError, match=r"no file .*/colors\.txt; did you mean 'colours\.txt'"):
        check_mask_settings(config)


def test_masks_of_colours_without_a_palette_name_the_file_that_is_there(tmp_path: Path) -> None:
    config = config_of(tmp_path, LINES, palette="labelmap.txt").model_dump(mode="json")
    config = DataConfig.parse({**config, "palette": None})
    message = r"\(70, 130, 180\); labelmap\.txt .*--set data\.palette=labelmap\.txt"
    with pytest.raises(DataError, match=rf"has 2 colours: \(128, 64, 128\), {message}"):
        labels_of(tmp_path, config, COLOURS)


def test_a_changed_colour_file_or_class_list_has_another_cache(
    make_data_set: MakeDataSet, tmp_path: Path
) -> None:
    files = files_of({"train": [COLOURS]}, save)
    files["colours.txt"] = lambda path: path.write_text(LINES)
    files["labels.txt"] = lambda path: path.write_text("sky\nroad\n")
    settings = {"classes": "labels.txt", "palette": "colours.txt", "cache": str(tmp_path / "c")}
    data = make_data_set(files, **settings)

    def top_left() -> int:
        pairs = DecodedPairs(open_split(data, "train"), data, 2, "train")
        label = int(pairs[0][1][0, 0])
        pairs.flush()
        return label

    assert [top_left(), top_left()] == [1, 1]
    before = palette_content(data)
    Path(data.root, "colours.txt").write_text("sky 128 64 128\nroad 70 130 180\n")
    assert palette_content(data) != before
    assert top_left() == 0
    Path(data.root, "labels.txt").write_text("road\nsky\n")
    assert top_left() == 1


def test_training_reads_the_colours(
    make_data_set: MakeDataSet,
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = files_of({"train": [COLOURS] * 3, "val": [COLOURS]}, save)
    files["colours.txt"] = lambda path: path.write_text(LINES)
    data = make_data_set(files, classes=CLASSES, palette="colours.txt")
    labels = decode_pair(open_split(data, "train")[0], data, 2).labels
    assert labels.tolist() == LABELS.tolist()
    content = audit(data)
    assert content.problems == []
    assert content.train.pixels[[0, 1, 255]].tolist() == [3072, 9216, 0]
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(on_data(tiny_config, data).dump()))
    assert data_tools.main(["check", str(file)]) == 0
    assert train.main(["--config", str(file), "--out", str(tmp_path / "run")]) == 0
    assert load_config(tmp_path / "run/config.yaml").data.palette == "colours.txt"
    capsys.readouterr()
    Path(data.root, "colours.txt").write_text("road 128 64 128\n")
    assert train.main(["--config", str(file), "--out", str(tmp_path / "second")]) == 2
    assert "colours.txt: no colour for class 'sky'" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_colours_of_no_class_are_the_reason_if_a_class_is_absent(
    make_data_set: MakeDataSet,
) -> None:
    files = files_of({"train": [COLOURS], "val": [COLOURS]}, save)
    files["colours.txt"] = lambda path: path.write_text(LINES + "car 1 2 3\n")
    data = make_data_set(files, classes=["road", "car"], palette="colours.txt")
    assert "25 % of all pixels are ignored: their colours are in no class (data.palette" in str(
        audit(data).problems
    )


def test_colours_in_the_config_give_the_same_labels_as_a_file(tmp_path: Path) -> None:
    palette = {"road": list(ROAD), "sky": list(SKY)}
    tree = {"data": {"layout": "folder", "root": str(tmp_path), "classes": CLASSES}}
    (tmp_path / "c.yaml").write_text(write_yaml({"data": {**tree["data"], "palette": palette}}))
    config = load_config(tmp_path / "c.yaml").data
    assert labels_of(tmp_path, config, COLOURS).tolist() == LABELS.tolist()
    assert config.override({"palette": config.dump()["palette"]}) == config
    other = config.override({"palette": {"road": list(SKY), "sky": list(ROAD)}})
    assert palette_content(config) != palette_content(other)


@pytest.mark.parametrize("palette", [{"road": [1, 2]}, {"road": [1, 2, 256]}, {7: [1, 2, 3]}, {}])
def test_wrong_colours_in_the_config_are_refused(palette: dict, tmp_path: Path) -> None:
    config = config_of(tmp_path, "")
    with pytest.raises(SegtuneError, match="palette"):
        check_mask_settings(config.override({"palette": palette}))
