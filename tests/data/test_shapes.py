"""The generated data set is reproducible, and its classes are imbalanced."""

from pathlib import Path

import numpy as np

from segtune.config.data_config import IGNORE_INDEX
from segtune.data.shapes import CLASSES, ShapesSpec, draw_scene, generate_if_needed


def contents(root: Path) -> dict[Path, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root): path.read_bytes() for path in files}


def test_the_same_spec_gives_the_same_files(tmp_path: Path) -> None:
    spec = ShapesSpec(seed=3, num_train=3, num_val=1, size=64)
    generate_if_needed(tmp_path / "first", spec)
    generate_if_needed(tmp_path / "second", spec)
    first = contents(tmp_path / "first")
    assert len(first) == 2 * 4 + 3  # an image and a mask each, two lists, the spec
    assert contents(tmp_path / "second") == first


def test_another_spec_replaces_the_data_set(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    generate_if_needed(root, ShapesSpec(seed=3, num_train=3, num_val=1, size=64))
    before = contents(root)
    generate_if_needed(root, ShapesSpec(seed=4, num_train=2, num_val=1, size=64))
    after = contents(root)
    assert len(after) == 2 * 3 + 3
    assert after[Path("JPEGImages/val_00000.jpg")] != before[Path("JPEGImages/val_00000.jpg")]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_without_a_spec_any_data_set_of_this_version_stays(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    generate_if_needed(root, ShapesSpec(seed=3, num_train=2, num_val=1, size=64))
    before = contents(root)
    generate_if_needed(root)
    assert contents(root) == before


def test_scenes_are_imbalanced_and_have_every_class() -> None:
    masks = [draw_scene(np.random.default_rng(seed), 96)[1] for seed in range(80)]
    share = np.bincount(np.stack(masks).ravel(), minlength=256) / np.stack(masks).size
    assert 0.6 < share[0] < 0.95
    assert all(share[label] > 0 for label in range(len(CLASSES)))
    assert share[CLASSES.index("dot")] < 0.01 < share[CLASSES.index("box")]
    assert share[IGNORE_INDEX] > 0
