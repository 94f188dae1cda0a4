"""Laws of curves: keys, best values, seconds per step, and what a figure shows."""

import io
import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.reporting.curve_html import draw_plotly
from segtune.reporting.curve_layout import (
    COLOURS,
    MAX_STYLES,
    choose_axis,
    figure_format,
    find_keys,
    labelled_lines,
    make_figure,
    spread,
    styles_of,
    words_beside,
)
from segtune.reporting.curve_png import draw_png
from segtune.reporting.curve_table import pace_of, to_json
from segtune.reporting.curves import (
    Point,
    RunCurves,
    Stretch,
    best_point,
    direction,
    read_training_run,
)
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict


def curve(values: Sequence[float]) -> list[Point]:
    return [Point(v, epoch=i, step=10 * i, seconds=60.0 * i) for i, v in enumerate(values, 1)]


def make_run(name: str = "a", **series: Sequence[float]) -> RunCurves:
    return RunCurves(name, Path(name), {key: curve(values) for key, values in series.items()})


@pytest.fixture
def trial(tmp_path: Path, tiny_config: ExperimentConfig) -> TrialDir:
    """A training run of three epochs of 10 steps; the second one ends without a validation."""
    trial = TrialDir(tmp_path / "a")
    trial.path.mkdir()
    trial.config.write_text(write_yaml(tiny_config.dump()))
    for epoch, seconds in ((1, 5.0), (2, 7.0), (3, 12.0)):
        class_iou = (0.9, None, 0.2, 0, 0, 0, 0.5)
        scores = ValidationScores(0.1 * epoch, 0.05, aacc=0.8, macc=0.3, class_iou=class_iou)
        trial.append_epoch(
            EpochRecord(
                epoch=epoch,
                step=10 * epoch,
                seconds=seconds,
                lr=0.01,
                losses={"loss": 3.0 / epoch, "focal": 1.0 / epoch},
                validation=None if epoch == 2 else scores,
            )
        )
    return trial


def test_a_training_run_has_a_curve_for_every_number_of_its_epochs(trial: TrialDir) -> None:
    run = read_training_run(trial, "a")
    assert [p.value for p in run.series["loss"]] == [3.0, 1.5, 1.0]
    assert [p.value for p in run.series["loss.focal"]] == [1.0, 0.5, 1 / 3]
    assert [(p.epoch, p.step, p.seconds) for p in run.series["miou"]] == [(1, 10, 5), (3, 30, 12)]
    assert [p.value for p in run.series["iou.ring"]] == [0.5, 0.5]
    assert "iou.disc" not in run.series  # neither labelled nor predicted
    assert [p.value for p in run.series["step_seconds"]] == pytest.approx([0.5, 0.2, 0.5])
    assert run.series.keys() >= {"lr", "grad_norm", "seconds", "macc", "aacc"}
    assert not run.series.keys() & {"epoch", "step", "ended", "focal", "top_class", "class_iou"}
    assert (run.seconds, run.last.epoch, run.last.step) == (12.0, 3, 30)


def test_classes_have_numbers_if_their_names_are_unknown(trial: TrialDir) -> None:
    trial.config.unlink()
    assert "iou.6" in read_training_run(trial, "a").series


def test_the_state_is_that_of_the_verdict_or_running(trial: TrialDir) -> None:
    assert read_training_run(trial, "a").ending == "running, or killed"
    trial.write_verdict(Verdict(state="unhealthy", kind="diverged", epoch=3, evidence="9 > 1"))
    run = read_training_run(trial, "a")
    assert (run.ending, run.reason) == ("unhealthy: diverged", "diverged: 9 > 1")
    assert run.went_wrong
    assert replace(run, state="completed", kind="").ending == ""


def test_epochs_after_the_pruning_do_not_count(trial: TrialDir) -> None:
    trial.write_verdict(Verdict(state="pruned", epoch=1))
    assert [p.value for p in read_training_run(trial, "a").series["miou"]] == [0.1]


def test_scores_are_best_if_high_and_losses_if_low() -> None:
    points = curve([0.3, 0.1, 0.5, 0.5, 0.2])
    for key in ("miou", "iou.car", "acc.car", "city/miou", "decode.acc_seg"):
        assert (direction(key), best_point(key, points).epoch) == ("max", 3), key
    for key in ("loss", "loss.dice", "decode.loss_ce"):
        assert (direction(key), best_point(key, points).epoch) == ("min", 2), key
    for key in ("lr", "grad_norm", "step_seconds"):
        assert (direction(key), best_point(key, points).epoch) == (None, 5), key


def test_seconds_per_step_leave_out_epochs_with_a_validation() -> None:
    timed = [Stretch(1, 10, 5.0), Stretch(2, 10, 2.0), Stretch(3, 20, 2.0), Stretch(4, 10, 9.0)]
    pace = pace_of([*timed[:3], replace(timed[3], with_validation=True)])
    assert pace is not None
    assert pace.mean == pytest.approx(9.0 / 40)
    assert pace.median == pytest.approx(0.2)
    assert (pace.slowest, pace.fastest) == ((1, 0.5), (3, 0.1))
    assert not pace.with_validation
    # Every epoch ends with one: they count, and the table says so.
    pace = pace_of([replace(stretch, with_validation=True) for stretch in timed])
    assert pace is not None
    assert (pace.mean, pace.with_validation) == (pytest.approx(18.0 / 50), True)
    assert pace_of([Stretch(1, 0, 5.0)]) is None  # an early file without steps


def test_the_slowest_epoch_is_the_mean_of_its_lines() -> None:
    pace = pace_of([Stretch(1, 50, 5.0), Stretch(1, 50, 25.0), Stretch(2, 50, 20.0)])
    assert pace is not None
    assert (pace.slowest, pace.fastest) == ((2, 0.4), (1, 0.3))
    steps_only = pace_of([Stretch(None, 50, 5.0)])
    assert steps_only is not None
    assert (steps_only.mean, steps_only.slowest) == (0.1, None)


def test_keys_are_found_in_any_case_and_time_is_the_time_of_a_step() -> None:
    run = RunCurves("a", Path("a"), {"miou": [], "iou.Road": [], "step_seconds": []})
    assert find_keys(["mIoU", "IoU.road", "time", "miou"], [run]) == [
        "miou",
        "iou.Road",
        "step_seconds",
    ]


def test_an_unknown_key_names_the_nearest_and_the_keys_of_the_runs() -> None:
    run = make_run(miou=[0.1], loss=[1.0])
    run = replace(run, series={**run.series, **{f"iou.c{i}": curve([1]) for i in range(30)}})
    with pytest.raises(ConfigError) as error:
        find_keys(["miuo", "loss", "foo"], [run])
    first, second, listed = str(error.value).splitlines()
    assert first == "--keys: miuo: no run has this key; did you mean 'miou'?"
    assert second == "--keys: foo: no run has this key"
    assert listed.startswith("keys of a: miou, loss, iou.CLASS with CLASS one of c0, c1, ")
    assert listed.endswith(" and 5 more")


def test_a_key_of_some_runs_is_drawn_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    runs = [make_run("a", loss=[1.0], miou=[0.1]), make_run("b", loss=[1.0])]
    keys = find_keys(["miou", "loss"], runs)
    assert caplog.messages == [
        "--keys: miou: 1 of 2 runs have no such key and are not in its panel: b"
    ]
    panel, both = make_figure(runs, keys, "epoch").panels
    assert [line.run for line in panel.lines] == [0]
    assert [line.run for line in both.lines] == [0, 1]


def test_the_axis_is_one_that_all_runs_have(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    new = make_run("new", loss=[1.0])
    old = RunCurves("old", Path("old"), {"loss": [Point(1.0, step=50, seconds=2.0)]})
    assert choose_axis([new], None) == "epoch"
    assert choose_axis([new], "time") == "time"
    assert caplog.messages == []
    assert choose_axis([new, old], None) == "step"
    assert caplog.messages == ["horizontal axis: step, because the log of old has no epochs"]
    with pytest.raises(ConfigError, match="the log of old has no epoch; use --x step or --x time"):
        choose_axis([new, old], "epoch")
    early = RunCurves("early", Path("early"), {"loss": [Point(1.0, epoch=1)]})
    with pytest.raises(ConfigError, match="draw these runs in figures of their own"):
        choose_axis([early, old], None)


def test_scores_are_drawn_in_per_cent_and_labels_are_the_best_values() -> None:
    run = make_run(miou=[0.1, 0.4567, 0.3], loss=[2.0, 1.0, 1.5], lr=[0.1, 0.2, 0.05])
    miou, loss, lr = make_figure([run], ["miou", "loss", "lr"], "time").panels
    assert (miou.title, miou.lines[0].ys[1]) == ("mIoU (%)", pytest.approx(45.67))
    assert (miou.lines[0].mark, miou.lines[0].label) == (1, "45.67")
    assert (loss.lines[0].mark, loss.lines[0].label) == (1, "1")
    assert (lr.lines[0].mark, lr.lines[0].label, lr.mark_name) == (2, "0.05", "last")
    assert miou.lines[0].xs == [1.0, 2.0, 3.0]  # minutes
    assert make_figure([run], ["miou"], "time").x_title == "training time (minutes)"


def test_a_panel_starts_at_zero_unless_that_hides_the_differences() -> None:
    def panel_of(**series: Sequence[float]) -> tuple[bool, bool]:
        key = next(iter(series))
        (panel,) = make_figure([make_run(**series)], [key], "epoch").panels
        return panel.from_zero, panel.is_log

    assert panel_of(miou=[0.1, 0.5]) == (True, False)
    assert panel_of(miou=[0.7, 0.75]) == (False, False)
    assert panel_of(miou=[0.0, 0.0]) == (True, False)
    assert panel_of(loss=[1.0, 0.2]) == (True, False)
    assert panel_of(loss=[1.0, 0.5, 1e6]) == (False, True)  # it diverged
    assert panel_of(loss=[1.0, -0.5, 1e6]) == (False, False)


def test_a_run_has_one_style_and_no_two_runs_share_it() -> None:
    runs = [make_run(f"r{i}", miou=[0.01 * i], loss=[1.0 + i]) for i in range(MAX_STYLES)]
    styles = styles_of(runs, ["loss"])
    assert len(set(styles)) == MAX_STYLES == 28
    assert len({style.colour for style in styles[:7]}) == len(COLOURS)


def test_of_too_many_runs_the_best_are_in_colour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runs = [make_run(f"r{i}", miou=[0.01 * i], loss=[1.0 + i]) for i in range(30)]

    def grey(*keys: str) -> list[int]:
        figure = make_figure(runs, keys, "epoch")
        for panel in figure.panels:
            drawn = {line.run for line in labelled_lines(panel, figure.styles, 0.01)}
            assert all(figure.styles[run].is_told_apart for run in drawn)
        names = [trace.name for trace in draw_plotly(figure).data if trace.showlegend]
        assert names.count("2 more") == 1
        assert len(names) == 29
        return [run for run, style in enumerate(figure.styles) if not style.is_told_apart]

    assert grey("loss", "miou") == [0, 1]  # those with the lowest mIoU
    assert grey("loss") == [28, 29]
    assert "30 curves: the best 28 are in colour" in caplog.text


def test_words_at_the_end_of_a_line_stay_in_the_panel() -> None:
    series = {"r": [0.0, 10.0], "top": [5.0, 9.9], "low": [1.0]}
    runs = [make_run(name, grad_norm=values) for name, values in series.items()]
    (panel,) = make_figure(runs, ["grad_norm"], "epoch").panels
    assert [words_beside(panel, line) for line in panel.lines] == [(-1, -1), (-1, -1), (1, 1)]


def test_labels_keep_their_order_and_their_distance() -> None:
    assert spread([0.5], 0.1) == [0.5]
    assert spread([0.9, 0.1], 0.1) == [0.9, 0.1]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    assert spread([0.0, 0.01, 0.02], 0.1) == pytest.approx([0.0, 0.1, 0.2])
    assert spread([0.5] * 21, 0.1) == pytest.approx([0.05 * i for i in range(21)])
    # A group that grows pushes its neighbour.
    places = spread([0.5, 0.52, 0.54, 0.3, 0.71], 0.1)
    assert all(b - a > 0.0999 for a, b in itertools.pairwise(sorted(places)))
    assert places[3] < places[0] < places[1] < places[2] < places[4]


def test_if_there_is_no_room_for_all_labels_the_best_have_one() -> None:
    runs = [make_run(f"r{i}", miou=[0.01 * i]) for i in range(1, 9)]
    figure = make_figure(runs, ["miou"], "epoch")
    (panel,) = figure.panels
    assert [line.run for line in labelled_lines(panel, figure.styles, 0.3)] == [7, 6, 5, 4]
    assert len(labelled_lines(panel, figure.styles, 0.1)) == 8


def test_json_has_scores_in_0_to_1_and_times_in_seconds(trial: TrialDir) -> None:
    (row,) = to_json([read_training_run(trial, "a")], ["miou", "lr", "absent"])
    assert row["values"] == {
        "miou": {"best": pytest.approx(0.3), "epoch": 3, "step": 30, "num_points": 2},
        "lr": {"last": 0.01, "epoch": 3, "step": 30, "num_points": 3},
    }
    assert row["step_seconds"]["mean"] == pytest.approx(0.2)  # epoch 2, without a validation
    assert row["step_seconds"]["fastest_epoch"] == {"epoch": 2, "step_seconds": 0.2}
    assert (row["state"], row["seconds"], row["epochs"], row["steps"]) == ("running", 12.0, 3, 30)


def test_the_format_of_the_figure_follows_from_the_suffix() -> None:
    assert [figure_format(Path(name)) for name in ("a.PNG", "b.html")] == ["png", "html"]
    with pytest.raises(ConfigError, match=r"--out: a\.jpg: unknown suffix '\.jpg'.*allowed are"):
        figure_format(Path("a.jpg"))


ODD_NAMES = ("_a", "$x^$", "<b>bold</b>", "50 %", "日本")


@pytest.mark.parametrize("num_runs", [5, 40])
def test_a_picture_is_as_large_as_its_panels_whatever_the_names(num_runs: int) -> None:
    runs = [
        replace(make_run(ODD_NAMES[i % 5] + str(i // 5), loss=[2.0, 1.0]), state="unhealthy")
        for i in range(num_runs)
    ]
    figure = make_figure(runs, ["loss"], "epoch", title="$a^$")
    picture = Image.open(io.BytesIO(draw_png(figure, "png")))
    assert (picture.format, picture.info["Software"]) == ("PNG", "segtune plot")
    assert picture.width == 1105
    assert 400 < picture.height < 1100


def test_the_page_has_one_colour_for_a_run_in_all_panels() -> None:
    runs = [make_run(name, loss=[2.0, 1.0], miou=[0.1, 0.2]) for name in ("a", "<b>")]
    plot = draw_plotly(make_figure(runs, ["loss", "miou"], "epoch"))
    lines = [trace.to_plotly_json() for trace in plot.data if "lines" in trace.mode]
    colours = {(line["name"], line["line"]["color"]) for line in lines}
    assert colours == {("a", COLOURS[0]), ("&lt;b&gt;", COLOURS[1])}
    assert sorted(line["name"] for line in lines if line["showlegend"]) == ["&lt;b&gt;", "a"]
    texts = [note.text for note in plot.layout.annotations]
    assert texts.count("20.00") == 2
    assert {"loss", "mIoU (%)", "best"} <= set(texts)
