"""Laws of the training loop: resumed equals unbroken, ranks agree, nothing non-finite leaves it."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image

from segtune.api import run_training
from segtune.config.yaml_io import write_yaml
from segtune.data.layouts import class_names
from segtune.data.loader import ValLoader
from segtune.errors import CheckpointError, RunError
from segtune.runs.rundir import TrialDir
from segtune.training import checkpoint
from segtune.training.distributed import Ranks
from segtune.training.evaluation import evaluate
from segtune.training.memory import largest_that_fits
from segtune.training.prediction import load_model
from segtune.training.train_step import TrialCancelled
from segtune.training.trainer import Trainer


def train(config, path, epochs=None, **options):
    trainer = Trainer(config, TrialDir(path), Ranks(), **options)
    for report in trainer.epochs():
        if report.epoch == epochs:
            break
    return trainer


def without_times(trial):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "ended")}
        for row in trial.read_epochs()
    ]


def test_run_leaves_rows_checkpoints_and_a_verdict(tiny_config, tmp_path):
    result = run_training(tiny_config, tmp_path / "a")
    trial = TrialDir(tmp_path / "a")
    assert result.verdict.state == "completed"
    assert [row["epoch"] for row in trial.read_epochs()] == [1, 2]
    assert {"loss", "focal", "dice", "lr", "miou", "aacc", "macc", "class_iou"} <= set(
        trial.read_epochs()[-1]
    )
    assert result.best_miou == max(row["miou"] for row in trial.read_epochs())
    assert result.checkpoint is not None
    with pytest.raises(RunError, match="holds a training run already"):
        run_training(tiny_config, tmp_path / "a")


def test_resumed_run_equals_an_unbroken_one_bit_for_bit(tiny_config, tmp_path):
    config = tiny_config.override(
        {
            "schedule.epochs": 4,
            "checkpoint.every": 1,
            "model.drop_path": 0.3,
            "augment.cutout.prob": 0.5,
        }
    )
    train(config, tmp_path / "whole")
    train(config, tmp_path / "broken", epochs=2)
    train(config, tmp_path / "broken", resume=True)
    whole, broken = TrialDir(tmp_path / "whole"), TrialDir(tmp_path / "broken")
    assert without_times(whole) == without_times(broken)
    ours, theirs = (checkpoint.load_weights(t.checkpoints / "last-00004") for t in (whole, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_loader_processes_do_not_change_the_numbers(tiny_config, tmp_path):
    config = tiny_config.override({"model.drop_path": 0.5, "schedule.epochs": 3})
    for loaders in (0, 1):
        train(config.override({"data.num_loaders": loaders}), tmp_path / str(loaders))
    assert without_times(TrialDir(tmp_path / "0")) == without_times(TrialDir(tmp_path / "1"))


def test_resume_refuses_a_new_learning_rate(tiny_config, tmp_path):
    train(tiny_config, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"optim\.lr"):
        train(tiny_config.override({"optim.lr": 0.5}), tmp_path / "a", resume=True)


def test_init_from_takes_weights_only_and_warns_of_a_large_rate(tiny_config, tmp_path, caplog):
    train(tiny_config.override({"schedule.eta_min": 1e-5}), tmp_path / "a")
    trainer = Trainer(
        tiny_config.override({"optim.lr": 0.1}),
        TrialDir(tmp_path / "b"),
        Ranks(),
        init_from=tmp_path / "a",
    )
    saved = checkpoint.load_weights(checkpoint.find(tmp_path / "a"))
    assert all(
        torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items()
    )
    assert (trainer.finished, trainer.step) == (0, 0)
    assert "times the rate at which" in caplog.text


def test_accumulation_counts_optimiser_steps(tiny_config, tmp_path):
    trainer = train(
        tiny_config.override(
            {"schedule.accumulate": 2, "schedule.epochs": 1, "schedule.warmup_epochs": 0.0}
        ),
        tmp_path / "a",
    )
    assert trainer.step == trainer.train_data.steps_per_epoch


@pytest.mark.parametrize("clip", [None, 1.0])
def test_non_finite_run_ends_with_its_reason_and_healthy_weights(tiny_config, tmp_path, clip):
    config = tiny_config.override(
        {
            "optim.name": "sgd",
            "optim.lr": 1e30,
            "optim.clip_norm": clip,
            "schedule.warmup_epochs": 0.0,
        }
    )
    trainer = train(config, tmp_path / "a")
    verdict = TrialDir(tmp_path / "a").read_verdict()
    assert verdict is not None
    assert verdict == trainer.verdict
    assert (verdict.state, verdict.kind) == ("unhealthy", "non-finite")
    assert "at step" in verdict.evidence
    assert "optim.lr 1e+29" in verdict.advice


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize(
    ("optimizer", "moment"), [("adamw", "exp_avg"), ("sgd", "momentum_buffer")]
)
def test_step_that_is_not_finite_leaves_weights_and_moments_alone(
    tiny_config, tmp_path, optimizer, moment, earlier
):
    trainer = Trainer(tiny_config.override({"optim.name": optimizer}), TrialDir(tmp_path), Ranks())
    batch = next(trainer.train_data.epoch(1))
    for _ in range(earlier):
        trainer.steps.run([batch], step=1, lr=0.1)
    before = [value.clone() for value in trainer.model.parameters()]
    moments = [
        trainer.optimizer.state.get(p, {}).get(moment, torch.zeros_like(p)).clone()
        for p in trainer.model.parameters()
    ]
    trainer.steps.loss.weights.fill_(float("nan"))
    losses, norm = trainer.steps.run([batch], step=2, lr=0.1).read()
    assert all(number != number for number in (losses["loss"], norm))
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert all(
        map(
            torch.equal,
            moments,
            (trainer.optimizer.state[p][moment] for p in trainer.model.parameters()),
        )
    )


def test_what_fits_is_found_on_one_rank_alone_after_a_backward_that_broke_off(
    tiny_config, tmp_path
):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        trainer = Trainer(tiny_config, TrialDir(tmp_path / "a"), Ranks())
        trainer.steps.model = torch.nn.parallel.DistributedDataParallel(trainer.model)
        batch = next(trainer.train_data.epoch(1))

        def full(_):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        hook = next(trainer.model.parameters()).register_hook(
            full
        )  # of the first layer: the last one of a backward pass
        with pytest.raises(RuntimeError, match="allocate"):
            trainer.steps.run([batch], step=1, lr=0.1)
        hook.remove()
        assert largest_that_fits(partial(trainer.steps.probe_memory, batch), 8) == 4
    finally:
        torch.distributed.destroy_process_group()


def test_resumed_run_keeps_the_best_of_its_own_past(tiny_config, tmp_path):
    config = tiny_config.override({"schedule.epochs": 6, "checkpoint.every": 3})
    trainer = Trainer(config, TrialDir(tmp_path), Ranks())
    # mIoU as if by hand: better at 2, better still at 5, which is lost with the process.
    scores = iter([0.1, 0.2, 0.15, 0.1, 0.9])
    trainer._validate = lambda: {"miou": next(scores), "constant_miou": 0.05}
    for report in trainer.epochs():
        if report.epoch == 5:
            break
    assert sorted(path.name for path in trainer.out.checkpoints.iterdir()) == [
        "best-00002",
        "best-00005",
        "last-00003",
    ]
    again = Trainer(config, TrialDir(tmp_path), Ranks(), resume=True)
    assert sorted(path.name for path in again.out.checkpoints.iterdir()) == [
        "best-00002",
        "last-00003",
    ]
    assert again.best_miou == 0.2
    assert again.health.first_loss == trainer.health.first_loss


def test_reading_a_step_late_changes_nothing(tiny_config, tmp_path, monkeypatch):
    for lag in (0, 3):
        monkeypatch.setattr("segtune.training.train_step.LAG", lag)
        train(tiny_config, tmp_path / str(lag))
    assert without_times(TrialDir(tmp_path / "0")) == without_times(TrialDir(tmp_path / "3"))


def test_run_is_left_in_the_middle_of_an_epoch_without_a_verdict(tiny_config, tmp_path):
    asked = []
    trainer = Trainer(tiny_config, TrialDir(tmp_path), Ranks())
    epochs = trainer.epochs(should_stop=lambda: bool(asked))
    next(epochs)
    asked.append("leave")
    with pytest.raises(TrialCancelled):
        next(epochs)
    rows = TrialDir(tmp_path).read_epochs()
    assert [row["epoch"] for row in rows] == [1]
    assert "leaving" not in rows[0]
    assert not TrialDir(tmp_path).verdict.exists()


def test_compiled_network_learns_the_same(tiny_config, tmp_path, monkeypatch):
    train(tiny_config, tmp_path / "eager")
    torch._dynamo.utils.counters.clear()
    # The whole of torch.compile but the last part, which would call a C++ compiler for minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    train(tiny_config.override({"optim.compile": True}), tmp_path / "compiled")
    # One graph: nothing in the network breaks it, and validation, with images of many sizes, does without.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    eager, compiled = (
        TrialDir(tmp_path / name).read_epochs()[-1] for name in ("eager", "compiled")
    )
    assert eager["loss"] == pytest.approx(compiled["loss"], rel=1e-4)
    assert eager["miou"] == pytest.approx(compiled["miou"], abs=1e-3)


def test_shards_of_validation_add_up_to_the_whole(tiny_config, tmp_path):
    config = tiny_config
    trainer = Trainer(config, TrialDir(tmp_path / "a"), Ranks())
    counts = [
        evaluate(
            trainer.model,
            ValLoader(config, r, n),
            Ranks(),
            config,
            len(trainer.classes),
            torch.float32,
        )
        for r, n in ((0, 1), (0, 2), (1, 2))
    ]
    assert int(counts[1].matrix.sum()) > 0
    assert torch.equal(counts[0].matrix, counts[1].matrix + counts[2].matrix)


def test_batches_of_validation_score_as_one_image_at_a_time(tiny_config, tmp_path, monkeypatch):
    # Images of two sizes, in a batch only with their like.
    root = tmp_path / "mixed"
    shutil.copytree(tiny_config.data.root, root)
    for path in sorted((root / "JPEGImages").iterdir())[::2]:
        for file in (path, root / "SegmentationClass" / f"{path.stem}.png"):
            with Image.open(file) as image:
                cut = image.crop((0, 0, 64, 48))
            cut.save(file)
    config = tiny_config.override({"data.root": str(root), "data.layout": "voc"})
    model = train(config.override({"schedule.epochs": 1}), tmp_path / "a").model
    counts = []
    for batch in (8, 1):
        monkeypatch.setattr("segtune.data.loader.VAL_BATCH", batch)
        counts.append(
            evaluate(
                model,
                ValLoader(config, 0, 1),
                Ranks(),
                config,
                len(class_names(config.data)),
                torch.float32,
            ).matrix
        )
    assert len(ValLoader(config, 0, 1)._loader) == 7
    assert torch.equal(*counts)


@pytest.mark.slow
def test_two_ranks_under_torchrun_agree_with_one(tiny_config, tmp_path):
    # Under plain SGD without momentum and a tiny rate the weights hardly move, so both runs score the same model.
    changes = {
        "optim.name": "sgd",
        "optim.lr": 1e-12,
        "schedule.epochs": 1,
        "schedule.warmup_epochs": 0.0,
    }
    config = tiny_config.override(changes)
    train(config, tmp_path / "one")
    (tmp_path / "c.yaml").write_text(write_yaml(config.override({"model.sync_norms": True}).dump()))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "segtune.train", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "two"),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "model.sync_norms: torch has it for GPUs only" in done.stderr
    one, two = (
        json.loads((tmp_path / name / "epochs.jsonl").read_text()) for name in ("one", "two")
    )
    assert one["class_iou"] == pytest.approx(two["class_iou"], abs=2e-3)
    assert one["loss"] == pytest.approx(two["loss"], rel=0.05)
    # What was told is the score of what was saved, although each rank's batch norms had seen other images.
    model, _, _ = load_model(str(tmp_path / "two"), None, torch.device("cpu"))
    matrix = evaluate(
        model,
        ValLoader(config, 0, 1),
        Ranks(),
        config,
        len(class_names(config.data)),
        torch.float32,
    )
    assert two["miou"] == pytest.approx(float(matrix.summary()["mIoU"]), abs=1e-5)
