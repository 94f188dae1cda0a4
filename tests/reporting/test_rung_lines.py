"""What rungs are worth, from a written run folder: for the terminal and for the page."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segtune.checks import rung_worth
from segtune.checks.rung_worth import rung_worths
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting.html import page
from segtune.reporting.rung_lines import CAPTION, rung_lines
from segtune.reporting.terminal import print_summary
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.curves.halving import ExpectedHalving
from segtune.tuning.curves.worth import RungWorth
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

EPOCHS = 9  # rungs at 1 and 3
# Of 0..1, in random order, so that neighbouring numbers are not neighbours in the space.
SHARES = [0.55, 0.1, 0.85, 0.35, 0.7, 0.0, 0.95, 0.45, 0.2, 0.6, 0.3, 0.8, 0.05, 0.5, 0.9, 0.25]
ASHA = {"grace_epochs": 1, "reduction": 3}
MakeStudy = Callable[..., Study]


@pytest.fixture
def make_study(tiny_config: ExperimentConfig, tmp_path: Path) -> MakeStudy:
    """Return a function that makes a study with one setting and a scheduler."""

    def make(scheduler: Any) -> Study:
        tree = {
            "config": tiny_config.override({"schedule.epochs": EPOCHS}).dump(),
            "space": {"loss.focal.gamma": {"uniform": [0.0, 4.0]}},
            "search": {"trials": 16, "scheduler": scheduler, "corner_steps": 0, "pictures": 0},
        }
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return make


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    return make_study({"asha": ASHA})


def score_at(share: float, epoch: int) -> float:
    """Return a score whose order at epoch 1 is the reverse of that at the end."""
    end = 0.2 + 0.5 * share
    return end - (1 - epoch / EPOCHS) * 0.9 * share


def write_trial(run: SearchDir, number: int, epochs: int, state: State) -> None:
    trial = run.trial(number)
    write_atomic(trial.params, json.dumps({"loss.focal.gamma": 4 * SHARES[number]}))
    for epoch in range(1, epochs + 1):
        scores = ValidationScores(miou=score_at(SHARES[number], epoch), constant_miou=0.1)
        trial.append_epoch(EpochRecord(epoch=epoch, step=epoch, validation=scores))
    trial.write_verdict(Verdict(state=state, epoch=epochs, step=epochs))


def written(study: Study, folder: Path, lengths: Sequence[int]) -> SearchDir:
    """Return a run folder with a trial of each length; the last trial is unhealthy."""
    run = SearchDir(folder / "runs" / "a")
    prepare_study(run, study)
    for number, epochs in enumerate(lengths):
        state: State = "completed" if epochs == EPOCHS else "paused"
        write_trial(run, number, epochs, "unhealthy" if number == len(lengths) - 1 else state)
    return run


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    """Sixteen trials: seven complete ones and an unhealthy one, and eight that wait at rung 1."""
    return written(study, tmp_path, [EPOCHS, 1] * 7 + [1, EPOCHS])


def summary(study: Study, run: SearchDir) -> str:
    text = io.StringIO()
    print_summary(study, run, Console(file=text, width=180))
    return text.getvalue()


def text_of(html: str) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_orders_at_the_rungs_are_compared_with_the_ends(study: Study, run: SearchDir) -> None:
    worths = rung_worths(study, run)
    assert [(worth.rung, worth.num_trials) for worth in worths] == [(1, 7), (3, 7)]
    assert worths[0].by_score == pytest.approx(-1.0)
    assert worths[0].by_expected > 0.8
    # At epoch 3 the order is still reversed: 0.5 < 0.9 * 2/3.
    assert worths[1].by_score == pytest.approx(-1.0)


def test_worths_are_those_of_the_rule_of_the_search(study: Study, run: SearchDir) -> None:
    rule = stopping_rule(study)
    assert isinstance(rule, ExpectedHalving)
    for number, share in enumerate(SHARES[:-1]):  # the last trial is unhealthy
        rule.begin(number, {"loss.focal.gamma": 4 * share})
        epochs = (1, 3, EPOCHS) if number % 2 == 0 and number < 14 else (1,)
        rule.scores[number] = {epoch: score_at(share, epoch) for epoch in epochs}
    assert [rule.worth(1), rule.worth(3)] == rung_worths(study, run)


def test_summary_has_a_sentence_for_each_rung(study: Study, run: SearchDir) -> None:
    lines = [line for line in summary(study, run).splitlines() if line.startswith("rung ")]
    worth = rung_worths(study, run)[0]
    assert lines[0] == (
        "rung 1:      the score ranks the 7 trials that went on with a correlation of -1.00 to "
        f"their ends, the expected end with {worth.by_expected:.2f}; trials go on by expected end"
    )
    assert [line[:7] for line in lines] == ["rung 1:", "rung 3:"]


def test_page_has_a_table_of_the_rungs(study: Study, run: SearchDir) -> None:
    text = text_of(page(study, run))
    assert CAPTION in text
    head = "rung (epoch) trials that went on score expected end trials go on by"
    worth = rung_worths(study, run)[0]
    assert f"{head} 1 7 -1.00 {worth.by_expected:.2f} expected end 3 7 " in text


def test_nothing_is_shown_of_rungs_with_few_trials_beyond(study: Study, tmp_path: Path) -> None:
    # One of the six trials beyond rung 1 is unhealthy.
    run = written(study, tmp_path, [EPOCHS] * 5 + [1] * 10 + [EPOCHS])
    assert "\nrung " not in summary(study, run)
    assert "Rungs" not in text_of(page(study, run))


def test_only_rungs_with_enough_trials_are_shown(study: Study, tmp_path: Path) -> None:
    run = written(study, tmp_path, [3] * 6 + [EPOCHS] * 5 + [1] * 5)
    assert [(worth.rung, worth.num_trials) for worth in rung_worths(study, run)] == [(1, 11)]


@pytest.mark.parametrize("scheduler", ["none", {"median": {"grace_epochs": 1}}])
def test_search_without_rungs_shows_none(
    make_study: MakeStudy, tmp_path: Path, scheduler: Any
) -> None:
    study = make_study(scheduler)
    run = written(study, tmp_path, [EPOCHS] * 16)
    assert rung_lines(study, run) == []
    assert rung_worths(study, run) == []


@pytest.mark.parametrize(
    ("scheduler", "order"),
    [
        ({"asha": ASHA}, "expected end"),
        ({"asha": {**ASHA, "order": "score"}}, "score"),
        ({"asha": {**ASHA, "pause": False}}, "score"),
        ({"hyperband": ASHA}, "score"),
    ],
)
def test_line_says_by_what_trials_go_on(
    make_study: MakeStudy, tmp_path: Path, scheduler: Any, order: str
) -> None:
    study = make_study(scheduler)
    run = written(study, tmp_path, [EPOCHS, 1] * 8)
    # The trials of the last brackets of Hyperband pass rung 1 without a decision.
    assert [line.order for line in rung_lines(study, run)] == [order, order]


def test_trials_go_on_by_score_if_it_is_worth_more(
    study: Study, run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    worth = RungWorth(rung=1, num_trials=9, by_score=0.73, by_expected=0.41)
    monkeypatch.setattr(rung_worth, "rung_worths", lambda study, run: [worth])
    [line] = rung_lines(study, run)
    assert line.cells == ("1", "9", "0.73", "0.41", "score")
    assert line.sentence.endswith("expected end with 0.41; trials go on by score")


def test_running_trials_count_and_only_the_latest_of_many(
    study: Study, run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.trial(0).verdict.unlink()
    monkeypatch.setattr(rung_worth, "MAX_FITTED", 5)
    assert [worth.num_trials for worth in rung_worths(study, run)] == [7, 7]
    monkeypatch.setattr(rung_worth, "MAX_TRIALS", 13)  # of 15 healthy ones
    assert [worth.num_trials for worth in rung_worths(study, run)] == [6, 6]
