"""The forecast of a real search, and steps in all of its slots."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtune.api import run_study
from segtune.checks.forecast_outcome import compare_with_outcome
from segtune.checks.forecast_record import read_forecast
from segtune.cluster import slot_tasks
from segtune.cluster.placement import Placement
from segtune.cluster.slot_tasks import costs_in_all_slots
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import RunError
from segtune.reporting.html import page
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

pytestmark = pytest.mark.ray


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    tree = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "search": {
            "trials": 2,
            "sampler": "random",
            "scheduler": "none",
            "cpus_per_worker": 1.0,
            "max_concurrent": 2,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def test_all_slots_take_steps_of_the_config_itself(cluster: None, study: Study) -> None:
    assert costs_in_all_slots(study, Placement(1, 1.0, 0.0, concurrent=1)) == []
    costs = costs_in_all_slots(study, Placement(1, 1.0, 0.0, concurrent=2))
    assert [(c.name, c.params, c.verdict) for c in costs] == [("the config itself", {}, None)] * 2
    assert all(c.step_s and c.val_image_s and c.checkpoint_bytes for c in costs)


def test_workers_of_one_slot_take_steps_together(cluster: None, study: Study) -> None:
    assert len(costs_in_all_slots(study, Placement(2, 1.0, 0.0, concurrent=1))) == 2


def test_slots_that_take_too_long_are_not_waited_for(
    cluster: None, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object) -> None:
        time.sleep(3600)

    monkeypatch.setattr(slot_tasks, "_measure_in_slot", hang)
    monkeypatch.setattr(slot_tasks, "TIMEOUT_S", 0.5)
    assert costs_in_all_slots(study, Placement(1, 1.0, 0.0, concurrent=2)) == []
    monkeypatch.undo()
    # The slots are free again.
    assert len(costs_in_all_slots(study, Placement(1, 1.0, 0.0, concurrent=2))) == 2


def test_a_search_is_forecast_before_its_first_trial_and_compared_at_its_end(
    cluster: None, study: Study, tmp_path: Path
) -> None:
    run = SearchDir(run_study(study, tmp_path, "a").run)
    record = read_forecast(run)
    assert record is not None
    assert record.first.total_s is not None
    assert record.first.num_ended == 0
    assert record.latest.num_ended == 2
    names = [row.name for row in compare_with_outcome(study, run)]
    assert names == ["total time", "one epoch of the config itself", "epochs", "disk"]
    assert "What was expected before the first trial" in page(study, run)


def test_a_search_on_a_full_disk_starts_no_trial_unless_it_is_not_checked(
    cluster: None, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segtune.checks.disk_need.free_bytes", lambda _: 5_000_000)
    with pytest.raises(RunError, match=r"5\.0 MB free, and the search needs about"):
        run_study(study, tmp_path, "a")
    assert not (tmp_path / "a").exists()
    # With --no-check, under the same name.
    search = study.search.override({"corner_steps": 0, "pictures": 0, "trials": 1})
    unchecked = Study(study.config, study.space, search)
    assert len(run_study(unchecked, tmp_path, "a").trials) == 1


def test_a_dry_run_prints_the_forecast(study: Study, tmp_path: Path) -> None:
    words = ["--space", str(tmp_path / "s.yaml"), "--out", str(tmp_path), "--dry-run"]
    command = [sys.executable, "-m", "segtune.search", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    starts = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert starts[-6:] == ["time", "saved", "finish", "hours", "disk", "memory"]
    assert " with 2 trial(s) at the same time" in done.stdout
    done = subprocess.run([*command, "--no-check"], capture_output=True, text=True, check=True)
    assert "finish:" not in done.stdout
