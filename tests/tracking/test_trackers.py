"""Weights & Biases and MLflow, offline: what they hold, and that they never end a training run."""

import json
import logging
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from recorded import events, points, train
from wandb.proto import wandb_internal_pb2

from segtune.api import run_study, run_training
from segtune.config.schema import ExperimentConfig, absolute_paths
from segtune.errors import ConfigError
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tracking import background
from segtune.tracking import open as trackers
from segtune.tracking.background import BackgroundTracker
from segtune.tracking.hyperparameters import group_name
from segtune.tracking.mlflow_run import plain, quiet, tracking_places
from segtune.tracking.tracker import Axis, TrackedRun, Tracker
from segtune.tuning.study_reader import load_study

# A file of wandb begins with 7 bytes, and then is a log of LevelDB: blocks of 32768 bytes with
# records of checksum, length and kind (1: whole, 2: first part, 3: middle, 4: last part).
BLOCK = 32768


CHANGED_LOG = {
    "to": ["tensorboard"],
    "every_s": 5.0,
    "every_steps": 1,
    "images": 3,
    "project": "other",
    "mlflow_uri": "http://server",
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of an empty database of MLflow: creating one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    quiet()
    return tracking_places(ExperimentConfig().log, folder)[0]


def wandb_records(folder: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Yield the records of the only offline run in a folder."""
    (file,) = folder.rglob("*.wandb")
    content = file.read_bytes()
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def test_wandb_run_folder_has_every_point_the_panels_and_the_settings(
    logged: ExperimentConfig, tmp_path: Path, offline: None
) -> None:
    train(logged.override({"log.to": ["wandb"], "log.images": 1}), tmp_path)
    history = wandb_history(tmp_path)
    steps = [row["step"] for row in history if "loss/total" in row]
    assert steps == [2, 4, 6]
    mious = {row["epoch"]: row["val/miou"] for row in history if "val/miou" in row}
    records = TrialDir(tmp_path).read_epochs()
    assert mious == {record.epoch: pytest.approx(record.miou) for record in records}
    panels = [name for row in history for name in row if name.startswith("images/")]
    assert len(panels) >= 2
    (run,) = (r.run for r in wandb_records(tmp_path) if r.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, run.job_type) == ("segtune", tmp_path.name, "train")
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert config["optim"]["lr"] == 1e-3
    assert not TrialDir(tmp_path).tensorboard.exists()


def test_mlflow_run_has_every_point_and_a_resume_continues_it(
    logged: ExperimentConfig, tmp_path: Path, database: str
) -> None:
    changes = {"log.to": ["mlflow"], "log.mlflow_uri": database, "log.project": "resumed"}
    config = logged.override({**changes, "log.images": 1})
    train(config, tmp_path, last=1)
    client = MlflowClient(database)
    (run,) = runs_of(client, "resumed")
    assert run.info.status == "KILLED"
    train(config, tmp_path, how="resume")
    (run,) = runs_of(client, "resumed")
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss/total")
    assert sorted({point.step for point in history}) == [2, 3, 4, 6]
    mious = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "val/miou")}
    records = TrialDir(tmp_path).read_epochs()
    assert mious == {record.epoch: pytest.approx(record.miou) for record in records}
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.tags["segtune.state"] == "completed"
    assert client.list_artifacts(run.info.run_id, "images")


def runs_of(client: MlflowClient, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def test_settings_of_the_log_may_change_at_a_resume_and_may_be_absent_before(
    logged: ExperimentConfig, tmp_path: Path
) -> None:
    train(logged.override({"log.to": []}), tmp_path, last=1)
    # As a version of segtune without these settings has written it.
    (manifest,) = tmp_path.glob("checkpoints/last-*/manifest.json")
    content = json.loads(manifest.read_text())
    del content["config"]["log"]
    manifest.write_text(json.dumps(content))
    changes = {f"log.{name}": value for name, value in CHANGED_LOG.items()}
    train(logged.override(changes), tmp_path, how="resume")
    assert [record.epoch for record in TrialDir(tmp_path).read_epochs()] == [1, 2]
    assert points(TrialDir(tmp_path).tensorboard_steps, "lr") == [4, 5, 6]


def test_mlflow_takes_every_name_of_a_class() -> None:
    assert plain("class_iou/Straße (nass): 50%") == "class_iou/Stra_e _nass__ 50_"


@pytest.mark.ray
@pytest.mark.slow
def test_trials_are_recognisable_have_no_panels_and_print_nothing(
    logged: ExperimentConfig,
    tmp_path: Path,
    offline: None,
    database: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    study = tmp_path / "study.yaml"
    config = logged.override(
        {
            "log.to": ["tensorboard", "wandb", "mlflow"],
            "log.mlflow_uri": database,
            "log.project": "searched",
        }
    )
    content = {
        "config": config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "search": {"trials": 2, "sampler": "random", "scheduler": "none", "corner_steps": 0},
    }
    study.write_text(json.dumps(content))
    result = run_study(load_study(study), tmp_path, "first")
    assert list(result.trials["state"]) == ["completed"] * 2
    assert "step" not in "".join(capfd.readouterr())

    trials = SearchDir(result.run).trial_dirs()
    tags = [run.data.tags for run in runs_of(MlflowClient(database), "searched")]
    assert {(t["segtune.search"], t["segtune.trial"]) for t in tags} == {
        ("first", "0000"),
        ("first", "0001"),
    }
    for trial in trials:
        (run,) = (r.run for r in wandb_records(trial.path) if r.WhichOneof("record_type") == "run")
        assert (run.run_group, run.display_name, run.job_type) == ("first", trial.id, "trial")
        assert events(trial.tensorboard).Tags()["images"] == []
        assert events(trial.tensorboard_steps).Tags()["scalars"]


def test_group_of_a_part_names_the_whole_search(tmp_path: Path) -> None:
    for folder in (tmp_path / "first", tmp_path / "first" / "confirm"):
        (folder / "trials").mkdir(parents=True)
        (folder / "study.yaml").write_text("space: {}")
    assert group_name(SearchDir(tmp_path / "first")) == "first"
    assert group_name(SearchDir(tmp_path / "first" / "confirm")) == "first/confirm"
    assert group_name(None) == ""


def test_database_of_mlflow_lies_in_the_folder_of_the_whole_search(
    tmp_path: Path, offline: None
) -> None:
    for folder in (tmp_path / "first", tmp_path / "first" / "confirm"):
        (folder / "trials").mkdir(parents=True)
        (folder / "study.yaml").write_text("space: {}")
    (tmp_path / "first" / "mlflow.db").touch()
    trial = tmp_path / "first" / "confirm" / "trials" / "0001"
    uri, images = tracking_places(ExperimentConfig().log, trial)
    assert uri == f"sqlite:///{tmp_path}/first/mlflow.db"
    assert images == (tmp_path / "first" / "mlartifacts").as_uri()


def test_relative_database_is_that_of_the_folder_in_which_the_command_runs() -> None:
    config = ExperimentConfig().override({"log.mlflow_uri": "sqlite:///all.db"})
    # Workers of Ray run in other folders.
    assert absolute_paths(config).log.mlflow_uri == f"sqlite:///{Path.cwd()}/all.db"


def test_missing_package_ends_training_before_it_begins(
    logged: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    config = logged.override({"log.to": ["mlflow"]})
    with pytest.raises(ConfigError, match=r'pip install "segtune\[mlflow\]"'):
        run_training(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run_training(logged, tmp_path / "run")  # TensorBoard needs no package of its own


class Broken(Tracker):
    """Fails at the first call of one method."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.calls: list[str] = []

    def _call(self, method: str) -> None:
        self.calls.append(method)
        if method == self.method:
            raise ConnectionError("no route")

    def begin(self, run: TrackedRun) -> None:
        self._call("begin")

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        self._call("add")

    def end(self, summary: Mapping[str, float], verdict: object) -> None:
        self._call("end")


@pytest.mark.parametrize(
    ("method", "calls"),
    [("begin", ["begin"]), ("add", ["begin", "add"]), ("end", ["begin", "add", "add", "end"])],
)
def test_tracker_that_fails_is_left_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, calls: list[str]
) -> None:
    broken = Broken(method)
    tracker = BackgroundTracker("wandb", broken)
    tracker.begin(TrackedRun("r", "", ExperimentConfig(), {}, TrialDir(tmp_path), 0, 0))
    for step in (1, 2):
        tracker.add({"loss/total": 1.0}, "step", step)
    tracker.end({}, None)
    assert broken.calls == calls
    assert len(caplog.records) == 1
    assert "log.to: wandb has failed: ConnectionError: no route" in caplog.text


def test_training_goes_on_without_a_server(
    logged: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    changes = {"log.to": ["mlflow"], "log.mlflow_uri": "http://127.0.0.1:9"}
    result = run_training(logged.override(changes), tmp_path)
    assert result.verdict.state == "completed"
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([text for text in warnings if text.startswith("log.to: mlflow has failed")]) == 1


class Slow(Tracker):
    """Takes no point before it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.positions: list[int] = []

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        self.released.wait(60)
        self.positions.append(position)


def test_slow_tracker_does_not_hold_up_the_steps(tmp_path: Path) -> None:
    slow = Slow()
    tracker = BackgroundTracker("mlflow", slow)
    tracker.begin(TrackedRun("r", "", ExperimentConfig(), {}, TrialDir(tmp_path), 0, 0))
    for step in range(1, 4):
        tracker.add({}, "step", step)
    assert slow.positions == []
    slow.released.set()
    tracker.end({}, None)
    assert slow.positions == [1, 2, 3]


def test_end_does_not_wait_for_a_tracker_that_was_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "MAX_WAITING", 2)
    slow = Slow()
    tracker = BackgroundTracker("mlflow", slow)
    tracker.begin(TrackedRun("r", "", ExperimentConfig(), {}, TrialDir(tmp_path), 0, 0))
    for step in range(1, 6):
        tracker.add({}, "step", step)
    assert "mlflow is too slow" in caplog.text
    monkeypatch.setattr(background, "END_TIMEOUT_S", None)  # to wait would be for ever
    tracker.end({}, None)
    slow.released.set()
    tracker._thread.join(10)
    assert not tracker._thread.is_alive()
    assert len(slow.positions) <= 1


def test_password_of_a_server_is_in_no_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = "http://me:Pass-of-the-team@127.0.0.1:9"

    class Refused(Tracker):
        def begin(self, run: TrackedRun) -> None:
            raise ConnectionError(f"API request to {uri}/api failed")

    tracker = BackgroundTracker("mlflow", Refused())
    tracker.begin(TrackedRun("r", "", ExperimentConfig(), {}, TrialDir(tmp_path), 0, 0))
    tracker.end({}, None)
    assert "API request to http://***@127.0.0.1:9/api failed" in caplog.text


def test_settings_that_trackers_receive_have_no_password(tmp_path: Path) -> None:
    config = ExperimentConfig().override({"log.mlflow_uri": "http://me:secret@server:5000"})
    run = TrackedRun("r", "", config, {}, TrialDir(tmp_path), 0, 0)
    assert run.settings["log"]["mlflow_uri"] == "http://***@server:5000"
    assert run.settings["optim"] == config.dump()["optim"]
