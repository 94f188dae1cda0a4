"""A data set of the user's own: `data.layout` is the import path of a function."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.layouts import class_names, open_split
from segtune.data_tools import main
from segtune.errors import ConfigError, DataError
from segtune.evaluate import main as evaluate_main

CODE = '''
from pathlib import Path


def pairs(root, split):
    """Images img-NAME.png, masks gt-NAME.png, and a list with a line per split."""
    lines = (Path(root) / "split.txt").read_text().splitlines()
    names = dict(line.split(": ") for line in lines)[split].split()
    return [(f"img-{name}.png", Path(root, f"gt-{name}.png")) for name in names]


def nothing(root, split):
    return None


def empty(root, split):
    return []


def images_only(root, split):
    return ["img-a.png"]


def absent(root, split):
    return [("img-a.png", "gt-a.png"), ("img-z.png", "gt-a.png")]


def broken(root, split):
    return 1 / 0


number = 3
'''


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data set, and put a package that reads it on the path of this process."""
    package = tmp_path / "code" / "cells_project"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data.py").write_text(CODE)
    root = tmp_path / "cells"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcde":
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / f"img-{name}.png")
        Image.fromarray(rng.integers(0, 2, (48, 64), np.uint8)).save(root / f"gt-{name}.png")
    (root / "split.txt").write_text("train: a b c\nmore: d\nval: e\n")
    for module in [name for name in sys.modules if name.startswith("cells_project")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    return root


def config(root: Path, function: str = "pairs", **settings: object) -> DataConfig:
    layout = f"cells_project.data:{function}"
    return DataConfig.parse(
        {"layout": layout, "root": str(root), "classes": ["background", "cell"], **settings}
    )


def test_function_names_the_pairs_of_each_split(root: Path) -> None:
    both = config(root, train=["train", "more"])
    assert [(pair.image, pair.mask, pair.name) for pair in open_split(both, "train")] == [
        (str(root / f"img-{name}.png"), str(root / f"gt-{name}.png"), f"img-{name}")
        for name in "abcd"
    ]
    assert [pair.name for pair in open_split(both, "val")] == ["img-e"]
    assert len(open_split(both.override({"num_images": 2}), "train")) == 2


def test_class_names_and_label_0_are_as_in_other_layouts(root: Path) -> None:
    (root / "names.txt").write_text("ground\ncell\n")
    assert class_names(config(root, classes="names.txt")) == ("ground", "cell")
    assert not config(root).reduces_zero_label


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "returned nothing (None); expected a list of (image path, mask path)"),
        ("images_only", "has 'img-a.png' in its list; expected (image path, mask path)"),
        ("empty", "cells_project.data:empty returns no files"),
        ("absent", "1 of 4 files do not exist, the first is"),
    ],
)
def test_message_says_what_the_function_should_return(
    root: Path, function: str, message: str
) -> None:
    with pytest.raises(DataError) as error:
        open_split(config(root, function), "train")
    assert message in str(error.value)
    assert str(error.value).startswith("data.train: ")


def test_object_that_is_no_function_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.layout: .*number': is a int; expected a function"):
        open_split(config(root, "number"), "train")


def test_absent_function_is_refused_with_the_nearest_name(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)data.layout.*pair.*pairs"):
        open_split(config(root, "pair"), "train")


def test_error_in_the_function_stays_a_traceback(root: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        open_split(config(root, "broken"), "train")


def test_settings_of_folders_are_not_used_and_a_warning_says_so(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        open_split(config(root, masks="labels", image_suffix="_x"), "train")
    assert "data.masks, data.image_suffix: not used" in caplog.text


def test_misspelt_layout_is_refused_with_the_nearest_name() -> None:
    for layout in ("vocc", "my.package", "a b:c", ":f", "m:"):
        with pytest.raises(ConfigError, match=r"layout: allowed is shapes \| voc \| ade20k"):
            DataConfig.parse({"layout": layout})


def test_data_check_reads_a_data_set_of_ones_own(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.parent / "cells.yaml"
    file.write_text(
        f"data: {{layout: 'cells_project.data:pairs', root: {root}, train: [train, more], "
        "classes: [background, cell]}\n"
    )
    assert main(["check", str(file)]) == 0
    assert "4 training and 1 validation images, 2 classes" in capsys.readouterr().out


@pytest.mark.slow
def test_package_outside_the_repository_trains_and_a_checkpoint_alone_does_not_import_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.parent / "cells.yaml"
    file.write_text(f"""
data: {{layout: "cells_project.data:pairs", root: {root}, classes: [background, cell],
  crop: [32, 32], resize: [64, 48], cache: none, num_loaders: 0}}
model: {{encoder: mit_nano, drop_path: 0.0}}
schedule: {{epochs: 1, batch_size: 2, warmup_epochs: 0}}
""")
    paths = f"{root.parent / 'code'}:{Path(__file__).parents[2]}"
    command = [sys.executable, "-m", "segtune", "train", "--config", str(file)]
    run = subprocess.run(
        [*command, "--out", str(root.parent / "run")],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "cells_project.data:pairs" in (root.parent / "run" / "config.yaml").read_text()

    checkpoint = ["--checkpoint", str(root.parent / "run")]
    assert evaluate_main(checkpoint) == 2
    assert "data.layout is cells_project.data:pairs" in capsys.readouterr().err
    assert "cells_project.data" not in sys.modules
    assert evaluate_main([*checkpoint, "--config", str(file)]) == 0
    assert "cell" in capsys.readouterr().out
