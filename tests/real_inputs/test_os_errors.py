"""What a command says if the operating system refuses a path."""

import argparse
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segtune import (
    config_tools,
    data_tools,
    evaluate,
    export,
    predict,
    report,
    search,
    status,
    train,
)
from segtune import stop as stop_command
from segtune.api import run_training
from segtune.cli import run_command
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import place_problem
from segtune.runs.atomic import create_once, sync_folder, write_atomic
from segtune.runs.records import EpochRecord
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.training import checkpoint
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

Main = Callable[[list[str]], int]


@pytest.fixture
def files(tmp_path: Path, tiny_config: ExperimentConfig) -> dict[str, str]:
    """Write a config, a space and a search run, and return their paths."""
    (tmp_path / "config.yaml").write_text(write_yaml(tiny_config.dump()))
    (tmp_path / "space.yaml").write_text("optim.lr: {loguniform: [1.0e-4, 1.0e-2]}\n")
    study = load_study(tmp_path / "space.yaml", tmp_path / "config.yaml")
    run = SearchDir(tmp_path / "runs" / "s")
    prepare_study(run, study)
    run.trial(0).path.mkdir()
    run.trial(0).append_epoch(EpochRecord(1, 1))
    run.trial(0).params.write_text("{}")
    return {
        "CONFIG": str(tmp_path / "config.yaml"),
        "SPACE": str(tmp_path / "space.yaml"),
        "RUN": str(run.path),
    }


@pytest.fixture(scope="module")
def trained(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training run of one epoch."""
    changes = {
        "data.layout": "shapes",
        "data.root": str(shapes_root),
        "data.classes": "shapes",
        "data.resize": [64, 64],
        "data.crop": [64, 64],
        "data.num_loaders": 0,
        "model.encoder": "mit_nano",
        "schedule.epochs": 1,
        "schedule.batch_size": 8,
        "schedule.warmup_epochs": 0.5,
    }
    out = tmp_path_factory.mktemp("trained") / "t"
    run_training(ExperimentConfig().override(changes), out)
    return out


def refused_places(folder: Path) -> dict[str, str]:
    """Return paths below `folder` that no process can write, by the word of the message."""
    (folder / "file").write_text("x")
    (folder / "loop").symlink_to("loop")
    return {
        "is a file or a broken link": str(folder / "file" / "x"),
        "more than 255 bytes": str(folder / ("n" * 300)),
        "points to itself": str(folder / "loop" / "x"),
        "no such file or folder": "/proc/absent",
    }


WRITE: list[tuple[Main, list[str]]] = [
    (train.main, ["--config", "CONFIG", "--out", "PLACE"]),
    (train.main, ["--config", "CONFIG", "--out", "PLACE", "--resume"]),
    (search.main, ["--space", "SPACE", "--config", "CONFIG", "--out", "PLACE"]),
    (evaluate.main, ["--checkpoint", "TRAINED", "--csv", "PLACE"]),
    (evaluate.main, ["--checkpoint", "TRAINED", "--csv", "CSV", "--show-dir", "PLACE"]),
    (predict.main, ["--checkpoint", "TRAINED", "--out", "PLACE", "IMAGE"]),
    (export.main, ["RUN", "--trial", "0", "--out", "PLACE"]),
    (report.main, ["RUN", "--out", "PLACE"]),
    (status.main, ["RUN", "--csv", "PLACE"]),
    (data_tools.main, ["shapes", "--out", "PLACE", "--train", "1", "--val", "1"]),
    (data_tools.main, ["check", "CONFIG", "--set", "data.root=PLACE"]),
]


@pytest.mark.parametrize(("main", "arguments"), WRITE)
def test_a_place_that_cannot_be_written_is_one_message(
    main: Main,
    arguments: list[str],
    files: dict[str, str],
    trained: Path,
    shapes_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = str(next((shapes_root / "JPEGImages").iterdir()))
    known = {**files, "TRAINED": str(trained), "IMAGE": image, "CSV": str(tmp_path / "e.csv")}
    for reason, place in refused_places(tmp_path).items():
        words = [known.get(word, word.replace("PLACE", place)) for word in arguments]
        assert main(words) == 2, words
        error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(error) == 1
        assert place[:40] in error[0]
        # The page of the report has a message of its own. To make the folders of a file below a
        # link to itself fails because the link is there.
        assert any(
            text in error[0] for text in (reason, "cannot be written", "is a file or a broken link")
        )


READ: list[tuple[Main, list[str]]] = [
    (train.main, ["--config", "PLACE", "--out", "OUT"]),
    (train.main, ["--config", "CONFIG", "--out", "OUT", "--init-from", "PLACE"]),
    (search.main, ["--space", "PLACE", "--config", "CONFIG", "--out", "OUT"]),
    (search.main, ["--space", "SPACE", "--config", "CONFIG", "--out", "PLACE", "--resume"]),
    (search.main, ["--space", "SPACE", "--config", "CONFIG", "--warm-start", "PLACE"]),
    (evaluate.main, ["--checkpoint", "PLACE"]),
    (predict.main, ["--checkpoint", "PLACE", "--out", "OUT", "CONFIG"]),
    (export.main, ["PLACE", "--out", "OUT"]),
    (report.main, ["PLACE"]),
    (status.main, ["PLACE"]),
    (stop_command.main, ["PLACE"]),
    (data_tools.main, ["check", "PLACE"]),
    (config_tools.main, ["PLACE"]),
]


@pytest.mark.parametrize(("main", "arguments"), READ)
def test_a_place_that_cannot_be_read_is_one_message(
    main: Main,
    arguments: list[str],
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").symlink_to("absent")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    places = [str(tmp_path / name) for name in ("empty", "broken", "pipe", "nul\0")]
    known = {**files, "OUT": str(tmp_path / "out")}
    for place in [*refused_places(tmp_path).values(), *places]:
        words = [known.get(word, word.replace("PLACE", place)) for word in arguments]
        assert main(words) == 2, words
        error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(error) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder; expected a YAML file"),
        ("pipe", "is a pipe or a device; expected a YAML file"),
        ("broken", "is a link to absent.yaml, which does not exist"),
        ("absent", "no such file"),
    ],
)
def test_a_config_that_is_no_file_is_named_with_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("absent.yaml")
    assert config_tools.main([str(tmp_path / name)]) == 2
    assert f"{tmp_path / name}: {message}" in capsys.readouterr().err


def test_an_error_without_a_path_is_a_bug_and_stays_a_traceback() -> None:
    def bug() -> int:
        raise OSError(errno.EBADF, "bad file descriptor")

    def value_bug() -> int:
        raise ValueError("embedded in the code")

    for command, kind in ((bug, OSError), (value_bug, ValueError)):
        with pytest.raises(kind):
            run_command(command, argparse.Namespace())
    own = Path(place_problem.__code__.co_filename).parent / "absent.jinja"
    assert place_problem(FileNotFoundError(errno.ENOENT, "no such file", str(own))) is None
    assert place_problem(OSError("no number")) is None
    assert place_problem(OSError(errno.EBADF, "bad file descriptor", 7)) is None


def test_a_full_disk_is_a_message_also_without_a_path() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "no space left on the disk; free some space" in (place_problem(full) or "")


def test_a_path_of_several_lines_is_one_line_of_the_message() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "a\nb")
    assert place_problem(error) == (
        "'a\\nb': permission denied; choose another place, or change who may use this one"
    )


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Let no file become larger than `num_bytes`, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_training_on_a_full_disk_ends_with_one_message_and_resumes(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = TrialDir(tmp_path / "out")
    words = ["--config", files["CONFIG"], "--out", str(out.path)]
    shorter = [*words, "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0.5"]
    # Weights have 1.4 MB, the state of the optimiser 2.9 MB.
    with full_disk(2_000_000):
        assert train.main(shorter) == 2
    assert f"error: {out.checkpoints}/last-00001: larger than the file" in capsys.readouterr().err
    best = out.checkpoints / "best-00001"
    assert [path.name for path in out.checkpoints.iterdir()] == [best.name]
    checkpoint.verify(best)
    assert out.read_epochs() == []
    assert out.read_verdict() is None
    with full_disk(1_000_000):
        assert train.main([*shorter, "--overwrite"]) == 2
    assert "best-00001: larger than the file" in capsys.readouterr().err
    assert train.main([*words, "--resume"]) == 0
    assert [record.epoch for record in out.read_epochs()] == [1, 2]


def test_an_epoch_that_was_written_in_part_does_not_damage_the_next(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    trial.append_epoch(EpochRecord(1, 10))
    size = trial.epochs.stat().st_size
    with full_disk(size + 20), pytest.raises(OSError, match=r"epochs\.jsonl"):
        trial.append_epoch(EpochRecord(2, 20))
    assert trial.epochs.stat().st_size == size
    trial.append_epoch(EpochRecord(2, 20))
    assert [record.step for record in trial.read_epochs()] == [10, 20]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "best.yaml"
    link.symlink_to("disk/best.yaml")
    for content in ("first", "second"):
        write_atomic(link, content)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "best.yaml").read_text() == content


def test_a_device_or_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, "table")
    assert os.read(reader, 100) == b"table"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        write_atomic(tmp_path / name, "a")
        assert create_once(tmp_path / name[:-1], "b")
        assert (tmp_path / name).read_text() == "a"


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    sync_folder(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        write_atomic(tmp_path / "file", "a")  # the file itself must be on the disk


def test_a_rename_that_fails_leaves_no_empty_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="full"):
            create_once(tmp_path / "a", "first")
    assert create_once(tmp_path / "a", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
