"""Laws of the training loop: a resumed run equals an unbroken one, and ranks agree."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segtune.api import run_training
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.layouts import class_names
from segtune.data.loader import ValLoader
from segtune.errors import CheckpointError, RunError
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import TrialDir
from segtune.training import checkpoint
from segtune.training.distributed import Ranks
from segtune.training.evaluation import evaluate
from segtune.training.locate import find_checkpoint
from segtune.training.prediction import load_model
from segtune.training.trainer import Trainer, TrialCancelled

RunOnTwoRanks = Callable[..., list[str]]

EXACT_RESUME = {"schedule.epochs": 4, "model.drop_path": 0.3, "augment.cutout.prob": 0.5}


def train(trainer: Trainer, last_epoch: int | None = None) -> Trainer:
    """Train to the end, or abandon the training run after `last_epoch`."""
    for record in trainer.epochs():
        if record.epoch == last_epoch:
            break
    return trainer


def start(config: ExperimentConfig, path: Path, **options: Any) -> Trainer:
    return Trainer.start(config, TrialDir(path), Ranks(), **options)


def resume(config: ExperimentConfig, path: Path) -> Trainer:
    return Trainer.resume(config, TrialDir(path), Ranks())


def without_times(path: Path) -> list[EpochRecord]:
    return [replace(record, seconds=0, ended=0) for record in TrialDir(path).read_epochs()]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def confusion_matrix(
    model: nn.Module, config: ExperimentConfig, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Return the confusion matrix over the validation images of one rank."""
    num_classes = len(class_names(config.data))
    data = ValLoader(config, rank, world_size)
    return evaluate(model, data, Ranks(), config, num_classes, torch.float32).matrix


def test_training_run_leaves_records_checkpoints_and_a_verdict(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    result = run_training(tiny_config, tmp_path / "a")
    trial = TrialDir(tmp_path / "a")
    assert result.verdict.state == "completed"
    assert result.verdict.ended is not None
    records = trial.read_epochs()
    assert [record.epoch for record in records] == [1, 2]
    assert set(records[-1].losses) == {"loss", "focal", "dice"}
    assert [record.lr > 0 for record in records] == [True, False]  # the last step has eta_min
    scores = records[-1].validation
    assert scores is not None
    assert len(scores.class_iou) == len(class_names(tiny_config.data))
    assert 0 < scores.aacc <= 1
    assert 0 < scores.macc <= 1
    assert result.best_miou == max(record.miou or 0 for record in records)
    assert result.checkpoint == checkpoint.best_checkpoint(trial.checkpoints)
    assert result.checkpoint is not None
    with pytest.raises(RunError, match="already; continue it with --resume"):
        run_training(tiny_config, tmp_path / "a")


def test_constructor_changes_nothing_in_a_used_folder(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path))
    before = files_in(tmp_path)
    Trainer(tiny_config.override({"optim.lr": 0.5}), TrialDir(tmp_path), Ranks())
    assert files_in(tmp_path) == before


def test_constructor_creates_nothing(tiny_config: ExperimentConfig, tmp_path: Path) -> None:
    Trainer(tiny_config, TrialDir(tmp_path / "new"), Ranks())
    assert not (tmp_path / "new").exists()


def test_start_refuses_a_used_folder_and_changes_nothing(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path), last_epoch=1)
    before = files_in(tmp_path)
    with pytest.raises(RunError, match="holds a training run already; continue it with --resume"):
        start(tiny_config.override({"optim.lr": 0.5}), tmp_path)
    assert files_in(tmp_path) == before


def test_overwrite_replaces_the_training_run_in_the_folder(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path / "a"))
    shorter = tiny_config.override({"schedule.epochs": 1, "seed": 1})
    train(start(shorter, tmp_path / "b"))

    trainer = start(shorter, tmp_path / "a", overwrite=True)
    trial = trainer.out
    assert trial.read_epochs() == []
    assert trial.read_verdict() is None
    assert list(trial.checkpoints.iterdir()) == []
    train(trainer)

    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    names = [path.name for path in sorted(trial.checkpoints.iterdir())]
    assert names == ["best-00001", "last-00001"]
    assert trial.config.read_text() == write_yaml(shorter.dump())


def test_resume_in_an_empty_folder_starts_from_the_beginning(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path / "started"))
    train(resume(tiny_config, tmp_path / "resumed"))
    assert without_times(tmp_path / "started") == without_times(tmp_path / "resumed")


def test_resumed_training_run_equals_an_unbroken_one_bit_for_bit(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override(EXACT_RESUME)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(start(config, whole))
    train(start(config, broken), last_epoch=2)
    train(resume(config, broken))
    assert len(without_times(whole)) == 4
    assert without_times(whole) == without_times(broken)
    ours, theirs = (
        checkpoint.load_weights(path / "checkpoints" / "last-00004") for path in (whole, broken)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_training_run_goes_on_from_an_epoch_at_which_it_was_to_write_a_full_checkpoint(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({**EXACT_RESUME, "checkpoint.every": 4})
    whole, paused = tmp_path / "whole", tmp_path / "paused"
    train(start(config, whole))
    # Its ranks noticed the pause at epoch 1 only after epoch 2.
    train(start(config, paused, full_checkpoints=(1, 2)), last_epoch=2)
    full = sorted(path.name for path in (paused / "checkpoints").glob("last-*"))
    assert full == ["last-00001", "last-00002"]
    resumed = Trainer.resume(config, TrialDir(paused), Ranks(), epoch=1)
    assert resumed.epoch == 1
    assert [record.epoch for record in resumed.out.read_epochs()] == [1]
    train(resumed)
    assert without_times(whole) == without_times(paused)


def test_loader_processes_do_not_change_the_numbers(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"model.drop_path": 0.5, "schedule.epochs": 3})
    for num_loaders in (0, 1):
        loaders = {"data.num_loaders": num_loaders}
        train(start(config.override(loaders), tmp_path / str(num_loaders)))
    assert without_times(tmp_path / "0") == without_times(tmp_path / "1")


def test_random_state_of_the_caller_is_neither_used_nor_changed(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"model.drop_path": 0.3, "augment.cutout.prob": 0.5})
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        of_python, of_numpy, of_torch = (
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
        )

        train(start(config, tmp_path / str(seed)))

        assert random.getstate() == of_python
        assert all(map(np.array_equal, np.random.get_state(), of_numpy))
        assert torch.equal(torch.get_rng_state(), of_torch)
    assert without_times(tmp_path / "1") == without_times(tmp_path / "2")


def test_resume_refuses_a_new_learning_rate_and_names_init_from(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path))
    before = files_in(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        resume(tiny_config.override({"optim.lr": 6e-6}), tmp_path)
    first, *changed, way_out = str(refusal.value).splitlines()
    assert first.endswith("--resume continues a training run exactly, but these settings differ:")
    assert changed == ["  optim.lr: 6e-06 here, 0.001 there"]
    assert way_out.endswith(f"no --resume, another --out, and --init-from {tmp_path}")
    assert files_in(tmp_path) == before
    # The way out works.
    train(start(tiny_config.override({"optim.lr": 6e-6}), tmp_path / "new", init_from=tmp_path))


def test_init_from_takes_weights_only_and_warns_of_a_large_rate(
    tiny_config: ExperimentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(start(tiny_config.override({"schedule.eta_min": 1e-5}), tmp_path / "a"))
    config = tiny_config.override({"optim.lr": 0.1})
    trainer = start(config, tmp_path / "b", init_from=tmp_path / "a")
    saved = checkpoint.load_weights(find_checkpoint(tmp_path / "a"))
    weights = trainer.model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in weights.items())
    assert (trainer.epoch, trainer.step) == (0, 0)
    assert "far above the rate at which" in caplog.text


@pytest.mark.parametrize(("lr", "warns"), [(1e-4, False), (1.1e-4, True)])
def test_init_from_a_finished_run_warns_above_a_tenth_of_its_peak_rate(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lr: float,
    warns: bool,
) -> None:
    # Peak 1e-3, 0 at the end. The only validation is that of the last epoch.
    train(start(tiny_config.override({"schedule.val_every": 2}), tmp_path / "a"))
    start(tiny_config.override({"optim.lr": lr}), tmp_path / "b", init_from=tmp_path / "a")
    assert ("far above the rate at which" in caplog.text) == warns


def test_resume_before_the_first_checkpoint_goes_on_from_the_weights_of_init_from(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path / "a"))
    unbroken = start(tiny_config, tmp_path / "b", init_from=tmp_path / "a")
    expected = train(unbroken).out.read_epochs()
    start(tiny_config, tmp_path / "c", init_from=tmp_path / "a")  # and it is killed
    shutil.rmtree(tmp_path / "a")
    epochs = train(resume(tiny_config, tmp_path / "c")).out.read_epochs()
    assert epochs[0].init_miou is not None
    assert [(e.losses, e.miou, e.init_miou) for e in epochs] == [
        (e.losses, e.miou, e.init_miou) for e in expected
    ]


def test_resume_without_a_checkpoint_starts_from_init_from(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    train(start(tiny_config, tmp_path / "a"))
    expected = train(start(tiny_config, tmp_path / "b", init_from=tmp_path / "a")).out.read_epochs()
    out = TrialDir(tmp_path / "c")
    trainer = Trainer.resume(tiny_config, out, Ranks(), init_from=tmp_path / "a")
    epochs = train(trainer).out.read_epochs()
    assert [(e.losses, e.init_miou) for e in epochs] == [(e.losses, e.init_miou) for e in expected]


def test_accumulation_counts_optimiser_steps(tiny_config: ExperimentConfig, tmp_path: Path) -> None:
    changes = {
        "schedule.accumulate": 2,
        "schedule.epochs": 1,
        "schedule.warmup_epochs": 0.0,
    }
    trainer = train(start(tiny_config.override(changes), tmp_path))
    assert trainer.step == trainer.train_data.steps_per_epoch == 3


@pytest.mark.parametrize("clip", [None, 1.0])
def test_training_run_that_is_not_finite_ends_with_its_reason(
    tiny_config: ExperimentConfig, tmp_path: Path, clip: float | None
) -> None:
    changes = {
        "optim.name": "sgd",
        "optim.lr": 1e30,
        "optim.clip_norm": clip,
        "schedule.warmup_epochs": 0.0,
    }
    trainer = train(start(tiny_config.override(changes), tmp_path))
    verdict = trainer.out.read_verdict()
    assert verdict is not None
    assert verdict.override({"ended": None}) == trainer.verdict
    assert (verdict.state, verdict.kind) == ("unhealthy", "non-finite")
    assert "at step" in verdict.evidence
    assert "optim.lr 1e+29" in verdict.advice


class MemoryForTwoImages:
    """A forward hook that refuses batches of more than two images, as the allocator would."""

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_step_that_does_not_fit_ends_the_training_run_of_a_single_rank(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    trainer = start(tiny_config, tmp_path)
    trainer.network.register_forward_pre_hook(MemoryForTwoImages())
    assert list(trainer.epochs()) == []
    verdict = trainer.out.read_verdict()
    assert verdict is not None
    assert verdict.override({"ended": None}) == trainer.verdict
    assert (verdict.state, verdict.kind, verdict.step) == ("unhealthy", "out-of-memory", 0)
    assert verdict.advice == "2 fit: try schedule.accumulate 4, or schedule.batch_size 2"


class TrainerWithScores(Trainer):
    """A trainer whose validations give these scores, one per epoch."""

    mious = (0.1, 0.2, 0.15, 0.1, 0.9)

    def _validate(self) -> ValidationScores:
        return ValidationScores(miou=self.mious[self.epoch], constant_miou=0.05)


def test_resumed_training_run_keeps_the_best_checkpoint_of_its_own_past(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"schedule.epochs": 6, "checkpoint.every": 3})
    # Better at epoch 2, and better still at epoch 5, which is lost with the process.
    trainer = train(TrainerWithScores.start(config, TrialDir(tmp_path), Ranks()), last_epoch=5)
    names = sorted(path.name for path in trainer.out.checkpoints.iterdir())
    assert names == ["best-00002", "best-00005", "last-00003"]
    resumed = resume(config, tmp_path)
    names = sorted(path.name for path in resumed.out.checkpoints.iterdir())
    assert names == ["best-00002", "last-00003"]
    assert [record.epoch for record in resumed.out.read_epochs()] == [1, 2, 3]
    assert resumed.best_miou == 0.2
    assert resumed.health.first_loss == trainer.health.first_loss


def test_reading_a_step_late_changes_nothing(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lag in (0, 3):
        monkeypatch.setattr("segtune.training.train_step.LAG", lag)
        train(start(tiny_config, tmp_path / str(lag)))
    assert without_times(tmp_path / "0") == without_times(tmp_path / "3")


def test_cancelled_training_run_ends_in_the_middle_of_an_epoch_without_a_verdict(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    is_cancelled = False
    trainer = start(tiny_config, tmp_path)
    epochs = trainer.epochs(should_stop=lambda: is_cancelled)
    next(epochs)
    is_cancelled = True
    with pytest.raises(TrialCancelled):
        next(epochs)
    records = trainer.out.read_epochs()
    assert [record.epoch for record in records] == [1]
    assert set(records[0].losses) == {"loss", "focal", "dice"}
    assert trainer.verdict is None
    assert not trainer.out.verdict.exists()


def test_compiled_network_learns_the_same(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = train(start(tiny_config, tmp_path / "eager"))
    torch._dynamo.utils.counters.clear()
    # All of torch.compile but its last part, which would call a C++ compiler for minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = train(start(tiny_config.override({"optim.compile": True}), tmp_path / "compiled"))
    # One graph: nothing in the network breaks it. Validation, whose images have many sizes, runs
    # without compilation.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    expected, record = (trainer.out.read_epochs()[-1] for trainer in (eager, compiled))
    assert record.losses["loss"] == pytest.approx(expected.losses["loss"], rel=1e-4)
    assert record.miou == pytest.approx(expected.miou, abs=1e-3)


def test_validations_of_two_ranks_add_up_to_that_of_one(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    network = Trainer(tiny_config, TrialDir(tmp_path), Ranks()).network
    whole = confusion_matrix(network, tiny_config)
    first, second = (confusion_matrix(network, tiny_config, rank, 2) for rank in (0, 1))
    assert min(int(first.sum()), int(second.sum())) > 0
    assert torch.equal(whole, first + second)


def test_batches_of_validation_score_as_one_image_at_a_time(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Images of two sizes; a batch holds images of one size only.
    root = tmp_path / "mixed"
    shutil.copytree(tiny_config.data.root, root)
    for path in sorted((root / "JPEGImages").iterdir())[::2]:
        for file in (path, root / "SegmentationClass" / f"{path.stem}.png"):
            with Image.open(file) as image:
                cropped = image.crop((0, 0, 64, 48))
            cropped.save(file)
    changes = {"data.root": str(root), "data.layout": "voc", "schedule.epochs": 1}
    config = tiny_config.override(changes)
    network = train(start(config, tmp_path / "a")).network
    matrices, num_batches = [], []
    for batch_size in (8, 1):
        monkeypatch.setattr("segtune.data.loader.VAL_BATCH", batch_size)
        matrices.append(confusion_matrix(network, config))
        num_batches.append(len(list(ValLoader(config, 0, 1))))
    assert num_batches == [2, 7]
    assert torch.equal(*matrices)


@pytest.mark.slow
def test_two_ranks_under_torchrun_agree_with_one(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    # Under plain SGD without momentum and a tiny rate the weights hardly move, so both runs score
    # the same model.
    changes = {
        "optim.name": "sgd",
        "optim.lr": 1e-12,
        "schedule.epochs": 1,
        "schedule.warmup_epochs": 0.0,
    }
    config = tiny_config.override(changes)
    (one,) = train(start(config, tmp_path / "one")).out.read_epochs()
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(config.override({"model.sync_norms": True}).dump()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = ["-m", "segtune.train", "--config", str(file), "--out", str(tmp_path / "two")]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", *command],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "model.sync_norms: torch synchronises batch norms on GPUs only" in done.stderr
    (two,) = TrialDir(tmp_path / "two").read_epochs()
    assert one.validation is not None
    assert two.validation is not None
    assert one.validation.class_iou == pytest.approx(two.validation.class_iou, abs=2e-3)
    assert one.losses["loss"] == pytest.approx(two.losses["loss"], rel=0.05)
    # The record holds the score of the saved model, although the batch norms of each rank have seen
    # other images.
    model, _, _ = load_model(str(tmp_path / "two"), None, torch.device("cpu"))
    data = ValLoader(config, 0, 1)
    num_classes = len(class_names(config.data))
    matrix = evaluate(model, data, Ranks(), config, num_classes, torch.float32)
    assert two.miou == pytest.approx(float(matrix.summary()["mIoU"]), abs=1e-5)


CANCEL_ON_RANK_1 = """
import sys
from pathlib import Path

from segtune.config.schema import load_config
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer, TrialCancelled

ranks = Ranks.join("cpu")
trainer = Trainer.start(load_config(sys.argv[1]), TrialDir(Path(sys.argv[2])), ranks)
try:
    # In the second epoch, which has the steps 4 to 6.
    for record in trainer.epochs(lambda: ranks.rank == 1 and trainer.step == 3):
        pass
except TrialCancelled:
    sys.stdout.write(f"rank {ranks.rank}: cancelled, {trainer.step} steps\\n")
ranks.close()
"""


@pytest.mark.slow
def test_ranks_end_together_if_one_of_them_is_cancelled(
    tiny_config: ExperimentConfig, tmp_path: Path, run_on_two_ranks: RunOnTwoRanks
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(write_yaml(tiny_config.dump()))
    lines = run_on_two_ranks(CANCEL_ON_RANK_1, config, tmp_path / "run")
    assert lines == ["rank 0: cancelled, 6 steps", "rank 1: cancelled, 6 steps"]
    trial = TrialDir(tmp_path / "run")
    assert [record.epoch for record in trial.read_epochs()] == [1]
    assert trial.read_verdict() is None


NO_MEMORY_ON_RANK_1 = """
import sys
from pathlib import Path

from segtune.config.schema import load_config
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.memory import OutOfMemoryError
from segtune.training.trainer import Trainer
from segtune.training.locate import find_checkpoint

def refuse(module, inputs):
    if len(inputs[0]) > 2:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

ranks = Ranks.join("cpu")
trainer = Trainer.start(load_config(sys.argv[1]), TrialDir(Path(sys.argv[2])), ranks)
if ranks.rank == 1:
    trainer.network.register_forward_pre_hook(refuse)
try:
    list(trainer.epochs())
except OutOfMemoryError as error:
    sys.stdout.write(f"rank {ranks.rank}: {error}\\n")
except RuntimeError:
    sys.stdout.write(f"rank {ranks.rank}: lost the other rank\\n")
ranks.close()
"""


@pytest.mark.slow
def test_step_that_does_not_fit_on_one_of_two_ranks_raises_and_leaves_a_verdict(
    tiny_config: ExperimentConfig, tmp_path: Path, run_on_two_ranks: RunOnTwoRanks
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(write_yaml(tiny_config.dump()))
    lines = run_on_two_ranks(NO_MEMORY_ON_RANK_1, config, tmp_path / "run")
    verdict = TrialDir(tmp_path / "run").read_verdict()
    assert verdict is not None
    assert verdict.kind == "out-of-memory"
    assert lines == ["rank 0: lost the other rank", f"rank 1: {verdict.reason}"]
