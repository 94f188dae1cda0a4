"""Two images never share an overlay, and an overlay never replaces a file of the user."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from untrained import save_checkpoint

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.errors import DataError
from segtune.training import overlays
from segtune.training.overlays import find_inputs, is_overlay, overlay_names, write_overlay

PIXELS = np.zeros((2, 3, 3), np.uint8)


def save_image(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (value, value, value)).save(path)
    return path


@pytest.fixture
def trained(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    """Return the folder of a training run with an untrained checkpoint."""
    save_checkpoint(tmp_path / "run", tiny_config)
    return tmp_path / "run"


def predict(trained: Path, out: Path, *images: Path) -> int:
    return program(["predict", "--checkpoint", str(trained), "--out", str(out), *map(str, images)])


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([("a", "1.jpg"), ("a", "x/2.jpg")], ["1.png", "x/2.png"]),
        ([("a", "1.jpg"), ("b", "2.jpg")], ["1.png", "2.png"]),
        ([("a", "1.jpg"), ("b", "1.jpg"), ("b", "2.jpg")], ["a/1.png", "b/1.png", "b/2.png"]),
        ([("p/a/x", "1.jpg"), ("p/b/x", "1.jpg")], ["a/x/1.png", "b/x/1.png"]),
        ([("a", "1.jpg"), ("a", "1.png")], ["1.jpg.png", "1.png.png"]),
        ([("a", "1.jpg"), ("a", "1.png"), ("a", "1.jpg.tif")], None),
        ([("a", "1.jpg"), ("b", "1.jpg"), ("b", "1.png")], None),
        ([("", "1.jpg"), ("a", "1.jpg")], ["1.png", "a/1.png"]),
        ([("a", "1.jpg"), ("b", "a/1.png"), ("c", "1.jpg")], None),
        # A file system may take these for one name.
        ([("a", "A.jpg"), ("a", "a.png")], ["A.jpg.png", "a.png.png"]),
    ],
)
def test_names_of_overlays_stay_apart(
    images: list[tuple[str, str]], names: list[str] | None
) -> None:
    made = overlay_names(images)
    assert len({name.casefold() for name in made}) == len(images)
    assert not any(name.startswith(("/", "..")) for name in made)
    if names is not None:
        assert made == names


def test_two_images_of_one_name_have_two_overlays(trained: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "1.jpg", 0)
    save_image(tmp_path / "b" / "1.jpg", 255)
    assert predict(trained, tmp_path / "out", tmp_path / "a", tmp_path / "b") == 0
    assert files_in(tmp_path / "out") == ["a/1.png", "b/1.png"]
    dark, light = (
        np.asarray(Image.open(tmp_path / "out" / name / "1.png")).mean() for name in "ab"
    )
    assert light - dark > 100


def test_image_in_the_folder_of_the_overlays_is_never_replaced(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    png = save_image(folder / "a.png")
    save_image(folder / "b.jpg")
    before = png.read_bytes()
    for _ in range(2):  # the second time, b.png is an overlay: it is replaced, and no input
        assert predict(trained, folder, folder) == 1
        captured = capsys.readouterr()
        assert f"a.png: its overlay would replace {png}, which segtune has not" in captured.err
        assert "1 overlays in" in captured.out
        assert "1 of 2 inputs refused" in captured.out
        assert png.read_bytes() == before
        assert files_in(folder) == ["a.png", "b.jpg", "b.png"]


def test_overlays_inside_the_folder_of_the_images_are_no_inputs(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_image(tmp_path / "photos" / "a.jpg")
    out = tmp_path / "photos" / "out"
    assert predict(trained, out, tmp_path / "photos") == 0
    assert predict(trained, out, tmp_path / "photos") == 0
    assert files_in(tmp_path / "photos") == ["a.jpg", "out/a.png"]
    assert "1 overlays of segtune are left out of the images" in caplog.text
    with pytest.raises(DataError, match="all files are overlays of segtune"):
        find_inputs([out])


def test_link_to_a_file_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    original = save_image(tmp_path / "a.png")
    for name, target in (("link.png", original), ("dangling.png", tmp_path / "absent")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(DataError, match="which segtune has not written"):
            write_overlay(tmp_path / name, PIXELS)


def test_overlay_is_a_png_with_a_mark_and_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x" / "a.png"
    for value in (7, 9):
        write_overlay(target, np.full((2, 3, 3), value, np.uint8))
        image = Image.open(target)
        image.verify()  # reads the checksum of every chunk
        assert image.info["Software"] == "segtune predict"
        assert np.asarray(Image.open(target)).tolist() == [[[value] * 3] * 3] * 2
    assert is_overlay(target)
    assert os.listdir(target.parent) == ["a.png"]
    assert not is_overlay(save_image(tmp_path / "b.png"))


def test_folder_stands_for_the_images_in_its_subfolders_each_once(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("a.png", "sub.png/b.jpg", "x/y/c.JPG", "._a.png", ".cache/d.png"):
        save_image(photos / "tmp.png").rename(_parent(photos / name))
    (photos / "Thumbs.db").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    (photos / "x" / "loop").symlink_to(photos)
    (photos / "x" / "to itself").symlink_to("to itself")
    (photos / "e.png").mkdir()
    inputs = find_inputs([photos, photos / "a.png", os.path.relpath(photos)])
    assert [image.overlay for image in inputs.images] == ["a.png", "sub.png/b.png", "x/y/c.png"]
    assert inputs.refused == []


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("name", ["quo\"te's.png", "🙂.png", "new\nline.png", "x" * 251 + ".png"])
def test_image_of_any_name_has_an_overlay_of_this_name(
    trained: Path, tmp_path: Path, name: str
) -> None:
    image = save_image(tmp_path / "in" / "a.png").rename(tmp_path / "in" / name)
    assert predict(trained, tmp_path / "out", image) == 0
    assert files_in(tmp_path / "out") == [name]


def test_name_that_is_too_long_for_its_overlay_is_refused_and_the_rest_goes_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 251
    jpg = save_image(tmp_path / "in" / "a.jpg").rename(tmp_path / "in" / f"{long}.jpg")
    png = save_image(tmp_path / "in" / "a.png").rename(tmp_path / "in" / f"{long}.png")
    good = save_image(tmp_path / "in" / "b.png")
    assert predict(trained, tmp_path / "out", jpg, png, good) == 1
    assert ".png: a name of more than 255 bytes" in capsys.readouterr().err
    assert files_in(tmp_path / "out") == ["b.png"]


def test_out_that_is_a_file_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = save_image(tmp_path / "a.jpg")
    out = tmp_path / "file"
    out.write_text("x")
    assert predict(trained, out, image) == 2
    assert (
        f"{out}: this path, or a folder above it, is a file or a broken link"
        in capsys.readouterr().err
    )
    assert predict(trained, out / "below", image) == 2
    assert out.read_text() == "x"


def test_full_disk_ends_the_command_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(overlays.os, "replace", replace)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.png"):
        write_overlay(tmp_path / "a.png", PIXELS)
    assert os.listdir(tmp_path) == []
