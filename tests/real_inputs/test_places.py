"""Folders as users have them: odd names, links, moved data, folders with other files."""

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune import config_tools, data_tools, evaluate, predict, train
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data import loader_limits
from segtune.data.loader_limits import fitting_loaders
from segtune.data.shapes import ShapesSpec, generate_if_needed
from segtune.errors import DataError, shown_path
from segtune.runs.rundir import TrialDir

SMALL = ShapesSpec(num_train=2, num_val=1, size=32)
SHORT = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0.5"]


@pytest.fixture
def config_file(tiny_config: ExperimentConfig, tmp_path: Path) -> str:
    (tmp_path / "config.yaml").write_text(write_yaml(tiny_config.dump()))
    return str(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ümlaut 图像",
        "100%",
        "what?",
        "a#b",
        "a@b:c",
        "[x]*{y}",
        "quote'\"",
        "new\nline",
        "-dash",
        "trailing/",
        "up/../down",
        "n" * 200,
    ],
)
def test_a_training_run_in_a_folder_of_any_name_is_evaluated_and_resumed(
    name: str, config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "up").mkdir()
    out = f"./{name}"
    assert train.main(["--config", config_file, "--out", out, *SHORT]) == 0
    assert [r.epoch for r in TrialDir(Path(out)).read_epochs()] == [1]
    assert train.main(["--config", config_file, "--out", out, "--resume", *SHORT]) == 0
    table = f"{out}/table of classes.csv"
    assert evaluate.main(["--checkpoint", out, "--csv", table]) == 0
    assert Path(table).read_text().startswith("Class,IoU,Acc\nbackground,")


def test_a_folder_whose_name_is_not_utf_8_is_refused_with_its_name(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard and YAML cannot hold such a name."""
    assert train.main(["--config", config_file, "--out", f"{tmp_path}/latin\udce9", *SHORT]) == 2
    message = capsys.readouterr().err
    assert "latin\\udce9" in message
    assert "this name is not UTF-8; rename the file or folder" in message


def test_names_that_a_terminal_cannot_print_do_not_end_a_command(tmp_path: Path) -> None:
    path = tmp_path / "ümlaut"
    program = (
        "import argparse, sys; from segtune.cli import run_command;"
        "sys.exit(run_command(lambda: print(sys.argv[1]) or 0, argparse.Namespace()))"
    )
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{tmp_path}/\\xfcmlaut"


def test_a_run_behind_a_link_is_the_same_run(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    words = ["--config", config_file, *SHORT, "--out"]
    assert train.main([*words, str(tmp_path / "link" / "run")]) == 0
    assert train.main([*words, str(tmp_path / "disk" / "run")]) == 2
    assert "holds a training run already" in capsys.readouterr().err


def test_training_goes_on_after_run_and_data_were_moved(
    config_file: str, tmp_path: Path, shapes_root: Path
) -> None:
    shutil.copytree(shapes_root, tmp_path / "data")
    data = ["--set", f"data.root={tmp_path}/data"]
    longer = ["--config", config_file, "--set", "checkpoint.every=1"]
    assert train.main([*longer, *data, "--out", str(tmp_path / "old" / "run")]) == 0
    checkpoints = tmp_path / "old" / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "last-00002")
    shutil.move(tmp_path / "old", tmp_path / "new")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    data = ["--set", f"data.root={tmp_path}/moved", "--set", "data.cache=none"]
    assert train.main([*longer, *data, "--out", str(tmp_path / "new" / "run"), "--resume"]) == 0
    assert [r.epoch for r in TrialDir(tmp_path / "new" / "run").read_epochs()] == [1, 2]
    assert not (tmp_path / "old").exists()


def test_weights_may_be_read_by_all_who_may_read_the_manifest(
    config_file: str, tmp_path: Path
) -> None:
    assert train.main(["--config", config_file, "--out", str(tmp_path / "run"), *SHORT]) == 0
    best = tmp_path / "run" / "checkpoints" / "best-00001"
    assert len({path.stat().st_mode for path in best.iterdir()}) == 1


def test_a_config_is_found_from_any_folder(
    config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert config_tools.main(["../config.yaml"]) == 0
    assert config_tools.main([f"..//a/../{Path(config_file).name}"]) == 0


def test_predict_keeps_apart_paths_with_blanks_and_newlines(
    config_file: str, tmp_path: Path, shapes_root: Path
) -> None:
    assert train.main(["--config", config_file, "--out", str(tmp_path / "run"), *SHORT]) == 0
    image = tmp_path / "an image\nof two lines.jpg"
    shutil.copy(next((shapes_root / "JPEGImages").iterdir()), image)
    out = tmp_path / "over lays"
    words = ["--checkpoint", str(tmp_path / "run"), "--out", str(out), str(image)]
    assert predict.main(words) == 0
    assert [path.name for path in out.iterdir()] == ["an image\nof two lines.png"]


def put_run(root: Path) -> Path:
    (root / "runs").mkdir()
    return root / "runs"


def put_image(root: Path) -> Path:
    (root / "JPEGImages" / "mine.jpg").write_bytes(b"mine")
    return root / "JPEGImages" / "mine.jpg"


def put_list(root: Path) -> Path:
    (root / "ImageSets" / "Segmentation" / "mine.txt").write_text("train_00000\n")
    return root / "ImageSets" / "Segmentation" / "mine.txt"


@pytest.mark.parametrize("put", [put_run, put_image, put_list])
def test_shapes_never_replace_a_folder_with_files_of_the_user(
    put: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = tmp_path / "shapes"
    generate_if_needed(root, SMALL)
    mine = put(root)
    generate_if_needed(root, SMALL)  # current: nothing is replaced
    generate_if_needed(root)
    message = f"holds files that are not of the shapes data set \\({mine.relative_to(root)}\\)"
    with pytest.raises(DataError, match=message):
        generate_if_needed(root, ShapesSpec(num_train=3, num_val=1, size=32))
    assert mine.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_shapes_are_not_written_into_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data\.root .* holds files .* \(JPEGImages\)"):
        generate_if_needed(tmp_path / "voc", SMALL)
    assert [path.name for path in (tmp_path / "voc").iterdir()] == ["JPEGImages"]


def test_shapes_replace_an_older_data_set_with_files_of_file_browsers(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    generate_if_needed(root, SMALL)
    for name in (".DS_Store", "._JPEGImages", "Thumbs.db"):
        (root / name).touch()
    generate_if_needed(root, ShapesSpec(num_train=3, num_val=1, size=32))
    assert len(list((root / "JPEGImages").iterdir())) == 4
    assert not (root / ".DS_Store").exists()


def test_shapes_with_a_damaged_spec_are_drawn_again(tmp_path: Path) -> None:
    generate_if_needed(tmp_path / "shapes", SMALL)
    (tmp_path / "shapes" / "shapes.json").write_text("")
    generate_if_needed(tmp_path / "shapes")
    assert len(list((tmp_path / "shapes" / "JPEGImages").iterdir())) == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "0"], "--train: allowed is a number from 1; got 0"),
        (["--val", "-3"], "--val: allowed is a number from 1; got -3"),
        (["--seed", "-1"], "--seed: allowed is a number from 0; got -1"),
    ],
)
def test_a_data_set_without_images_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_tools.main(["shapes", "--out", str(tmp_path / "x"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def draw(root: Path) -> None:
    generate_if_needed(root, SMALL)


def test_processes_that_draw_at_the_same_time_leave_one_data_set(tmp_path: Path) -> None:
    generate_if_needed(tmp_path / "shapes", ShapesSpec(num_train=1, num_val=1, size=32))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=draw, args=(tmp_path / "shapes",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(list((tmp_path / "shapes" / "JPEGImages").iterdir())) == 3


def test_training_with_loaders_does_not_wait_for_ever_if_tmpdir_is_long(
    config_file: str, tmp_path: Path
) -> None:
    """A socket's path has at most 107 bytes; the loaders send their batches through one."""
    folder = tmp_path / ("t" * 100)
    folder.mkdir()
    words = ["--config", config_file, "--out", str(tmp_path / "run"), *SHORT]
    command = [sys.executable, "-m", "segtune.train", *words, "--set", "data.num_loaders=1"]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert b"path too long" not in done.stderr


@pytest.mark.parametrize(("free_mb", "expected"), [(1000, 4), (64, 2), (20, 0)])
def test_loaders_are_as_many_as_shared_memory_allows(
    free_mb: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocks = free_mb * 1000
    size = os.statvfs_result((1000, 1000, blocks, blocks, blocks, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: size)
    monkeypatch.setattr(loader_limits, "SHARED_MEMORY", Path(tempfile.gettempdir()))
    with caplog.at_level(logging.WARNING):
        # 8 images of 512 x 512 with labels: 8.4 MB; 3 batches for each loader.
        assert fitting_loaders(4, 8 * 512 * 512 * 4, prefetch=3) == expected
    assert ("--shm-size" in caplog.text) == (expected < 4)


def test_a_long_path_is_shortened_in_messages() -> None:
    assert shown_path("a/b") == "a/b"
    assert len(shown_path("d" * 5000)) == 301
    assert shown_path("a\nb") == "'a\\nb'"
