"""Laws of the page of a search run: what it shows, and that a browser draws it offline."""

import html as html_module
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from generated_run import write_search, write_trial

from segtune.__main__ import main as program
from segtune.checks.search_limits import SearchEnd, write_end
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting import charts
from segtune.reporting.class_chart import ClassScores, class_chart, class_scores, drawn_classes
from segtune.reporting.html import page, write_report
from segtune.reporting.pair_chart import pair_chart
from segtune.reporting.pictures import read_pictures
from segtune.reporting.summary import causes, reproduction
from segtune.runs.atomic import write_atomic
from segtune.runs.results import TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Session, Timeline, TrialInterval
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


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


def test_names_of_classes_and_choices_are_never_markup(study: Study, run: SearchDir) -> None:
    names = [f"<script>{label}</script>" for label in range(7)]
    html = page(replace(study, config=study.config.override({"data.classes": names})), run)
    assert "&lt;script&gt;0&lt;/script&gt;" in html
    assert "<script>0" not in html
    dimension = Dimension("x.y", "choice", ("<script>", "'\">&"))
    trials = [TrialResult(0, "completed", miou=0.5, params={"x.y": "<script>"})]
    for chart in (charts.miou_by_setting, charts.parallel_coordinates):
        assert "<script>" not in chart(trials, [dimension])
        assert ">&#x27;&quot;&gt;&amp;</text>" in chart(trials, [dimension])


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


def marks(html: str, trial: int) -> int:
    """Return how many marks of a trial a chart has."""
    return len(re.findall(f'data-t="{trial}"', html))


def test_each_trial_has_a_curve_and_each_rung_a_line() -> None:
    trials = [
        TrialResult(0, "completed", miou=0.2, best_epoch=2),
        TrialResult(1, "completed", miou=0.3, best_epoch=1),
        TrialResult(2, "running"),
    ]
    scores = {"0000": [(1, 0.1), (2, 0.2)], "0001": [(1, 0.3)], "0002": []}
    html = charts.learning_curves(trials, scores, [1])
    assert re.findall(r'<polyline class="curve ([^" ]+)', html) == [
        *("s-completed", "s-completed", "baseline", "best"),
    ]
    assert ">rung 1</text>" in html
    assert ">1</text>" in html
    assert not re.findall(r">[0-9]+\.[0-9]+</text>", html)  # an epoch is a whole number
    assert marks(html, 2) == 0
    assert "the best, trial 0001, reaches mIoU 30.00 at epoch 1" in html


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
    html = charts.miou_by_setting(trials, dimensions)
    assert [marks(html, number) for number in range(3)] == [2, 2, 0]
    assert len(re.findall('href="#star" class="star best"', html)) == 2
    assert len(re.findall('href="#cross" class="s-unhealthy cross"', html)) == 2
    assert ">yes</text>" in html
    lines = charts.parallel_coordinates(trials, dimensions)
    # lr 1e-3 is in the middle of its decades, and `yes` the first of two choices.
    (points,) = re.findall(r'class="curve thin best" points="([^"]*)" data-t="0"', lines)
    heights = [float(point.split(",")[1]) for point in points.split()]
    bottom, top = 340 - 44, 14
    shares = [(bottom - height) / (bottom - top) for height in heights]
    assert shares == pytest.approx([0.5, 0.25, 1 / 1.05], abs=0.01)


def test_classes_are_ordered_by_gain_and_absent_ones_left_out() -> None:
    before, after = [0.5, 0.25, None, 0.5], [0.75, 0.0, 0.5, 0.625]
    assert drawn_classes(before, after) == [1, 3, 0]
    html = class_chart(["road", "sky", "car", "sign"], ClassScores(before), ClassScores(after))
    assert "road: 50.0 and 75.0" in html
    assert "car" not in html


def test_classes_of_a_confirmed_trial_have_the_interval_of_its_seeds(
    study: Study, run: SearchDir
) -> None:
    rows = []
    for trial, scores in (("0000", [0.1, 0.2]), ("0001", [0.3, 0.5])):
        paths = {}
        for seed, miou in enumerate(scores):
            fresh = run.confirm.trial(2 * int(trial) + seed)
            write_trial(fresh, 0.0, [miou], Verdict(state="completed"))
            paths[str(seed)] = str(fresh.path.relative_to(run.path))
        by_seed = {str(seed): score for seed, score in enumerate(scores)}
        rows.append({"trial": trial, "runs": paths, "scores": by_seed})
    record = {"baseline": rows[0], "candidates": [rows[1]], "sentence": "trial 0001 is better"}
    record["seeds"] = [0, 1]
    rows[1] |= {"outcome": "better", "more_seeds": None}
    write_atomic(run.confirmation, json.dumps(record))
    scores = class_scores(run, best_trial(read_trials(run)))
    # Classes have 0.8 of the mIoU. The quantile of t with one degree of freedom is 12.706.
    assert scores.num_seeds == 2
    assert scores.iou[0] == pytest.approx(0.8 * 0.4)
    assert scores.margin[0] == pytest.approx(12.706 * 0.8 * 0.1, rel=1e-3)
    assert scores.iou[3] is None
    text = text_of(page(study, run))
    assert "means of 2 and 2 fresh seeds" in text
    assert "Confirmation: trial 0001 is better." in text
    # A trial that became the best afterwards has no fresh seeds, so the config uses none either.
    rows[1]["trial"] = "0002"
    write_atomic(run.confirmation, json.dumps(record))
    html = page(study, run)
    assert "IoU of each class in the best epoch" in text_of(html)
    assert "background, the config itself: IoU 17.08<" in html


@pytest.mark.parametrize(
    ("values", "labels"),
    [((1e-5, 1e-1), ["1e-05", "0.0001", "0.001", "0.01", "0.1"]), ((2e-4, 1.6e-3), ["0.0002"])],
)
def test_log_axis_has_marks_and_shows_the_whole_range(
    values: tuple[float, float], labels: list[str]
) -> None:
    axis = charts.setting_axis(Dimension("optim.lr", "loguniform", values), [])
    assert axis.low < values[0] < values[1] < axis.high
    shown = [label for _, label in axis.ticks()]
    assert shown[: len(labels)] == labels
    assert len(shown) > 2


def test_axis_shows_a_config_outside_its_space() -> None:
    axis = charts.setting_axis(Dimension("optim.momentum", "uniform", (0.0, 1.0)), [2.0])
    assert (axis.low, axis.high) == pytest.approx((-0.1, 2.1))


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
    dimension = Dimension("x.y", "choice", values)
    axis = charts.setting_axis(dimension, values)
    assert tuple(axis.labels) == labels
    assert [charts.coordinate(dimension, value, axis) for value in values] == [0, 1]


def test_slots_are_grey_outside_of_epochs_and_coloured_in_them() -> None:
    intervals = (
        # A gap of half a second does not divide a bar, a longer one does.
        TrialInterval("0000", 1, 0.0, 50.0, ((10.0, 20.0), (20.5, 30.0), (35.0, 49.0))),
        TrialInterval("0001", 2, 5.0, 20.0, ()),
    )
    states = {"0000": "completed", "0001": "unhealthy"}
    html = charts.slot_timeline(Timeline(80.0, 2, intervals), states)
    bars = re.findall(r'<rect class="span ([^"]+)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', html)
    second = (1100 - 56 - 14) / 80
    drawn = [
        (kind, round((float(x) - 56) / second), round(float(w) / second)) for kind, x, w in bars
    ]
    assert drawn == [
        ("other", 0, 50),
        ("s-completed", 10, 20),
        ("s-completed", 35, 14),
        ("other", 5, 15),
    ]
    assert "time of the search (seconds)" in html


def test_long_search_is_shown_in_hours() -> None:
    hour = TrialInterval("0000", 1, 0.0, 3600.0, ())
    html = charts.slot_timeline(Timeline(7200.0, 1, (hour,)), {})
    assert "time of the search (hours)" in html
    assert "in 1 slots over 2 hours" in html


def test_surface_is_highest_at_the_best_trials_and_empty_far_from_all() -> None:
    pair = (
        Dimension("a.x", "uniform", (0.0, 1.0)),
        Dimension("a.y", "choice", ("low", "high")),
    )
    trials = [
        TrialResult(n, "completed", miou=0.1 * n, params={"a.x": x, "a.y": y})
        for n, (x, y) in enumerate(
            [(0.0, "low"), (0.1, "low"), (0.2, "low"), (0.0, "high"), (0.1, "high"), (0.2, "high")]
        )
    ]
    scores = {trial.id: trial.miou or 0.0 for trial in trials}
    html = pair_chart(trials, scores, pair)
    assert html is not None
    assert "75% along the second" in html
    cells = len(re.findall(r'<rect class="q\d"', html))
    assert 0 < cells < 24 * 2  # nothing at the right, where no trial is
    assert pair_chart(trials[:4], scores, pair) is None


def test_trials_that_went_wrong_are_grouped_by_cause_with_their_advice(
    study: Study, run: SearchDir
) -> None:
    for number, advice in ((4, "optim.lr: 0.01"), (5, "optim.lr: 0.02")):
        verdict = Verdict(state="unhealthy", kind="diverged", evidence="e", advice=advice)
        write_trial(run.trial(number), 1010.0, [], verdict, **{"optim.lr": 0.1})
    (cause,) = causes(run, read_trials(run))
    assert (cause.kind, cause.trials) == ("diverged", ["0003", "0004", "0005"])
    assert cause.advice == [("optim.lr: 0.01", 2), ("optim.lr: 0.02", 1)]
    assert "unhealthy: diverged 3 0003, 0004, 0005 loss" in text_of(page(study, run))


def test_summary_says_what_won_what_it_changed_and_what_to_do(study: Study, run: SearchDir) -> None:
    text = text_of(page(study, run))
    assert "Trial 0001 is the best: mIoU 30.00 at epoch 2 of 3." in text
    assert "reached 21.35, so the difference is +8.65 in one training run each." in text
    assert "What the best trial changes: optim.lr is 0.01 (was 0.001), loss.focal.form" in text
    assert f"segtune confirm {run.path}" in text
    assert "Continue the search" not in text
    run.trial(1).verdict.unlink()
    resume = f"segtune search --space {run.study} --out {run.path.parent} --name a-1"
    text = text_of(page(study, run))
    assert f"Continue the search, unless it is still running {resume} --resume" in text


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (
            SearchEnd("budget.epochs", 9, 9, 4, 8),
            "Continue the search with a larger budget segtune search --space {run.study} "
            "--out {run.path.parent} --name a-1 --budget-epochs 18 --resume",
        ),
        (
            SearchEnd("stop_when.regret", 0.01, 0.005, 4, 8),
            "4 of 8 trials have ended; to go on, lower or remove search.stop_when.regret in the "
            "study, and resume it.",
        ),
    ],
)
def test_search_that_a_limit_has_ended_goes_on_without_that_limit(
    study: Study, run: SearchDir, end: SearchEnd, words: str
) -> None:
    write_end(run, end)
    text = text_of(page(replace(study, search=study.search.override({"trials": 8})), run))
    assert words.format(run=run) in text
    assert ("Continue the search" in text) == bool(end.options)


def test_after_a_search_on_a_proxy_the_trial_at_full_length_is_repeated(
    study: Study, run: SearchDir
) -> None:
    write_trial(run.full.trial(0), 1000.0, [0.4], Verdict(state="completed"), **{"optim.lr": 1e-3})
    write_atomic(run.full.best, "")
    steps = reproduction(run)
    config = run.full.trial(0).config
    assert f"--config {config} " in steps["Repeat trial 0000 without Ray"]
    full = read_pictures(run.full, None)
    assert full.note.endswith(f"segtune report {run.path} --pictures")


def test_page_shows_the_pictures_and_the_confusion_matrix_of_the_best_trial(
    study: Study, run: SearchDir
) -> None:
    assert f"segtune report {run.path} --pictures" in text_of(page(study, run))
    write_pictures(run, "0001")
    html = page(study, run)
    assert html.count('src="data:image/png;base64,') == 3
    assert "10.0 % of" not in html
    assert "75 % of dot as &lt;i&gt;" in html
    assert "Confusion matrix of trial 0001" in html
    # Another trial became the best since then.
    write_trial(run.trial(2), 1.0, [0.9], Verdict(state="completed"), **{"optim.lr": 1e-3})
    text = text_of(page(study, run))
    assert "Trial 0001 was the best then; draw them again with:" in text
    assert "Confusion matrix" not in text


def test_name_that_is_no_utf8_does_not_end_the_report(study: Study, run: SearchDir) -> None:
    write_pictures(run, "0001")
    file = run.pictures / "pictures.json"
    write_atomic(file, file.read_text().replace("<img>", "caf\\udce9.png"))
    assert "caf?.png: " in text_of(write_report(study, run).read_text())


def write_pictures(run: SearchDir, trial: str) -> None:
    names = ["00-image.jpg", "00-truth.png", "00-best.png", "00-baseline.png"]
    for name in names:
        write_atomic(run.pictures / name, b"pixels")
    image = {"name": "<img>", "best": 0.9, "baseline": 0.5, "files": names}
    record = {"best": {"trial": trial}, "note": "", "images": [image]}
    record["classes"] = [{"name": "<i>", "colour": "#ff0000"}]
    write_atomic(run.pictures / "pictures.json", json.dumps(record))
    confusion = {"trial": trial, "classes": ["<i>", "dot"], "matrix": [[9, 1], [3, 1]]}
    write_atomic(run.confusion, json.dumps(confusion))


def browser() -> str:
    paths = filter(None, map(shutil.which, BROWSERS))
    if path := next(paths, None):
        return path
    problem = f"needs one of {', '.join(BROWSERS)}"
    if os.environ.get("CI"):  # .ci/run installs one; on other machines it is optional
        pytest.fail(problem)
    pytest.skip(problem)


def shown(page: Path, *options: str) -> str:
    """Return the page as the browser shows it, without a network; fail if it logs an error."""
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
        f"--user-data-dir={page.parent / 'browser'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        *options,
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def with_script(page: Path, script: str) -> Path:
    """Return a copy of the page that runs a script at its end, and writes the result's text."""
    copy = page.with_name(f"with-script-{page.name}")
    # `</script` inside would end the element.
    script = script.replace("</script", "<\\/script")
    ending = "<script>Promise.resolve((() => {{ {} }})()).then((text) => {{ const out = "
    ending += "document.createElement('pre'); out.id = 'out'; out.textContent = text; "
    ending += "document.body.append(out); }});</script></body>"
    copy.write_text(page.read_text().replace("</body>", ending.format(script)))
    return copy


def output_of(dom: str) -> str:
    (text,) = re.findall(r'<pre id="out">(.*?)</pre>', dom, flags=re.S)
    return html_module.unescape(text)


def many_trials(study: Study, folder: Path, number: int) -> SearchDir:
    run = SearchDir(folder / "runs" / "many")
    write_search(replace(study, search=study.search.override({"trials": number})), run, number)
    return run


def test_page_of_100_trials_is_small(study: Study, tmp_path: Path) -> None:
    run = many_trials(study, tmp_path, 100)
    page = write_report(load_study(run.study), run)
    assert page.stat().st_size < 500_000


def test_trials_can_be_sorted_and_filtered_in_a_browser(study: Study, tmp_path: Path) -> None:
    run = many_trials(study, tmp_path, 60)
    page = write_report(load_study(run.study), run)
    script = """
    const table = document.querySelector("table.trials");
    const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const column = (i) => shown().map((row) => row.cells[i].textContent);
    const miou = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "mIoU");
    const button = table.tHead.rows[0].cells[miou].querySelector("button");
    const last = table.tHead.rows[0].cells.length - 1;
    table.tHead.rows[0].cells[last].querySelector("button").click();
    const reasons = column(last).map((text) => text.trim());
    button.click();
    const up = column(miou), sort = table.tHead.rows[0].cells[miou].getAttribute("aria-sort");
    button.click();
    const down = column(miou);
    const words = document.querySelector(".filter input");
    words.value = "SOFTMAX diverged";
    words.dispatchEvent(new Event("input"));
    const filtered = shown().map((row) => row.textContent);
    const row = table.querySelector('tr[data-t="0"]');
    row.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
    const chosen = document.querySelectorAll("svg .chosen").length;
    const counted = document.querySelector(".filter output").textContent;
    const title = document.title;
    return JSON.stringify({reasons, up, down, sort, filtered, chosen, counted, title});
    """
    result = json.loads(output_of(shown(with_script(page, script))))
    # Trials without a reason are first by rank, and last by reason.
    assert [bool(text) for text in result["reasons"]] == sorted(map(bool, result["reasons"]))[::-1]
    numbers = [float(text) for text in result["up"] if text != "-"]
    assert numbers == sorted(numbers)
    assert set(result["up"][len(numbers) :]) == {"-"}  # those without a score come last
    assert result["down"][: len(numbers)] == [f"{n:.2f}" for n in sorted(numbers, reverse=True)]
    assert result["sort"] == "ascending"
    assert result["filtered"]
    assert all("softmax" in text and "diverged" in text for text in result["filtered"])
    assert result["counted"] == f"{len(result['filtered'])} of 60 trials"
    assert result["chosen"] > 4  # its curve and its points
    assert result["title"] == "many · segtune"  # no text of the run was executed


@pytest.mark.parametrize("scheme", [0, 1])  # dark, light
def test_page_has_no_accessibility_problem(study: Study, tmp_path: Path, scheme: int) -> None:
    run = many_trials(study, tmp_path, 60)
    write_pictures(run, best_trial(read_trials(run)).id)  # type: ignore[union-attr]
    page = write_report(load_study(run.study), run)
    script = (
        (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
        + """;
    return axe.run().then((found) => JSON.stringify({
      passed: found.passes.length,
      problems: found.violations.map((rule) => [rule.id, rule.nodes.map((node) => node.html)]),
    }));
    """
    )
    dom = shown(with_script(page, script), f"--blink-settings=preferredColorScheme={scheme}")
    result = json.loads(output_of(dom))
    assert result["problems"] == []
    assert result["passed"] > 20


def test_browser_draws_the_page_without_a_network(study: Study, run: SearchDir) -> None:
    body = re.sub(r"<script\b.*?</script>", "", shown(write_report(study, run)), flags=re.S)
    words = set(re.findall(r"<text\b[^>]*>([^<]+)</text>", body))
    axes = {"epoch", "lr", "form", "softmax", "IoU", "time of the search (seconds)"}
    assert axes | {"background", "rung 1", "slot"} <= words
    # A bar for each of the four trials, and one for each of the three with an epoch.
    assert body.count('<rect class="span') == 7


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
