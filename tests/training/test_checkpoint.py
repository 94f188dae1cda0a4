"""Laws of checkpoints: whole or absent, checked when read, and never more than asked for."""

import pytest
import torch

from segtune.config.schema import ExperimentConfig
from segtune.errors import CheckpointError
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3)}


def manifest(epoch, **changes):
    return Manifest(epoch, epoch * 10, 1e-4, 0.5, ExperimentConfig().override(changes).dump())


def save(folder, kind, epoch):
    return checkpoint.save(folder, kind, WEIGHTS, {"optimizer": {"step": epoch}}, manifest(epoch))


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path, "last", 3)
    assert checkpoint.verify(path).epoch == 3
    assert torch.equal(checkpoint.load_weights(path)["w"], WEIGHTS["w"])
    assert checkpoint.load_state(path) == {"optimizer": {"step": 3}}


def test_older_ones_go_and_one_spare_stays(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path, "last", epoch)
        save(tmp_path, "best", epoch)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-00002",
        "best-00003",
        "last-00002",
        "last-00003",
    ]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
def test_damaged_newest_falls_back_to_the_one_before(tmp_path, damage, name):
    save(tmp_path, "last", 1)
    file = save(tmp_path, "last", 2) / name
    data = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "truncate":
            file.write_bytes(data[: len(data) // 2])
        case "remove":
            file.unlink()
    found = checkpoint.last_good(tmp_path)
    assert found is not None
    assert found[0].name == "last-00001"
    with pytest.raises(CheckpointError, match=name):
        checkpoint.verify(tmp_path / "last-00002")


def test_half_written_folder_is_no_checkpoint(tmp_path):
    path = save(tmp_path, "last", 1)
    (path / checkpoint.MANIFEST).unlink()
    assert checkpoint.last_good(tmp_path) is None


def test_crash_while_saving_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoint, "write_atomic", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError):
        save(tmp_path, "last", 1)
    assert list(tmp_path.iterdir()) == []


def test_resume_refuses_another_config_and_names_the_settings(tmp_path):
    path = save(tmp_path, "last", 1)
    same = ExperimentConfig().override({"data.num_loaders": 2})
    checkpoint.check_same_run(path, checkpoint.verify(path), same)
    with pytest.raises(CheckpointError, match=r"optim.lr: 0.001 here, 6e-05 there"):
        checkpoint.check_same_run(
            path, checkpoint.verify(path), ExperimentConfig().override({"optim.lr": 1e-3})
        )


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = save(tmp_path, "best", 1)
    with pytest.raises(CheckpointError, match=r"weight is missing.*w is unknown"):
        checkpoint.load_into(torch.nn.Linear(2, 2), path)


def test_pickled_code_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    path = checkpoint.save(tmp_path, "last", WEIGHTS, {"x": Harmful()}, manifest(1))
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        checkpoint.load_state(path)
    assert not (tmp_path / "harm").exists()


def test_run_folder_stands_for_its_best_checkpoint(tmp_path):
    save(tmp_path / "checkpoints", "last", 4)
    save(tmp_path / "checkpoints", "best", 2)
    assert checkpoint.find(tmp_path).name == "best-00002"
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        checkpoint.find(tmp_path / "nowhere")
