"""Laws of the logs of mmengine and mmsegmentation 0.x: units, positions, starts, broken lines."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segtune.errors import RunError
from segtune.reporting.curve_sources import read_runs
from segtune.reporting.curves import Point, RunCurves

Row = dict[str, Any]


def train(step: int, loss: float = 1.0, seconds: float = 0.5, **more: float) -> Row:
    """Return a training line as mmengine's LogProcessor writes it."""
    row = {"lr": 0.01, "data_time": 0.01, "loss": loss, "decode.loss_ce": 0.7 * loss}
    return row | {"time": seconds, "iter": step, "memory": 7000, "step": step} | more


def val(step: int, miou: float, aacc: float = 90.0) -> Row:
    """Return a line of a validation; scores in the unit of the log."""
    row = {"aAcc": aacc, "mIoU": miou, "mAcc": miou, "data_time": 0.01}
    return row | {"time": 0.1, "step": step}


def old_train(epoch: int, count: int, loss: float = 1.0) -> Row:
    """Return a training line as mmcv's TextLoggerHook writes it."""
    row = {"mode": "train", "epoch": epoch, "iter": count, "lr": 0.01, "memory": 7000}
    return row | {"data_time": 0.01, "decode.loss_ce": loss, "loss": loss, "time": 0.5}


def old_val(epoch: int, count: int, miou: float, mode: str = "val") -> Row:
    row = {"mode": mode, "epoch": epoch, "iter": count, "lr": 0.01}
    return row | {"aAcc": 0.9, "mIoU": miou, "mAcc": miou, "IoU.road": 0.8, "Acc.road": 0.85}


def write(path: Path, rows: Sequence[Row], tail: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def scalars(work_dir: Path, start: str, rows: Sequence[Row], tail: str = "") -> Path:
    return write(work_dir / start / "vis_data" / "scalars.json", rows, tail)


def read(path: Path) -> RunCurves:
    (run,) = read_runs([path])
    return run


def at(points: Sequence[Point], field: str) -> list[float]:
    return [getattr(point, field) for point in points]


def values(run: RunCurves, key: str) -> list[float]:
    return at(run.series[key], "value")


def test_a_log_by_steps_has_steps_times_and_no_epochs(tmp_path: Path) -> None:
    rows = [train(50, 2.0, 0.4), train(100, 1.0, 0.2), val(100, 40.0), train(150, 0.5, 0.2)]
    run = read(scalars(tmp_path / "w", "20230521_130545", rows))
    assert values(run, "loss") == [2.0, 1.0, 0.5]
    assert at(run.series["loss"], "step") == [50, 100, 150]
    assert at(run.series["loss"], "epoch") == [None, None, None]
    # 50 steps of 0.4 s, then 50 of 0.2 s.
    assert at(run.series["miou"], "seconds") == pytest.approx([30.0])
    assert run.seconds == pytest.approx(40.0)
    assert at(run.series["miou"], "step") == [100]
    assert (run.last.step, run.last.epoch) == (150, None)
    assert run.series.keys() >= {"decode.loss_ce", "lr", "step_seconds", "val.step_seconds"}
    assert not run.series.keys() & {"time", "iter", "step", "mIoU"}


def test_a_validation_counted_in_epochs_lies_at_the_end_of_its_epoch(tmp_path: Path) -> None:
    rows = []
    for epoch in (1, 2, 3):  # of 91 steps, with a line every 50
        rows += [train(91 * (epoch - 1) + 50, epoch=epoch), train(91 * epoch, epoch=epoch)]
        rows.append(val(epoch, 10.0 * epoch))
    run = read(scalars(tmp_path / "w", "20230521_130545", rows))
    assert at(run.series["miou"], "epoch") == [1, 2, 3]
    assert at(run.series["miou"], "step") == [91, 182, 273]
    assert at(run.series["loss"], "epoch") == pytest.approx([50 / 91, 1, 141 / 91, 2, 232 / 91, 3])


def test_an_epoch_may_end_after_the_last_line(tmp_path: Path) -> None:
    # Epochs of 91 steps, with a line every 50: the log does not say how long an epoch is.
    rows = [
        row
        for epoch in (1, 2, 3)
        for row in (train(91 * (epoch - 1) + 50, epoch=epoch), val(epoch, 10.0 * epoch))
    ]
    run = read(scalars(tmp_path / "w", "20230521_130545", rows))
    assert at(run.series["miou"], "epoch") == [1, 2, 3]
    for epoch, point in enumerate(run.series["loss"], 1):
        assert point.epoch is not None
        assert epoch - 1 <= point.epoch < epoch
    assert run.last.epoch == 3


def test_a_validation_counted_in_steps_has_an_epoch_if_the_log_counts_epochs(
    tmp_path: Path,
) -> None:
    rows = [train(10, epoch=1), val(10, 20.0), train(20, epoch=2), val(20, 30.0)]
    run = read(scalars(tmp_path / "w", "20230521_130545", rows))
    assert at(run.series["miou"], "step") == [10, 20]
    assert at(run.series["miou"], "epoch") == [1, 2]


def test_a_validation_without_a_step_lies_after_the_last_training_line(tmp_path: Path) -> None:
    rows = [train(50), train(100), val(0, 20.0), train(150), val(0, 30.0)]
    run = read(scalars(tmp_path / "w", "20230521_130545", rows))
    assert at(run.series["miou"], "step") == [100, 150]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([train(50), val(50, 45.5), val(100, 0.4)], [0.455, 0.004]),  # per cent
        ([train(50), val(50, 0.455, aacc=0.9)], [0.455]),  # fractions, of a metric of one's own
        ([train(50), val(50, 0.4, aacc=12.0)], [0.004]),  # 150 classes in the beginning
        ([train(50), {"mIoU": 0.4, "step": 50}], [0.004]),  # as mmengine writes it
        ([old_train(1, 50), old_val(1, 50, 0.455)], [0.455]),  # 0.x writes fractions
    ],
)
def test_scores_are_in_0_to_1_whatever_the_unit_of_the_log(
    tmp_path: Path, rows: list[Row], expected: list[float]
) -> None:
    path = write(tmp_path / "w" / "a.json", rows)
    assert values(read(path), "miou") == pytest.approx(expected)


def test_an_ambiguous_unit_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.json", [train(50), {"mIoU": 0.4, "step": 50}])
    read(path)
    assert f"{path}: all scores are at most 0.4; read as per cent" in caplog.text


def test_prefixes_of_a_log_with_hierarchy_are_dropped(tmp_path: Path) -> None:
    rows = [
        {"train/loss": 1.5, "train/lr": 0.01, "train/time": 0.5, "iter": 50, "step": 50},
        {"val/mIoU": 45.0, "val/aAcc": 80.0, "step": 50},
    ]
    run = read(write(tmp_path / "scalars.json", rows))
    assert (values(run, "loss"), values(run, "miou")) == ([1.5], [0.45])
    assert values(run, "step_seconds") == [0.5]


def test_an_old_log_places_validations_after_the_last_step(tmp_path: Path) -> None:
    header = {"env_info": "sys.platform: linux", "seed": 0, "exp_name": "fcn.py"}
    rows = [header, old_train(1, 50), old_train(1, 100), old_val(1, 500, 0.3)]
    # mmcv writes "train" for a validation without `time`.
    rows += [old_train(2, 150), old_train(2, 200), old_val(2, 500, 0.4, mode="train")]
    run = read(write(tmp_path / "w" / "20210303_175010.log.json", rows))
    assert at(run.series["miou"], "step") == [100, 200]
    assert at(run.series["miou"], "epoch") == [1, 2]
    assert values(run, "miou") == [0.3, 0.4]
    assert (values(run, "iou.road"), values(run, "acc.road")) == ([0.8, 0.8], [0.85, 0.85])
    assert len(values(run, "lr")) == 4
    assert "seed" not in run.series
    assert run.name == "w/20210303_175010"


def test_an_old_log_that_counts_steps_in_each_epoch_has_steps_of_the_run(tmp_path: Path) -> None:
    rows = []
    for epoch in (1, 2, 3):
        rows += [old_train(epoch, 50), old_train(epoch, 100), old_val(epoch, 12, 0.1 * epoch)]
    run = read(write(tmp_path / "w" / "20210303_175010.log.json", rows))
    assert at(run.series["loss"], "step") == [50, 100, 150, 200, 250, 300]
    assert at(run.series["loss"], "epoch") == [0.5, 1, 1.5, 2, 2.5, 3]
    assert at(run.series["miou"], "step") == [100, 200, 300]
    assert at(run.series["miou"], "epoch") == [1, 2, 3]


def test_a_start_that_goes_on_replaces_what_it_repeats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work_dir = tmp_path / "w"
    first = [train(50), train(100), val(100, 10.0), train(150, 7.0), train(200, 7.0)]
    scalars(work_dir, "20230522_090000", [train(150, 0.5), train(200, 0.4), val(200, 20.0)])
    scalars(work_dir, "20230521_130545", [*first, val(200, 15.0)])
    # A start that only tested, and one that ended before its first line.
    scalars(work_dir, "20230523_000000", [val(0, 20.0)])
    scalars(work_dir, "20230524_000000", [])
    run = read(work_dir)
    assert run.name == "w"
    assert at(run.series["loss"], "step") == [50, 100, 150, 200]
    assert values(run, "loss") == [1.0, 1.0, 0.5, 0.4]
    assert values(run, "miou") == pytest.approx([0.1, 0.2])
    assert run.seconds == pytest.approx(200 * 0.5)
    assert f"{work_dir}: joined the logs of 2 starts" in caplog.text


def test_a_start_from_the_first_step_replaces_the_earlier_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work_dir = tmp_path / "w"
    old = scalars(work_dir, "20230521_130545", [train(10, 9.0), train(20, 9.0)])
    new = scalars(work_dir, "20230522_090000", [train(50, 1.0), train(100, 0.5)])
    run = read(work_dir)
    assert values(run, "loss") == [1.0, 0.5]
    text = f"{work_dir}: training began anew in {new}; earlier logs are left out (1): {old}"
    assert text in caplog.text
    earlier = read(old)
    assert (earlier.name, values(earlier, "loss")) == ("w/20230521_130545", [9.0, 9.0])


def test_a_log_of_a_resumed_start_alone_has_the_time_of_its_own_steps(tmp_path: Path) -> None:
    run = read(scalars(tmp_path / "w", "20230522_090000", [train(8050), train(8100)]))
    assert run.seconds == pytest.approx(100 * 0.5)
    assert [stretch.num_steps for stretch in run.stretches] == [50, 50]


def test_an_incomplete_last_line_is_left_out_and_a_broken_line_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = scalars(tmp_path / "w", "20230521_130545", [train(50)], tail='{"lr": 0.0')
    assert values(read(path), "loss") == [1.0]
    assert f"{path}: the last line is incomplete" in caplog.text
    lines = [json.dumps(train(50)), "\x00\x00 no JSON", json.dumps(train(100))]
    path.write_text("\n".join(lines) + "\n")
    assert values(read(path), "loss") == [1.0, 1.0]
    assert f"{path}: left out, because no JSON: line 2 (1 in total)" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_run_as_unhealthy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = scalars(tmp_path / "w", "20230521_130545", [train(50), train(100, math.nan)])
    run = read(path)
    assert (run.ending, values(run, "loss")) == ("unhealthy: non-finite", [1.0])
    assert "1 of 2 values of loss are not finite, first at step 100" in caplog.text
    # One bad step in a run that goes on.
    scalars(tmp_path / "w", "20230521_130545", [train(50, math.inf), train(100)])
    assert (read(path).ending, values(read(path), "loss")) == ("", [1.0])


@pytest.mark.parametrize("content", ["", "{}\n", "[1, 2]\n", '{"a": {\n "b": 1}}', "\xff\xfe"])
def test_a_file_that_is_no_log_is_refused_with_what_is_expected(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "scalars.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match=r"scalars\.json: no log of a training run: expected one"):
        read(path)
