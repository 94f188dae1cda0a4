"""Laws of the terminal output: one line per ended trial, short names, an honest estimate."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting.format import format_duration, format_value, next_steps, short_names
from segtune.reporting.terminal import Progress, live_table, print_summary
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    tree = {"config": tiny_config.dump(), "space": space, "search": {"trials": 4}}
    tree["search"]["scheduler"] = "none"
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    run = SearchDir(tmp_path / "my runs" / "a")
    prepare_study(run, study)
    return run


def start_trial(run: SearchDir, number: int) -> None:
    write_atomic(run.trial(number).params, json.dumps({"optim.lr": 0.01}))


def end_trial(run: SearchDir, number: int, state: State, miou: float = 0.25) -> None:
    start_trial(run, number)
    trial = run.trial(number)
    scores = ValidationScores(miou=miou, constant_miou=0.1)
    trial.append_epoch(EpochRecord(epoch=1, validation=scores))
    trial.write_verdict(Verdict(state=state, epoch=1))


def printed(action: Callable[[Console], None]) -> str:
    text = io.StringIO()
    action(Console(file=text, width=180))
    return text.getvalue()


def test_each_trial_that_ends_is_one_line(study: Study, run: SearchDir) -> None:
    end_trial(run, 0, "completed")

    def search(console: Console) -> None:
        with live_table(study, run, console):
            end_trial(run, 1, "pruned")
            end_trial(run, 2, "interrupted")
            start_trial(run, 3)

    lines = printed(search).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("trial 0001 pruned at epoch 1: mIoU 25.00; lr 0.01 [2 of 4 trials, ")
    assert lines[1].startswith("trial 0002 interrupted at epoch 1: mIoU 25.00; lr 0.01 [2 of 4")


def test_paused_trial_that_goes_on_has_another_line(study: Study, run: SearchDir) -> None:
    end_trial(run, 0, "paused")
    trial = run.trial(0)

    def search(console: Console) -> None:
        with live_table(study, run, console):
            trial.begin_attempt()
            trial.append_epoch(EpochRecord(epoch=2, validation=ValidationScores(0.5, 0.1)))
            trial.write_verdict(Verdict(state="completed", epoch=2))

    [line] = printed(search).splitlines()
    assert line.startswith("trial 0000 completed at epoch 2: mIoU 50.00; lr 0.01 [1 of 4 trials, ")


def test_terminal_shows_a_table_of_the_best_trials(study: Study, run: SearchDir) -> None:
    for number in range(8):
        end_trial(run, number, "completed", miou=0.1 * number)
    text = io.StringIO()
    # Room for five rows.
    console = Console(file=text, force_terminal=True, width=100, height=12)
    with live_table(study, run, console):
        pass
    table = text.getvalue()
    assert table.index("0007") < table.index("0003")
    assert "0002" not in table
    assert "and 3 more" in table
    assert "8 of 4 trials" in table


def test_summary_without_a_healthy_trial_says_so(study: Study, run: SearchDir) -> None:
    end_trial(run, 0, "unhealthy")
    text = printed(lambda console: print_summary(study, run, console))
    assert "no healthy trial, so there is no best config" in text
    assert "retrain" not in text


def test_commands_can_be_pasted_into_a_shell(study: Study, run: SearchDir) -> None:
    commands = next_steps(study, run)
    assert commands["curves"] == f"tensorboard --logdir '{run.trials}'"
    assert commands["retrain it"] == f"segtune retrain '{run.path}'"


def test_time_left_counts_the_trials_of_this_session_only(study: Study, run: SearchDir) -> None:
    progress = Progress(study, run, ended_before=2)
    assert progress.seconds_left(2) is None
    progress.start -= 60.0
    assert progress.seconds_left(3) == pytest.approx(60.0, abs=1.0)
    assert progress.line(3) == "3 of 4 trials, 1:00 so far, about 1:00 left"
    assert progress.line(4) == "4 of 4 trials, 1:00 so far"


def test_short_names_keep_what_tells_them_apart() -> None:
    names = ["loss.dice.weight", "loss.ce.weight", "optim.lr"]
    short = ["dice.weight", "ce.weight", "lr"]
    assert short_names(names) == dict(zip(names, short, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (0.00123456, "0.00123"),
        (12, "12"),
        ("gp", "gp"),
        ([64, 96], "[64, 96]"),
        ([], "[]"),
        ([{"name": "GaussNoise", "p": 0.25}, {"name": "Blur"}], "GaussNoise p=0.25 + Blur"),
    ],
)
def test_value_is_short(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_duration_has_hours_only_if_needed(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
