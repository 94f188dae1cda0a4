"""What `segtune train` shows while it trains: a bar on a terminal, lines elsewhere."""

import fcntl
import io
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from rich.console import Console

from segtune.api import run_training
from segtune.config.schedule_config import ScheduleConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.loader import ValBatch
from segtune.reporting.training_pace import TrainingPace
from segtune.reporting.training_progress import (
    ProgressBarOfTraining,
    ProgressLines,
    bar,
    details,
    title,
    training_progress,
)
from segtune.runs.records import EpochRecord
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training.listener import TrainingListener, TrainingRun
from segtune.training.train_step import StepResult

COLUMNS = 80
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def result(step: int) -> StepResult:
    return StepResult(step, 1e-3, {"loss": 0.5}, 1.0, None, True, False)


def validated(num_images: int) -> tuple[ValBatch, torch.Tensor]:
    empty = torch.empty(0)
    return ValBatch(empty, empty, ["x"] * num_images), empty


def make_run(config: ExperimentConfig, path: Path, steps: int = 100) -> TrainingRun:
    names = tuple(map(str, range(10)))
    return TrainingRun(config, TrialDir(path), ("a",), torch.device("cpu"), 0, 0, steps, names)


def test_time_left_counts_the_steps_and_validations_that_remain() -> None:
    clock = Clock()
    schedule = ScheduleConfig.parse(
        {"epochs": 4, "val_every": 2, "batch_size": 8, "warmup_epochs": 1}
    )
    pace = TrainingPace(schedule, 100, 10, clock)
    assert (pace.epoch_left_s, pace.left_s, pace.images_per_s) == (None, None, None)
    pace.begin_epoch(1, 0)
    for step in range(1, 12):  # 2 s each
        pace.count_step(step, 0.5, 1e-3)
        clock.now += 2
    assert pace.images_per_s == 4
    # 89 steps of this epoch and 300 later ones; no validation has been timed yet.
    assert (pace.epoch_left_s, pace.left_s) == (178, 778)
    pace.begin_epoch(2, 100)
    pace.count_step(200, 0.5, 1e-3)
    pace.count_validated(2)
    clock.now += 6
    pace.count_validated(4)
    assert pace.is_validating
    assert (pace.num_done, pace.num_in_all) == (6, 10)
    assert pace.epoch_left_s == pytest.approx(4)  # 6 of 10 images took 6 s
    pace.end_epoch()
    pace.begin_epoch(3, 200)
    # 200 steps of 2 s, and the validation of epoch 4, which takes as long as the last one: 6 s.
    assert (pace.epoch_left_s, pace.left_s) == (200, 406)


def test_time_of_a_validation_is_not_counted_as_a_step() -> None:
    clock = Clock()
    pace = TrainingPace(ScheduleConfig(), 2, 10, clock)
    for epoch in (1, 2):
        pace.begin_epoch(epoch, 2 * epoch - 2)
        for step in (1, 2):
            pace.count_step(2 * epoch - 2 + step, 0.5, 1e-3)
            clock.now += 1
        clock.now += 1000  # a validation and a checkpoint
        pace.end_epoch()
    assert pace.images_per_s == 18


def test_lines_come_at_the_interval_and_none_in_a_short_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    lines = ProgressLines(clock)
    config = ExperimentConfig().override({"log.every_s": 30})
    lines.on_start(make_run(config, tmp_path))
    for epoch in (1, 2, 3):  # 20 s each
        lines.on_epoch_start(epoch, 100 * epoch - 100)
        clock.now += 20
        lines.on_step(epoch, result(100 * epoch))
        lines.on_epoch(EpochRecord(epoch))
    assert caplog.records == []
    lines.on_epoch_start(4, 300)
    for step in range(301, 371):  # a second each
        clock.now += 1
        lines.on_step(4, result(step))
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 4/200  step 30/100  loss 0.5000  lr 1.00e-03  18.0 images/s  "
        "left: epoch 1:10, training 5:27:50",
        "epoch 4/200  step 60/100  loss 0.5000  lr 1.00e-03  18.0 images/s  "
        "left: epoch 0:40, training 5:27:20",
    ]
    clock.now += 30
    lines.on_validation_batch(*validated(4))
    assert caplog.records[-1].getMessage().startswith("epoch 4/200  validation 4/10  loss 0.5000")


def test_bar_fits_into_80_columns(tmp_path: Path) -> None:
    clock = Clock()
    schedule = ScheduleConfig.parse({"epochs": 2000, "batch_size": 8})
    pace = TrainingPace(schedule, 14640, 10, clock)
    pace.begin_epoch(1200, 14640 * 1199)
    for step in range(1, 20):
        pace.count_step(14640 * 1199 + step, 12.34567, 5.91e-5)
        clock.now += 0.0123
    out = io.StringIO()
    Console(file=out, width=COLUMNS).print(bar(pace))
    first, second = out.getvalue().splitlines()
    assert first.startswith("epoch 1200/2000  step 19/14640 ")
    assert max(len(first), len(second)) <= COLUMNS
    assert second.strip() == "  ".join(details(pace))


def test_messages_of_the_log_are_printed_above_the_bar(tmp_path: Path) -> None:
    out = io.StringIO()
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        shown = ProgressBarOfTraining(Console(file=out, force_terminal=True, width=COLUMNS))
        shown.on_start(make_run(ExperimentConfig(), tmp_path))
        root.warning("a long command: %s", "x" * 2 * COLUMNS)
        shown.on_end(None)
        assert handler.stream is sys.stderr
    finally:
        root.removeHandler(handler)
    assert f"a long command: {'x' * 2 * COLUMNS}\n" in CONTROL.sub("", out.getvalue())


def test_title_names_a_validation_before_training() -> None:
    pace = TrainingPace(ScheduleConfig(), 10, 10, Clock())
    pace.count_validated(3)
    assert title(pace) == "before training  validation 3/10"


def test_file_gets_lines_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in many CI systems
    assert isinstance(training_progress(), ProgressLines)


# The bar is drawn every half second, and the epochs of a tiny config may be shorter.
TRAIN_AND_DRAW_AT_ONCE = """
from segtune.reporting.training_progress import ProgressBarOfTraining
from segtune.train import main

ProgressBarOfTraining.interval_s = 0.0
raise SystemExit(main())
"""


def train_on_terminal(config: ExperimentConfig, folder: Path, **environment: str) -> str:
    """Run `segtune train` on a terminal of 80 columns; return all that it has written there."""
    file = folder / "config.yaml"
    file.write_text(json.dumps(config.dump()))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-c", TRAIN_AND_DRAW_AT_ONCE, "--config", str(file)]
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [*command, "--out", str(folder / "run")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**plain, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert process.wait(120) == 0, written
    return written.decode()


@pytest.mark.slow
def test_terminal_shows_a_bar_and_keeps_the_lines_of_epochs(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"schedule.batch_size": 2, "schedule.epochs": 3})
    written = train_on_terminal(config, tmp_path)
    text = CONTROL.sub("", written)
    assert re.search(r"epoch \d/3  (step \d+/12|validation \d/7) ", text)
    assert "left: epoch" in text
    assert len(re.findall(r"epoch \d/3  loss 0", text)) == 3
    assert COLOUR.search(written)


@pytest.mark.slow
def test_no_color_has_no_colours_and_a_dumb_terminal_no_control_characters(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    for name, variables in (("plain", {"NO_COLOR": "1"}), ("dumb", {"TERM": "dumb"})):
        folder = tmp_path / name
        folder.mkdir()
        config = tiny_config.override({"schedule.batch_size": 2, "log.every_s": 0.001})
        written = train_on_terminal(config, folder, **variables)
        assert "epoch 2/2  loss" in written
        colours = {code for code in COLOUR.findall(written) if code not in ("\x1b[0m", "\x1b[1m")}
        assert not any(re.search(r"3[0-7]|38;|9[0-7]", code) for code in colours)
        if name == "dumb":
            assert "\x1b" not in written
            assert "step 5/12  loss" in written


def test_listener_of_the_caller_sees_every_event_in_order(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    from segtune.runs.verdict import Verdict

    class Events(TrainingListener):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_start(self, run: TrainingRun) -> None:
            self.seen.append(f"start {run.total_steps}")

        def on_epoch_start(self, epoch: int, step: int) -> None:
            self.seen.append(f"epoch {epoch} after {step}")

        def on_step(self, epoch: int, result: StepResult) -> None:
            self.seen.append(f"step {result.step}")

        def on_validation_batch(self, batch: ValBatch, labels: torch.Tensor) -> None:
            assert labels.shape == batch.masks.shape
            self.seen.append(f"validated {len(batch.names)}")

        def on_epoch(self, record: EpochRecord) -> None:
            assert [r.epoch for r in TrialDir(tmp_path).read_epochs()][-1] == record.epoch
            self.seen.append(f"record {record.epoch}")

        def on_end(self, verdict: Verdict | None) -> None:
            self.seen.append(f"end {verdict and verdict.state}")

    events = Events()
    config = tiny_config.override({"schedule.epochs": 1, "schedule.warmup_epochs": 0, "log.to": []})
    run_training(config, tmp_path, listeners=[events])
    assert events.seen == [
        *("start 3", "epoch 1 after 0", "step 1", "step 2", "step 3"),
        *("validated 7", "record 1", "end completed"),
    ]
    assert not TrialDir(tmp_path).tensorboard.exists()


def test_verdict_is_on_disk_before_a_listener_may_wait_at_the_end(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    class Impatient(TrainingListener):
        """Stands for Ctrl-C while a tracker sends the rest."""

        def on_end(self, verdict: Verdict | None) -> None:
            raise KeyboardInterrupt

    config = tiny_config.override({"schedule.epochs": 1, "log.to": []})
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path, listeners=[Impatient()])
    assert json.loads((tmp_path / "verdict.json").read_text())["state"] == "completed"
