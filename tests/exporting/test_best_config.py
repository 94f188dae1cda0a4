"""best.yaml: short, with comments that say where each value comes from, and the same config."""

import json
from pathlib import Path

import pytest

import segtune
from segtune import confirm, export
from segtune.checks.confirmed_best import confirmation_line
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.exporting.best_config import trial_config_text, write_best
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.confirm_study import confirm_study, plan_confirmation
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

SPACE = {
    "optim.lr": {"loguniform": [1e-5, 1e-1]},
    "loss.focal.form": {"choice": ["sigmoid", "softmax"]},
}


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    tree = {
        "config": tiny_config.dump(),
        "space": SPACE,
        "search": {"trials": 3, "scheduler": "none", "sampler": "random"},
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def end(
    trial: TrialDir, params: dict[str, object], miou: float, state: State = "completed"
) -> None:
    write_atomic(trial.params, json.dumps(params))
    trial.append_epoch(EpochRecord(1, 1, 1.0, validation=ValidationScores(miou, 0.0)))
    trial.write_verdict(Verdict(state=state, epoch=1, kind="x" if state == "unhealthy" else ""))


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    """Return a search run whose trial 1 is 30 mIoU better than the config itself."""
    run = SearchDir(tmp_path / "runs" / "a")
    prepare_study(run, study)
    end(run.trial(0), {"optim.lr": 1e-3, "loss.focal.form": "sigmoid"}, 0.2)
    end(run.trial(1), {"optim.lr": 1e-2, "loss.focal.form": "sigmoid"}, 0.5)
    end(run.trial(2), {"optim.lr": 1e-1, "loss.focal.form": "softmax"}, 0.1, "unhealthy")
    return run


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("# ")]


def test_head_says_where_the_config_comes_from(run: SearchDir, study: Study) -> None:
    trials = read_trials(run)
    write_best(study, run, trials[1], trials)
    assert comments(run.best.read_text()) == [
        "# trial 0001 of a: mIoU 50.00 at epoch 1",
        "# 3 of 3 trials have ended; the config itself (trial 0): mIoU 20.00 at epoch 1",
        f"# confirmed: {confirmation_line(run, trials[1])}",
        f"# Absent settings have the defaults of segtune {segtune.__version__}; with every "
        f"setting: segtune export {run.path} --full",
    ]


def test_each_searched_setting_says_what_the_config_itself_has(
    run: SearchDir, study: Study
) -> None:
    text = trial_config_text(study, run, read_trials(run)[1])
    assert "  lr: 0.01  # chosen by the search; the config itself has 0.001\n" in text
    assert "    form: sigmoid  # searched; as in the config itself\n" in text


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("full", [False, True])
def test_every_trial_loads_to_its_config(
    run: SearchDir, study: Study, number: int, full: bool, tmp_path: Path
) -> None:
    trial = read_trials(run)[number]
    out = tmp_path / "c.yaml"
    out.write_text(trial_config_text(study, run, trial, full=full))
    assert load_config(out) == study.config.override(trial.params)
    assert (len(out.read_text().splitlines()) > 100) == full


def test_while_the_search_runs_it_counts_nothing(run: SearchDir, study: Study) -> None:
    write_best(study, run, read_trials(run)[1])
    text = run.best.read_text()
    assert "# The search was still running when this was written.\n" in text
    assert "confirmed" not in text


def test_confirmation_is_added_to_best_yaml(run: SearchDir, study: Study) -> None:
    trials = read_trials(run)
    write_best(study, run, trials[1], trials)
    before = load_config(run.best)
    fresh = confirm_study(study, run, plan_confirmation(study, run, 1, 3))
    prepare_study(run.confirm, fresh)
    scores = [0.20, 0.30, 0.22, 0.33, 0.21, 0.30]
    for number, (point, miou) in enumerate(zip(fresh.points(), scores, strict=True)):
        end(run.confirm.trial(number), point, miou)
    assert confirm.main([str(run.path), "--top", "1"]) == 0
    sentence = "trial 0001 is better than the config itself by 10.0 ± 2.5 mIoU (3 fresh seeds, p "
    assert f"# confirmed: {sentence}" in run.best.read_text()
    assert load_config(run.best) == before
    assert not run.confirm.best.exists()


def test_confirmation_at_full_length_reaches_the_best_yaml_of_the_search(
    run: SearchDir, study: Study
) -> None:
    # As after a search on a proxy: RUN/best.yaml is that of RUN/full.
    full = run.full
    prepare_study(full, study)
    end(full.trial(0), {"optim.lr": 1e-3, "loss.focal.form": "sigmoid"}, 0.3)
    end(full.trial(1), {"optim.lr": 2e-2, "loss.focal.form": "softmax"}, 0.6)
    trials = read_trials(full)
    write_best(study, full, trials[1], trials)
    write_atomic(run.best, full.best.read_bytes())
    assert "# trial 0001 of a/full: mIoU 60.00" in run.best.read_text()
    fresh = confirm_study(study, full, plan_confirmation(study, full, 1, 2))
    prepare_study(full.confirm, fresh)
    for number, point in enumerate(fresh.points()):
        end(full.confirm.trial(number), point, 0.3 + number / 100)
    assert confirm.main([str(full.path), "--top", "1", "--seeds", "2"]) == 0
    assert run.best.read_text() == full.best.read_text()
    assert "2 fresh seeds" in run.best.read_text()


def test_export_writes_short_full_and_changed_configs(
    run: SearchDir, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.yaml"
    expected = study.config.override({"optim.lr": 1e-2})
    assert export.main([str(run.path), "--out", str(out)]) == 0
    assert f"{out}: trial 0001, mIoU 50.00 at epoch 1\n" in capsys.readouterr().out
    assert load_config(out) == expected
    assert export.main([str(run.path), "--out", str(out), "--full"]) == 0
    assert load_config(out) == expected
    assert "lr: 0.01  # chosen by the search; the config itself has 0.001\n" in out.read_text()
    assert export.main([str(run.path), "--out", str(out), "--set", "schedule.epochs=7"]) == 0
    assert load_config(out) == expected.override({"schedule.epochs": 7})
    assert "  epochs: 7  # changed at the export\n" in out.read_text()


def test_another_trial_is_not_called_the_best(run: SearchDir, tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    assert export.main([str(run.path), "--out", str(out), "--trial", "0"]) == 0
    assert "# This is not the best trial of the search.\n" in out.read_text()
    assert "# trial 0000 of a: mIoU 20.00 at epoch 1\n" in out.read_text()
