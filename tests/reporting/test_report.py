"""The page of a run: what it says, also of runs without a winner or without their data, and that a browser draws it offline."""

import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from segtune.__main__ import main as program
from segtune.api import prepare
from segtune.config.yaml_io import write_yaml
from segtune.reporting import charts
from segtune.reporting.html import page, write_report
from segtune.runs.atomic import write_atomic
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Session, Timeline, TrialInterval
from segtune.runs.verdict import Verdict
from segtune.tuning.space import Dimension
from segtune.tuning.study import load_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CLASSES = [0.8, 0.4, 0.0, None, 0.1, 0.2, 0.3]


@pytest.fixture
def study(tiny_config, tmp_path):
    tree = {
        "config": tiny_config.override({"schedule.epochs": 3}).dump(),
        "space": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "loss.focal.form": {"choice": ["sigmoid", "softmax"]},
        },
        "search": {"trials": 4, "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2}}},
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def trial_with(run, number, drawn, mious, verdict=None, **params):
    """A trial drawn at a time; its first step comes two seconds later, and an epoch takes two."""
    trial = run.trial(number)
    write_atomic(trial.params, json.dumps(params))
    os.utime(trial.params, (drawn, drawn))
    for epoch, miou in enumerate(mious, 1):
        iou = [None if c is None else c * miou for c in CLASSES]
        times = {"seconds": 2.0 * epoch, "ended": drawn + 2.0 + 2.0 * epoch}
        trial.append_epoch(
            {"epoch": epoch, "step": epoch, **times, "loss": 1.0, "miou": miou, "class_iou": iou}
        )
    if verdict:
        trial.write_verdict(Verdict(epoch=len(mious), **verdict))
        os.utime(trial.verdict, (drawn + 2.0 + 2.0 * len(mious),) * 2)


@pytest.fixture
def run(study, tmp_path):
    """Four trials: the config, a better one, one that was stopped, one that diverged."""
    run = SearchDir(tmp_path / "runs" / "a-1")
    prepare(run, study, False)
    trial_with(
        run,
        0,
        1000.0,
        [0.1, 0.2, 0.2135],
        {"state": "completed"},
        **{"optim.lr": 1e-3, "loss.focal.form": "sigmoid"},
    )
    trial_with(
        run,
        1,
        1000.0,
        [0.1, 0.3, 0.2512],
        {"state": "completed"},
        **{"optim.lr": 1e-2, "loss.focal.form": "softmax"},
    )
    trial_with(
        run,
        2,
        1008.0,
        [0.05],
        {"state": "pruned"},
        **{"optim.lr": 1e-5, "loss.focal.form": "softmax"},
    )
    diverged = {
        "state": "unhealthy",
        "kind": "diverged",
        "evidence": "loss <b>9e9</b> & rising",
        "advice": "optim.lr: 0.01",
    }
    trial_with(run, 3, 1009.0, [], diverged, **{"optim.lr": 0.1, "loss.focal.form": "softmax"})
    write_atomic(run.sessions, json.dumps(vars(Session(1000.0, 1020.0, 2, 1))) + "\n")
    return run


def text_of(html):
    """What a person reads on a page: without scripts, styles and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_page_says_who_won_what_was_lost_and_why(study, run):
    told = text_of(page(study, run))
    assert "trials that have ended 4 of 4 2 completed, 1 pruned, 1 unhealthy" in told
    assert "best mIoU 30.00 trial 0001, epoch 2" in told
    assert "the config itself 21.35 trial 0000, completed at epoch 3" in told
    assert "workers busy 35 % of 0.7 worker-minutes (training and validation), " in told
    assert f"python -m segtune.train --config {run.best} --out {run.path}/retrain" in told
    assert (
        told.index("1 0001 30.00")
        < told.index("2 0000 21.35")
        < told.index("3 0002 5.00 1/3 pruned")
        < told.index("- 0003 -")
    )
    for head in ("Learning curves", "Settings", "Classes", "Workers' time", "Trials"):
        assert head in told.replace("&#39;", "'"), head


def test_what_comes_from_the_run_is_text_and_never_markup(study, run):
    html = page(study, run)
    assert "diverged: loss &lt;b&gt;9e9&lt;/b&gt; &amp; rising; optim.lr: 0.01" in html
    assert "<b>9e9" not in html


def test_page_of_a_run_without_a_trial_says_so(study, tmp_path):
    run = SearchDir(tmp_path / "runs" / "empty")
    prepare(run, study, False)
    told = text_of(page(study, run))
    assert "trials that have ended 0 of 4" in told
    assert "best mIoU none no healthy trial" in told
    assert "Learning curves" not in told
    assert "retrain" not in told


def test_page_of_a_running_search_shows_what_there_is(study, run):
    run.sessions.unlink()
    run.trial(1).verdict.unlink()
    told = text_of(page(study, run))
    assert "trials that have ended 3 of 4" in told
    assert "1 running" in told
    assert "workers busy" not in told


@pytest.mark.parametrize("classes", ["gone.txt", ["only", "two"]])
def test_class_names_are_numbers_where_the_data_set_is_not_here(study, run, classes):
    moved = replace(study, config=study.config.override({"data.classes": classes}))
    assert "class 6" in page(moved, run)
    assert "class 6" not in page(study, run)


def test_command_writes_the_page_beside_the_run_or_where_it_is_asked(run, tmp_path, capsys):
    assert program(["report", str(run.path)]) == 0
    assert capsys.readouterr().out == f"report: {run.report}\n"
    assert program(["report", str(run.path), "--out", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert program(["report", str(tmp_path)]) == 2
    assert "no search has been run here" in capsys.readouterr().err


def test_what_cannot_be_written_is_a_message(run, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    assert program(["report", str(run.path), "--out", str(tmp_path / "folder")]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {tmp_path / 'folder'}: the report cannot be written (Is a directory)"
    )


def test_password_of_the_database_is_not_in_the_page(study, run):
    shared = replace(
        study, search=study.search.override({"storage": "postgresql://me:secret@host/db"})
    )
    html = page(shared, run)
    assert "postgresql://me:***@host/db" in html
    assert "secret" not in text_of(html)


def test_rows_that_have_gone_since_leave_the_classes_out(study, run):
    rows = [
        {k: v for k, v in row.items() if k != "class_iou"} for row in run.trial(1).read_epochs()
    ]
    write_atomic(run.trial(1).epochs, "".join(json.dumps(row) + "\n" for row in rows))
    told = text_of(page(study, run))
    assert "Classes" not in told
    assert "Learning curves" in told


def by_name(figure):
    return {trace.name: trace for trace in figure.data}


def test_curves_have_a_line_per_trial_and_gaps_between():
    trials = [
        TrialResult(0, "completed", miou=0.2, best_epoch=2),
        TrialResult(1, "completed", miou=0.3),
        TrialResult(2, "running"),
    ]
    traces = by_name(
        charts.curves(trials, {"0000": [(1, 0.1), (2, 0.2)], "0001": [(1, 0.3)], "0002": []})
    )
    assert traces["completed"].x == (1, 2, None, 1, None)
    assert traces["completed"].y == (10.0, 20.0, None, 30.0, None)
    assert traces["the config itself (trial 0000)"].y == (10.0, 20.0)
    assert traces["best (trial 0001)"].y == (30.0,)
    assert "running" not in traces


def test_settings_show_scored_trials_and_those_that_ended_badly():
    dimensions = [
        Dimension("optim.lr", "loguniform", (1e-5, 1e-1)),
        Dimension("augment.photometric", "choice", (True, False)),
    ]
    trials = [
        TrialResult(
            0, "completed", miou=0.2, params={"optim.lr": 1e-3, "augment.photometric": True}
        ),
        TrialResult(1, "unhealthy", params={"optim.lr": 1e-1, "augment.photometric": False}),
        TrialResult(2, "running", params={"optim.lr": 1e-4, "augment.photometric": False}),
    ]
    figure = charts.settings(trials, dimensions)
    points = [(trace.name, trace.x, trace.y) for trace in figure.data]
    assert points == [
        ("completed", (1e-3,), (20.0,)),
        ("unhealthy", (1e-1,), (0.0,)),
        ("completed", ("yes",), (20.0,)),
        ("unhealthy", ("no",), (0.0,)),
    ]
    assert [trace.customdata for trace in figure.data][:2] == [
        (["0000", "20.00"],),
        (["0001", "no mIoU"],),
    ]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis2.categoryarray == ("yes", "no")


def test_classes_are_ordered_by_gain_and_absent_ones_left_out():
    figure = charts.classes(
        ["road", "sky", "car", "sign"], [0.5, 0.25, None, 0.5], [0.75, 0.0, 0.5, 0.625]
    )
    best = by_name(figure)["best"]
    assert list(zip(best.customdata, best.y, best.x, strict=True)) == [
        ("sky", 0, 0.0),
        ("sign", 1, 62.5),
        ("road", 2, 75.0),
    ]  # from the bottom up


def test_many_classes_are_those_that_differ_most():
    names = [f"c{n}" for n in range(150)]
    best = by_name(charts.classes(names, [0.0] * 150, [n / 1000 for n in range(150)]))["best"]
    assert best.customdata == tuple(f"c{n}" for n in range(110, 150))


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1e-5, 1e-1), {"dtick": 1}), ((2e-4, 1.6e-3), {"dtick": "D2"})],
)
def test_log_axes_have_marks_and_show_the_whole_range(values, expected):
    axis = charts.settings([], [Dimension("optim.lr", "loguniform", values)]).layout.xaxis
    assert axis.dtick == expected["dtick"]
    assert axis.range[0] < math.log10(values[0]) < math.log10(values[1]) < axis.range[1]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.001, 0.001001), ("0.001", "0.001001")),  # equal to three digits
        ((None, "timm"), ("None", "timm")),
        (([64, 64], [96, 96]), ("[64, 64]", "[96, 96]")),
    ],
)
def test_each_choice_has_a_label_of_its_own(values, labels):
    trials = [
        TrialResult(n, "completed", miou=0.5, params={"x.y": value})
        for n, value in enumerate(values)
    ]
    figure = charts.settings(trials, [Dimension("x.y", "choice", values)])
    assert figure.layout.xaxis.categoryarray == labels
    assert figure.data[0].x == labels


def test_places_have_grey_for_what_is_no_epoch_and_a_colour_for_what_is():
    stays = (
        TrialInterval("0000", 1, 0.0, 50.0, ((10.0, 20.0), (20.5, 30.0), (35.0, 49.0))),
        TrialInterval("0001", 2, 5.0, 20.0, ()),
    )
    figure = charts.workers_time(
        Timeline(80.0, 2, stays), {"0000": "completed", "0001": "unhealthy"}
    )
    bars = {
        trace.name: list(zip(trace.y, trace.base, trace.x, strict=True)) for trace in figure.data
    }
    assert bars == {
        "starting and other": [(1, 0.0, 50.0), (2, 5.0, 15.0)],
        "completed": [
            (1, 10.0, 20.0),
            (1, 35.0, 14.0),
        ],  # a blink does not break a stretch, a pause does
    }
    assert figure.layout.xaxis.range == (0, 80.0)
    assert figure.layout.xaxis.title.text == "seconds of search"
    longer = charts.workers_time(
        Timeline(7200.0, 1, (TrialInterval("0000", 1, 0.0, 3600.0, ()),)), {}
    )
    assert (longer.data[0].x, longer.layout.xaxis.title.text) == ((1.0,), "hours of search")


def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        # .ci/run installs one; nobody else has to.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"needs one of {', '.join(BROWSERS)}"
        )
    return found


def test_a_browser_draws_the_page_without_a_network(study, run, tmp_path):
    write_report(study, run)
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'browser'}", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", run.report.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    drawings = re.findall(
        r"<svg\b.*?</svg>",
        re.sub(r"<script\b.*?</script>", "", shown.stdout, flags=re.S),
        flags=re.S,
    )
    words = set(re.findall(r"<text\b[^>]*>([^<]+)</text>", "".join(drawings)))
    # Axes of each figure, the classes in their order, the trials' legend.
    assert {
        "epoch",
        "lr",
        "form",
        "softmax",
        "IoU",
        "background",
        "seconds of search",
        "starting and other",
        "pruned",
    } <= words
    # A bar for each trial that was there, and one for each that had an epoch.
    assert (
        sum(
            drawing.count('class="point"><path')
            for drawing in drawings
            if "seconds of search" in drawing or "barlayer" in drawing
        )
        == 7
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
