"""Search runs of earlier revisions can still be read. `search_run_0_1_0` was written by 0.1.0.

Its attempts have no times and its verdicts no `ended`: these were once read from file times.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import segtune
from segtune.__main__ import main as program
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import timeline, utilisation

DATA = Path(__file__).parent.parent / "data"
STATES = {
    "0000": "completed",
    "0001": "unhealthy",
    "0002": "unhealthy",
    "0003": "completed",
    "0004": "pruned",
    "0005": "completed",
}
REASON = (
    "non-finite: the loss is nan at step 2, learning rate 9.92e+24; "
    "try optim.lr 1e+24 or optim.clip_norm 1.0"
)


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    """A copy of the search run, which has new file times."""
    shutil.copytree(DATA / "search_run_0_1_0", tmp_path / "old", copy_function=shutil.copyfile)
    return SearchDir(tmp_path / "old")


def files_of(run: SearchDir) -> Iterator[Path]:
    return (path for path in run.path.rglob("*") if path.is_file())


def text_of(html: str) -> str:
    """Return what a reader sees of a page: no scripts, styles and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_status_shows_every_trial(run: SearchDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["status", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert "trial 0003, mIoU 16.05 at epoch 6; the config itself (trial 0, *): 13.01" in out
    for trial, state in STATES.items():
        assert re.search(rf"│ +{trial} .*│ {state} ", out), trial
    for trial in ("0001", "0002"):
        assert f"trial {trial} unhealthy: {REASON}\n" in out


def test_report_shows_every_trial(run: SearchDir) -> None:
    assert program(["report", str(run.path)]) == 0
    text = text_of(run.report.read_text())
    assert "best mIoU 16.05 trial 0003, epoch 6" in text
    assert "trials ended 6 of 6 3 completed, 1 pruned, 2 unhealthy" in text
    ranks = [
        "1 0003 16.05 6/6 completed",
        "2 0005 14.97",
        "3 0000 13.01",
        "4 0004 11.97 4/6 pruned",
    ]
    ends = [f"- {trial} - 0/6 unhealthy: non-finite" for trial in ("0001", "0002")]
    places = [text.index(row) for row in ranks + ends]
    assert places == sorted(places)
    assert text.count(REASON) == 2


def test_export_writes_the_best_config(run: SearchDir, tmp_path: Path) -> None:
    out = tmp_path / "best.yaml"
    assert program(["export", str(run.path), "--out", str(out)]) == 0
    assert out.read_text().startswith("# trial 0003 of old: mIoU 16.05 at epoch 6\n")
    assert segtune.load_config(out) == segtune.load_config(run.best)
    assert segtune.load_config(out).optim.lr == 0.005


def test_file_times_play_no_role(run: SearchDir, capsys: pytest.CaptureFixture[str]) -> None:
    outputs: list[tuple[str, str]] = []
    for file_time in (0, 2_000_000_000):
        for path in files_of(run):
            os.utime(path, (file_time, file_time))
        assert program(["status", str(run.path)]) == 0
        status = capsys.readouterr().out
        assert program(["report", str(run.path)]) == 0
        capsys.readouterr()
        page = re.sub(r"written [^<]*", "", run.report.read_text())  # the date at the top
        outputs.append((status, page))
    assert outputs[0] == outputs[1]


def test_times_come_from_the_epochs_and_launches_are_left_out(run: SearchDir) -> None:
    used, spent = utilisation(run), timeline(run)
    assert used is not None
    assert spent is not None
    epochs = [trial.read_epochs() for trial in run.trial_dirs()]
    trained_s = sum(records[-1].seconds for records in epochs if records)
    # `seconds` counts whole milliseconds.
    assert used.busy_share * used.worker_seconds == pytest.approx(trained_s, abs=0.01)
    assert (used.first_launch_s, used.later_launch_s, used.worst_launch_s) == (None, None, None)
    # The trials without an epoch have no known time.
    assert [interval.trial for interval in spent.intervals] == ["0000", "0003", "0004", "0005"]
    assert all(0 <= i.began < i.ended <= spent.seconds for i in spent.intervals)
