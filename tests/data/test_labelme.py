"""`segtune data labelme`: LabelMe's JSON files to VOC layout."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.labelme import split_names
from segtune.data.labelme_shapes import draw, parse_shapes
from segtune.data.layouts import class_names, open_split
from segtune.data.masks import read_mask
from segtune.data_tools import main

SIZE = (20, 12)  # width and height
LABELS = "__ignore__\n_background_\ncell\nnucleus\n"
SQUARE = [[2, 3], [6, 3], [6, 8], [2, 8]]


def shape(label: str, points: object = SQUARE, kind: str | None = "polygon", **more: object) -> Any:
    tree = {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}
    return {**tree, **more}


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def save(
    folder: Path, name: str, shapes: list[Any], *, image: bool = True, **changes: object
) -> Path:
    """Write an annotation as LabelMe does, and its image beside it."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {
        **{"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None},
        **{"imagePath": f"{path.stem}.png", "imageHeight": SIZE[1], "imageWidth": SIZE[0]},
        **changes,
    }
    path.write_text(json.dumps(tree), encoding="utf-8")
    if image:
        Image.new("RGB", SIZE, (9, 9, 9)).save(path.with_suffix(".png"))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with labels.txt and no JSON file."""
    folder = tmp_path / "annotated"
    folder.mkdir()
    (folder / "labels.txt").write_text(LABELS)
    return folder


def convert(source: Path, *options: str, labels: bool = True) -> int:
    out = source.parent / "out"
    chosen = ["--labels", str(source / "labels.txt")] if labels else []
    return main(["labelme", "--input", str(source), "--out", str(out), *chosen, *options])


def mask_of(source: Path, name: str) -> np.ndarray:
    path = source.parent / "out" / "SegmentationClass" / f"{name}.png"
    assert Image.open(path).mode == "P"
    return read_mask(path, DataConfig.parse({"classes": "voc"}), 21)


def drawn(shapes: list[Any]) -> np.ndarray:
    values = {"_background_": 0, "cell": 1, "nucleus": 2, "__ignore__": 255}
    return draw(parse_shapes(shapes), SIZE, values)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Return a mask of 1 in a box with its corners, and 0 elsewhere."""
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[y0 : y1 + 1, x0 : x1 + 1] = 1
    return expected


@pytest.mark.parametrize("kind", ["polygon", "oriented_rectangle", None, ""])
def test_polygon_contains_its_outline(kind: str | None) -> None:
    assert np.array_equal(drawn([shape("cell", SQUARE, kind)]), box(2, 3, 6, 8))


def test_polygon_without_shape_type_is_of_an_early_version() -> None:
    tree = shape("cell")
    del tree["shape_type"]
    assert np.array_equal(drawn([tree]), box(2, 3, 6, 8))


def test_rectangle_has_any_two_opposite_corners() -> None:
    for corners in ([[2, 3], [6, 8]], [[6, 8], [2, 3]], [[6, 3], [2, 8]]):
        assert np.array_equal(drawn([shape("cell", corners, "rectangle")]), box(2, 3, 6, 8))


def test_circle_has_its_centre_and_a_point_on_its_edge() -> None:
    labels = drawn([shape("cell", [[10, 6], [14, 6]], "circle")])
    rows, columns = np.nonzero(labels)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 10, 6, 14)
    assert labels[6, 6:15].all()
    assert not labels[2, 6]  # a corner of the box around it
    assert labels.sum() == pytest.approx(np.pi * 4.5**2, rel=0.1)


def test_point_has_a_radius_of_5_and_a_line_a_width_of_10() -> None:
    point = drawn([shape("cell", [[10, 6]], "point")])
    assert point[6, 5:16].all()
    assert not point[6, 4]
    assert not point[6, 16]
    assert np.array_equal(drawn([shape("cell", [[10, 6]], "points")]), point)
    for kind in ("line", "linestrip"):
        line = drawn([shape("cell", [[4, 6], [15, 6]], kind)])
        assert line[:, 10].sum() == 10
        assert not line[6, 17:].any()


def test_mask_shape_lies_at_its_first_point_and_is_clipped_to_the_image() -> None:
    pixels = np.array([[255, 0], [255, 255]], np.uint8)
    data = base64.b64encode(png(pixels)).decode()
    labels = drawn([shape("cell", [[3, 4], [4, 5]], "mask", mask=data)])
    assert np.argwhere(labels).tolist() == [[4, 3], [5, 3], [5, 4]]
    labels = drawn([shape("cell", [[19, 11], [20, 12]], "mask", mask=data)])
    assert np.argwhere(labels).tolist() == [[11, 19]]
    labels = drawn([shape("cell", [[-1, -1], [0, 0]], "mask", mask=data)])
    assert np.argwhere(labels).tolist() == [[0, 0]]
    boolean = base64.b64encode(png(pixels > 0)).decode()  # a PNG of 1 bit
    labels = drawn([shape("cell", [[3, 4], [4, 5]], "mask", mask=boolean)])
    assert np.argwhere(labels).tolist() == [[4, 3], [5, 3], [5, 4]]


def test_later_shapes_lie_over_earlier_ones_and_background_cuts_a_hole() -> None:
    labels = drawn(
        [
            shape("cell", [[0, 0], [10, 10]], "rectangle", group_id=1),
            shape("nucleus", [[2, 2], [4, 4]], "rectangle", group_id=1),
            shape("_background_", [[6, 6], [8, 8]], "rectangle"),
            shape("__ignore__", [[0, 0], [0, 0]], "rectangle"),
        ]
    )
    assert (labels[3, 3], labels[7, 7], labels[5, 5], labels[0, 0]) == (2, 0, 1, 255)
    assert [int((labels == value).sum()) for value in (1, 2, 255)] == [121 - 9 - 9 - 1, 9, 1]


def test_shape_outside_of_the_image_is_clipped() -> None:
    points = [[-5, -5], [3, -5], [3, 400], [-5, 400]]
    assert np.array_equal(drawn([shape("cell", points)]), box(0, 0, 3, 11))


def test_folder_becomes_a_data_set_that_the_layout_voc_reads(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(9):
        save(source, f"img {number}", [shape("cell"), shape("nucleus", [[9, 9]], "point")])
    save(source, "日本/empty", [])
    assert convert(source) == 0
    out = source.parent / "out"
    assert (out / "labels.txt").read_text() == LABELS
    assert (out / "class_names.txt").read_text() == "_background_\ncell\nnucleus\n"
    config = DataConfig.parse({"root": str(out), "classes": "class_names.txt"})
    assert class_names(config) == ("_background_", "cell", "nucleus")
    train, val = open_split(config, "train"), open_split(config, "val")
    assert (len(train), len(val)) == (8, 2)
    named = {Path(pair.image).relative_to(out / "JPEGImages").as_posix() for pair in train + val}
    assert named == {*(f"img {number}.png" for number in range(9)), "日本/empty.png"}
    for pair in train + val:
        image = source / Path(pair.image).relative_to(out / "JPEGImages")
        assert Path(pair.image).read_bytes() == image.read_bytes()
    assert set(np.unique(mask_of(source, "img 3"))) == {0, 1, 2}
    assert not mask_of(source, "日本/empty").any()
    text = capsys.readouterr().out
    assert "8 training and 2 validation images" in text
    assert "1 images have no shape" in text
    assert "--set data.layout=voc" in text
    (source.parent / "c.yaml").write_text(f"data: {{root: {out}, classes: class_names.txt}}\n")
    assert main(["check", str(source.parent / "c.yaml")]) == 0


def test_embedded_image_is_used_and_is_written_as_it_is(source: Path) -> None:
    content = png(np.full((*SIZE[::-1], 3), 77, np.uint8))
    data = base64.b64encode(content).decode()
    save(source, "a", [shape("cell")], image=False, imageData=data, imagePath="gone.jpg")
    assert convert(source) == 0
    assert (source.parent / "out/JPEGImages/a.png").read_bytes() == content


@pytest.mark.parametrize(
    ("image_path", "file"),
    [
        ("..\\photos\\a.jpg", "../photos/a.jpg"),
        ("../photos/a.jpg", "../photos/a.jpg"),
        ("C:\\Users\\me\\a.jpg", "a.jpg"),
        ("/home/me/a.jpg", "a.jpg"),
        ("renamed.jpg", "a.JPG"),
        (None, "a.jpg"),
    ],
)
def test_image_is_found_by_its_path_or_beside_the_json_file(
    source: Path, image_path: str | None, file: str
) -> None:
    save(source, "a", [shape("cell")], image=False, imagePath=image_path)
    target = source / file
    target.parent.mkdir(exist_ok=True)
    Image.new("RGB", SIZE).save(target, format="JPEG")
    assert convert(source) == 0
    written = source.parent / "out/JPEGImages/a.jpg"
    assert written.read_bytes() == target.read_bytes()


def test_mask_has_the_side_lengths_that_were_annotated(source: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: LabelMe shows it upright
    Image.new("RGB", (12, 20)).save(source / "a.jpg", exif=exif)
    save(source, "a", [shape("cell")], image=False, imagePath="a.jpg")
    save(source, "b", [shape("cell")], imageHeight=None, imageWidth=None)
    assert convert(source) == 0
    assert mask_of(source, "a").shape == mask_of(source, "b").shape == SIZE[::-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"imageHeight": 99}, "was made for an image of 20 x 99 pixels, and its image has 20 x 12"),
        ({"image": False}, "no image: imagePath is 'bad.png'"),
        ({"imageData": "AAAA"}, "imageData is no image in base64"),
        ({"shapes": [shape("cel")]}, "'cel' not in"),
        ({"shapes": [shape("cel")]}, "did you mean 'cell'?"),
        ({"shapes": [shape("cell", SQUARE[:2])]}, "shape 1 ('cell'): a polygon of 2 points"),
        ({"shapes": [shape("cell", SQUARE, "cube")]}, "shape_type 'cube' is not known"),
        ({"shapes": [shape("cell", SQUARE, "polygn")]}, "did you mean 'polygon'?"),
        ({"shapes": [shape("cell", [[0, 0], [1, None], [2, 2]])]}, "no list of [x, y]"),
        ({"shapes": [shape("cell", [[0, 0], [1, 1e300], [2, 2]])]}, "far outside"),
        ({"shapes": [shape("cell", [[0, 0], [1, float("nan")], [2, 2]])]}, "is no number"),
        ({"shapes": [shape("cell", [[0, 0], [1, 1]], "mask", mask="AA==")]}, "no PNG in base64"),
        ({"shapes": [shape("cell", [[0, 0], [1, 1]], "mask")]}, "no PNG in base64"),
        ({"shapes": [{"points": SQUARE}]}, "shape 1 has no label"),
        ({"shapes": {}}, "`shapes` is no list"),
        ("", "the file is empty"),
        ("{'a': 1}", "bad.json:1: not readable as JSON"),
        ('{"images": [], "annotations": []}', "is a file of COCO"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_file_is_named_and_nothing_is_written_without_skip_broken(
    source: Path, capsys: pytest.CaptureFixture[str], changes: Any, reason: str
) -> None:
    save(source, "good", [shape("cell")])
    if isinstance(changes, str):
        (source / "bad.json").write_text(changes)
    else:
        save(source, "bad", **{"shapes": [shape("cell")], **changes})
    assert convert(source) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.startswith(f"refused: {source / 'bad.json'}")
    assert "1 of 2 JSON files are refused, so nothing is written" in error
    assert [path.name for path in source.parent.iterdir()] == ["annotated"]
    assert convert(source, "--skip-broken") == 1
    assert (source.parent / "out/ImageSets/Segmentation/train.txt").read_text() == "good\n"


def test_labels_of_the_files_are_the_classes_without_a_list(source: Path) -> None:
    save(source, "a", [shape("nucleus"), shape("__ignore__")])
    save(source, "b", [shape("cell")])
    assert convert(source, labels=False) == 0
    names = (source.parent / "out/class_names.txt").read_text().split()
    assert names == ["_background_", "cell", "nucleus"]
    assert set(np.unique(mask_of(source, "a"))) == {0, 255}


def test_background_is_added_to_a_list_and_names_may_be_words(source: Path) -> None:
    save(source, "a", [shape("nucleus")])
    assert convert(source, "--labels", "nucleus,cell", labels=False) == 0
    names = (source.parent / "out/class_names.txt").read_text().split()
    assert names == ["_background_", "nucleus", "cell"]


def test_split_depends_on_names_and_seed_only() -> None:
    names = [f"img{number}" for number in range(50)]
    train, val = split_names(names, 0.2, seed=0)
    assert split_names(names[::-1], 0.2, seed=0) == (train, val)
    assert (len(train), len(val)) == (40, 10)
    assert sorted(train + val) == sorted(names)
    assert split_names(names, 0.2, seed=1) != (train, val)
    _, more = split_names([*names, "new"], 0.2, seed=0)
    assert len(set(val) - set(more)) <= 1
    assert [len(part) for part in split_names(["a", "b"], 0.2, seed=0)] == [1, 1]
    assert split_names(["a", "b"], 0, seed=0) == (["a", "b"], [])
    assert split_names(["a"], 0.2, seed=0) == (["a"], [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--val-share", "1"), "--val-share: allowed is a number from 0, below 1; got 1.0"),
        (("--labels", "lables.txt"), "--labels: no file lables.txt"),
    ],
)
def test_wrong_option_is_one_message(
    source: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    save(source, "a", [shape("cell")])
    assert convert(source, *options) == 2
    assert message in capsys.readouterr().err


def test_folders_that_cannot_be_used_are_named(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(source) == 2
    assert f"--input: no JSON files in {source}" in capsys.readouterr().err
    assert convert(source.parent / "anotated", labels=False) == 2
    assert "did you mean 'annotated'?" in capsys.readouterr().err
    save(source, "a", [shape("cell")])
    (source.parent / "out").mkdir()
    (source.parent / "out" / "mine.txt").touch()
    assert convert(source) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in (source.parent / "out").iterdir()] == ["mine.txt"]
