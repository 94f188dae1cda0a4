"""Laws of the page of a search run: what it shows, and that a browser draws it offline."""

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import plotly.graph_objects as go
import pytest

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting import charts
from segtune.reporting.html import page, write_report
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.timeline import Session, Timeline, TrialInterval
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# IoU of each class, relative to the mIoU of an epoch.
CLASSES = [0.8, 0.4, 0.0, None, 0.1, 0.2, 0.3]


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    tree = {
        "config": tiny_config.override({"schedule.epochs": 3}).dump(),
        "space": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "loss.focal.form": {"choice": ["sigmoid", "softmax"]},
        },
        "search": {
            "trials": 4,
            "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2, "pause": False}},
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def write_trial(
    trial: TrialDir, drawn: float, mious: Sequence[float], verdict: Verdict, **params: Any
) -> None:
    """Write a trial that is drawn at a time in seconds.

    Its first step comes two seconds later, and an epoch takes two.
    """
    write_atomic(trial.params, json.dumps(params))
    write_atomic(trial.attempts, json.dumps({"started": drawn}) + "\n")
    for epoch, miou in enumerate(mious, 1):
        iou = tuple(None if share is None else share * miou for share in CLASSES)
        trial.append_epoch(
            EpochRecord(
                epoch=epoch,
                step=epoch,
                seconds=2.0 * epoch,
                ended=drawn + 2.0 + 2.0 * epoch,
                losses={"loss": 1.0},
                validation=ValidationScores(miou=miou, constant_miou=0.1, class_iou=iou),
            )
        )
    changes = {"epoch": len(mious), "ended": drawn + 2.0 + 2.0 * len(mious)}
    write_atomic(trial.verdict, json.dumps(verdict.override(changes).dump()))


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    """Four trials: the config itself, a better one, a pruned one, one that diverged."""
    run = SearchDir(tmp_path / "runs" / "a-1")
    prepare_study(run, study)
    completed, pruned = Verdict(state="completed"), Verdict(state="pruned")
    diverged = Verdict(
        state="unhealthy",
        kind="diverged",
        evidence="loss <b>9e9</b> & rising",
        advice="optim.lr: 0.01",
    )
    trials: list[tuple[float, list[float], Verdict, float, str]] = [
        (1000.0, [0.1, 0.2, 0.2135], completed, 1e-3, "sigmoid"),
        (1000.0, [0.1, 0.3, 0.2512], completed, 1e-2, "softmax"),
        (1008.0, [0.05], pruned, 1e-5, "softmax"),
        (1009.0, [], diverged, 0.1, "softmax"),
    ]
    for number, (drawn, mious, verdict, lr, form) in enumerate(trials):
        params = {"optim.lr": lr, "loss.focal.form": form}
        write_trial(run.trial(number), drawn, mious, verdict, **params)
    write_atomic(run.sessions, json.dumps(asdict(Session(1000.0, 1020.0, 2, 1))) + "\n")
    return run


def text_of(html: str) -> str:
    """Return what a reader sees of a page: no scripts, styles and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_page_shows_the_best_trial_the_workers_time_and_every_end(
    study: Study, run: SearchDir
) -> None:
    text = text_of(page(study, run))
    assert "trials ended 4 of 4 2 completed, 1 pruned, 1 unhealthy" in text
    assert "best mIoU 30.00 trial 0001, epoch 2" in text
    assert "the config itself 21.35 trial 0000, completed at epoch 3" in text
    assert "workers busy 35 % of 0.7 worker-minutes (training and validation); " in text
    assert f"segtune retrain {run.path}" in text
    rows = ["1 0001 30.00", "2 0000 21.35", "3 0002 5.00 1/3 pruned", "- 0003 -"]
    places = [text.index(row) for row in rows]
    assert places == sorted(places)
    for head in ("Learning curves", "Settings", "Classes", "Workers' time", "Trials"):
        assert head in text.replace("&#39;", "'"), head


def test_text_of_the_search_run_is_never_markup(study: Study, run: SearchDir) -> None:
    html = page(study, run)
    assert "diverged: loss &lt;b&gt;9e9&lt;/b&gt; &amp; rising; optim.lr: 0.01" in html
    assert "<b>9e9" not in html


def test_page_without_a_trial_has_no_charts(study: Study, tmp_path: Path) -> None:
    run = SearchDir(tmp_path / "runs" / "empty")
    prepare_study(run, study)
    text = text_of(page(study, run))
    assert "trials ended 0 of 4" in text
    assert "best mIoU none no healthy trial" in text
    assert "Learning curves" not in text
    assert "retrain" not in text


def test_page_of_a_running_search_leaves_out_the_workers_time(study: Study, run: SearchDir) -> None:
    run.sessions.unlink()
    run.trial(1).verdict.unlink()
    text = text_of(page(study, run))
    assert "trials ended 3 of 4" in text
    assert "1 running" in text
    assert "workers busy" not in text


@pytest.mark.parametrize("classes", ["gone.txt", ["only", "two"]])
def test_classes_are_numbered_if_the_data_set_is_absent_or_another(
    study: Study, run: SearchDir, classes: str | list[str]
) -> None:
    moved = replace(study, config=study.config.override({"data.classes": classes}))
    assert "class 6" in page(moved, run)
    assert "class 6" not in page(study, run)


def test_command_writes_the_page_into_the_folder_or_to_a_file(
    run: SearchDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["report", str(run.path)]) == 0
    assert capsys.readouterr().out == f"report: {run.report}\n"
    assert program(["report", str(run.path), "--out", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert program(["report", str(tmp_path)]) == 2
    assert "no search has been run here" in capsys.readouterr().err


def test_page_that_cannot_be_written_is_a_user_error(
    run: SearchDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert program(["report", str(run.path), "--out", str(folder)]) == 2
    problem = f"error: {folder}: the report cannot be written (Is a directory)"
    assert capsys.readouterr().err.startswith(problem)


def test_page_hides_the_password_of_the_database(study: Study, run: SearchDir) -> None:
    search = study.search.override({"storage": "postgresql://me:secret@host/db"})
    html = page(replace(study, search=search), run)
    assert "postgresql://me:***@host/db" in html
    assert "secret" not in text_of(html)


def test_chart_of_classes_is_left_out_without_their_ious(study: Study, run: SearchDir) -> None:
    rows = [record.to_row() for record in run.trial(1).read_epochs()]
    for row in rows:
        del row["class_iou"]
    write_atomic(run.trial(1).epochs, "".join(json.dumps(row) + "\n" for row in rows))
    text = text_of(page(study, run))
    assert "Classes" not in text
    assert "Learning curves" in text


def traces_by_name(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in traces(figure)}


def traces(figure: go.Figure) -> Sequence[Any]:
    return cast(Sequence[Any], figure.data)


def test_curves_of_a_state_are_one_trace_with_gaps() -> None:
    trials = [
        TrialResult(0, "completed", miou=0.2, best_epoch=2),
        TrialResult(1, "completed", miou=0.3),
        TrialResult(2, "running"),
    ]
    scores = {"0000": [(1, 0.1), (2, 0.2)], "0001": [(1, 0.3)], "0002": []}
    drawn = traces_by_name(charts.learning_curves(trials, scores))
    assert drawn["completed"].x == (1, 2, None, 1, None)
    assert drawn["completed"].y == (10.0, 20.0, None, 30.0, None)
    assert drawn["the config itself (trial 0000)"].y == (10.0, 20.0)
    assert drawn["best (trial 0001)"].y == (30.0,)
    assert "running" not in drawn


def test_settings_show_scored_trials_and_bad_ends() -> None:
    dimensions = [
        Dimension("optim.lr", "loguniform", (1e-5, 1e-1)),
        Dimension("augment.photometric", "choice", (True, False)),
    ]
    drawn = [
        ("completed", 0.2, {"optim.lr": 1e-3, "augment.photometric": True}),
        ("unhealthy", None, {"optim.lr": 1e-1, "augment.photometric": False}),
        ("running", None, {"optim.lr": 1e-4, "augment.photometric": False}),
    ]
    trials = [
        TrialResult(number, state, miou=miou, params=params)
        for number, (state, miou, params) in enumerate(drawn)
    ]
    figure = charts.miou_by_setting(trials, dimensions)
    points = [(trace.name, trace.x, trace.y) for trace in traces(figure)]
    assert points == [
        ("completed", (1e-3,), (20.0,)),
        ("unhealthy", (1e-1,), (0.0,)),
        ("completed", ("yes",), (20.0,)),
        ("unhealthy", ("no",), (0.0,)),
    ]
    labels = [list(trace.customdata[0]) for trace in traces(figure)]
    assert labels[:2] == [["0000", "mIoU 20.00"], ["0001", "no mIoU"]]
    assert [trace.marker.symbol for trace in traces(figure)][:2] == [("star",), ("x",)]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis2.categoryarray == ("yes", "no")


def test_classes_are_ordered_by_gain_and_absent_ones_left_out() -> None:
    figure = charts.class_ious(
        ["road", "sky", "car", "sign"], [0.5, 0.25, None, 0.5], [0.75, 0.0, 0.5, 0.625]
    )
    best = traces_by_name(figure)["best"]
    from_the_bottom = list(zip(best.customdata, best.y, best.x, strict=True))
    assert from_the_bottom == [("sky", 0, 0.0), ("sign", 1, 62.5), ("road", 2, 75.0)]


def test_many_classes_are_those_that_differ_most() -> None:
    names = [f"c{n}" for n in range(150)]
    figure = charts.class_ious(names, [0.0] * 150, [n / 1000 for n in range(150)])
    best = traces_by_name(figure)["best"]
    assert best.customdata == tuple(f"c{n}" for n in range(110, 150))


@pytest.mark.parametrize(("values", "mark"), [((1e-5, 1e-1), 1), ((2e-4, 1.6e-3), "D2")])
def test_log_axis_has_marks_and_shows_the_whole_range(
    values: tuple[float, float], mark: int | str
) -> None:
    figure = charts.miou_by_setting([], [Dimension("optim.lr", "loguniform", values)])
    axis = figure.layout.xaxis
    assert axis.dtick == mark
    assert axis.range[0] < math.log10(values[0]) < math.log10(values[1]) < axis.range[1]


def test_axis_shows_a_config_outside_its_space() -> None:
    trials = [TrialResult(0, "completed", miou=0.5, params={"optim.momentum": 2.0})]
    figure = charts.miou_by_setting(trials, [Dimension("optim.momentum", "uniform", (0.0, 1.0))])
    assert figure.layout.xaxis.range == pytest.approx((-0.1, 2.1))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.001, 0.001001), ("0.001", "0.001001")),  # equal to three digits
        ((None, "timm"), ("None", "timm")),
        (([64, 64], [96, 96]), ("[64, 64]", "[96, 96]")),
    ],
)
def test_each_choice_has_a_label_of_its_own(
    values: tuple[Any, ...], labels: tuple[str, ...]
) -> None:
    trials = [
        TrialResult(number, "completed", miou=0.5, params={"x.y": value})
        for number, value in enumerate(values)
    ]
    figure = charts.miou_by_setting(trials, [Dimension("x.y", "choice", values)])
    assert figure.layout.xaxis.categoryarray == labels
    assert traces(figure)[0].x == labels


def test_slots_are_grey_outside_of_epochs_and_coloured_in_them() -> None:
    intervals = (
        # A gap of half a second does not divide a bar, a longer one does.
        TrialInterval("0000", 1, 0.0, 50.0, ((10.0, 20.0), (20.5, 30.0), (35.0, 49.0))),
        TrialInterval("0001", 2, 5.0, 20.0, ()),
    )
    states = {"0000": "completed", "0001": "unhealthy"}
    figure = charts.slot_timeline(Timeline(80.0, 2, intervals), states)
    bars = {
        trace.name: list(zip(trace.y, trace.base, trace.x, strict=True)) for trace in traces(figure)
    }
    assert bars == {
        "starting and other": [(1, 0.0, 50.0), (2, 5.0, 15.0)],
        "completed": [(1, 10.0, 20.0), (1, 35.0, 14.0)],
    }
    assert figure.layout.xaxis.range == (0, 80.0)
    assert figure.layout.xaxis.title.text == "time of the search (seconds)"


def test_long_search_is_shown_in_hours() -> None:
    hour = TrialInterval("0000", 1, 0.0, 3600.0, ())
    figure = charts.slot_timeline(Timeline(7200.0, 1, (hour,)), {})
    assert traces(figure)[0].x == (1.0,)
    assert figure.layout.xaxis.title.text == "time of the search (hours)"


def browser() -> str:
    paths = filter(None, map(shutil.which, BROWSERS))
    if path := next(paths, None):
        return path
    problem = f"needs one of {', '.join(BROWSERS)}"
    if os.environ.get("CI"):  # .ci/run installs one; on other machines it is optional
        pytest.fail(problem)
    pytest.skip(problem)


def test_browser_draws_the_page_without_a_network(
    study: Study, run: SearchDir, tmp_path: Path
) -> None:
    write_report(study, run)
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'browser'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        "--dump-dom",
        run.report.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    body = re.sub(r"<script\b.*?</script>", "", shown.stdout, flags=re.S)
    drawings = re.findall(r"<svg\b.*?</svg>", body, flags=re.S)
    words = set(re.findall(r"<text\b[^>]*>([^<]+)</text>", "".join(drawings)))
    axes = {"epoch", "lr", "form", "softmax", "IoU", "time of the search (seconds)"}
    assert axes | {"background", "starting and other", "pruned"} <= words
    # A bar for each of the four trials, and one for each of the three with an epoch.
    timelines = [d for d in drawings if "time of the search" in d or "barlayer" in d]
    assert sum(drawing.count('class="point"><path') for drawing in timelines) == 7
    assert "CONSOLE" not in shown.stderr, shown.stderr


def test_what_mattered_is_a_section_and_a_file(study: Study, tmp_path: Path) -> None:
    run = SearchDir(tmp_path / "runs" / "many")
    prepare_study(run, study)
    for number in range(24):
        lr, form = 10 ** (-4.9 + 0.2 * number * 0.8), ("sigmoid", "softmax")[number % 2]
        params = {"optim.lr": lr, "loss.focal.form": form}
        if lr > 1e-2:
            verdict = Verdict(state="unhealthy", kind="diverged")
            write_trial(run.trial(number), 1000.0, [], verdict, **params)
        else:
            miou = 0.1 + 0.01 * number + 0.02 * (number * 7 % 5)
            write_trial(run.trial(number), 1000.0, [miou], Verdict(state="completed"), **params)
    text = text_of(write_report(study, run).read_text())
    assert "What mattered for mIoU: optim.lr has " in text
    assert "Importance for mIoU" in text
    assert "No interaction between settings could be shown." in text
    record = run.read_what_mattered()
    assert record is not None
    assert [row["name"] for row in record["settings"] if row["shown"]] == ["optim.lr"]
    first = record["unhealthy"][0]
    assert (first["setting"], first["shown"]) == ("optim.lr", True)
    unhealthy, other = first["unhealthy_side"], first["other_side"]
    assert (
        f"{unhealthy['values']} {unhealthy['num_unhealthy']} of {unhealthy['num_trials']}" in text
    )
    assert (unhealthy["num_unhealthy"], other["num_unhealthy"]) == (record["num_unhealthy"], 0)


def test_report_beside_a_folder_that_cannot_be_written_is_complete(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = SearchDir(tmp_path / "run")
    for number in range(2):
        verdict = Verdict(state="completed")
        write_trial(run.trial(number), 1000.0, [0.1], verdict, **{"optim.lr": 1e-3})
    (run.what_mattered / "occupied").mkdir(parents=True)
    written = write_report(study, run, tmp_path / "page.html")
    assert "What mattered" in text_of(written.read_text())
    assert f"{run.what_mattered}: not written (" in caplog.text


def test_what_mattered_of_few_trials_says_how_many_are_missing(
    study: Study, run: SearchDir
) -> None:
    text = text_of(write_report(study, run).read_text())
    assert "cannot be tested yet: it takes at least 7 more completed or pruned trials" in text
    assert "At least 3 of one kind are needed" in text
    assert "Importance for mIoU" not in text
