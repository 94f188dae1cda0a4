"""Laws of checkpoints: whole or absent, verified when read, and no more of them than needed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.config.schema import ExperimentConfig
from segtune.errors import CheckpointError
from segtune.training import checkpoint
from segtune.training.checkpoint import Kind, Manifest
from segtune.training.locate import find_checkpoint

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3)}


def manifest(epoch: int) -> Manifest:
    return Manifest(epoch, step=10 * epoch, lr=1e-4, miou=0.5, config=ExperimentConfig().dump())


def save(folder: Path, kind: Kind, epoch: int, state: Any = None) -> Path:
    state = state or {"optimizer": {"step": epoch}}
    return checkpoint.save(folder, kind, WEIGHTS, state, manifest(epoch))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = save(tmp_path, "last", 3)
    read = checkpoint.verify(path)
    assert (read.epoch, read.step, read.lr, read.miou) == (3, 30, 1e-4, 0.5)
    assert torch.equal(checkpoint.load_weights(path)["w"], WEIGHTS["w"])
    assert checkpoint.load_state(path) == {"optimizer": {"step": 3}}


def test_checkpoint_of_weights_only_cannot_be_resumed_from(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "best", WEIGHTS, None, manifest(1))
    with pytest.raises(CheckpointError, match="--init-from"):
        checkpoint.load_state(path)


def test_older_checkpoints_are_removed_and_one_spare_stays(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save(tmp_path, "last", epoch)
        save(tmp_path, "best", epoch)
    assert names_in(tmp_path) == ["best-00002", "best-00003", "last-00002", "last-00003"]


def test_checkpoints_of_later_epochs_are_removed_before_they_are_trained_again(
    tmp_path: Path,
) -> None:
    for epoch in (1, 2):
        save(tmp_path, "last", epoch)
        save(tmp_path, "best", epoch)
    checkpoint.remove_after(tmp_path, 1)
    assert names_in(tmp_path) == ["best-00001", "last-00001"]


def flip_last_bit(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [flip_last_bit, truncate, Path.unlink])
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
def test_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    save(tmp_path, "last", 1)
    newest = save(tmp_path, "last", 2)
    damage(newest / name)
    latest = checkpoint.last_good(tmp_path)
    assert latest is not None
    assert latest[0].name == "last-00001"
    assert latest[1].epoch == 1
    with pytest.raises(CheckpointError, match=name):
        checkpoint.verify(newest)


def test_checkpoint_up_to_an_epoch_comes_before_newer_ones(tmp_path: Path) -> None:
    first, second = save(tmp_path, "last", 1), save(tmp_path, "last", 3)

    def names() -> list[str]:
        found = (checkpoint.last_good(tmp_path, epoch) for epoch in (1, 2, 3, None))
        return [good[0].name for good in found if good]

    assert names() == [first.name, first.name, second.name, second.name]
    # Better a later checkpoint than none.
    flip_last_bit(first / checkpoint.WEIGHTS)
    assert names() == [second.name] * 4


def test_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, "last", 1)
    (path / checkpoint.MANIFEST).unlink()
    assert checkpoint.last_good(tmp_path) is None


def test_failure_while_saving_leaves_nothing_behind(tmp_path: Path) -> None:
    cannot_be_saved = {"optimizer": (number for number in range(3))}
    with pytest.raises(TypeError, match="generator"):
        save(tmp_path, "last", 1, cannot_be_saved)
    assert names_in(tmp_path) == []


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    save(tmp_path, "last", 1)
    (tmp_path / ".last-00002.1234abcd.tmp").mkdir()
    checkpoint.remove_incomplete(tmp_path)
    assert names_in(tmp_path) == ["last-00001"]


def test_resume_refuses_another_config_and_names_the_settings(tmp_path: Path) -> None:
    path = save(tmp_path, "last", 1)
    same_numbers = ExperimentConfig().override({"data.num_loaders": 2})
    checkpoint.check_same_run(path, checkpoint.verify(path), same_numbers)
    other_numbers = ExperimentConfig().override({"optim.lr": 1e-3})
    with pytest.raises(CheckpointError, match=r"optim.lr: 0.001 here, 6e-05 there"):
        checkpoint.check_same_run(path, checkpoint.verify(path), other_numbers)


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, "best", 1)
    with pytest.raises(CheckpointError, match=r"weight is missing.*w is unknown"):
        checkpoint.load_into(torch.nn.Linear(2, 2), path)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "harm"), "w"))

    path = save(tmp_path, "last", 1, {"optimizer": Harmful()})
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_state(path)
    assert not (tmp_path / "harm").exists()


def test_folder_of_a_training_run_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints", "last", 4)
    save(tmp_path / "checkpoints", "best", 2)
    assert find_checkpoint(tmp_path).name == "best-00002"
    with pytest.raises(CheckpointError, match="nowhere: no checkpoint; expected"):
        find_checkpoint(tmp_path / "nowhere")
