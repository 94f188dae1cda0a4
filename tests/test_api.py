"""Laws of the public functions: typed, results without exceptions, and guests in the process."""

import json
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import segtune
from segtune import predict
from segtune.api import SearchEvents
from segtune.config.yaml_io import write_yaml
from segtune.errors import DataError, RunError
from segtune.runs.environment import read_environments
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tuning.study import Study
from segtune.tuning.warm_start import WarmStart

ROOT = Path(__file__).parent.parent

USER_PROGRAM = """
import segtune

config: segtune.ExperimentConfig = segtune.load_config("c.yaml", overrides=["optim.lr=1e-4"])
trained: segtune.TrainResult = segtune.run_training(config, out="run")
verdict: segtune.Verdict = trained.verdict
study: segtune.Study = segtune.load_study("s.yaml")
result: segtune.StudyResult = segtune.run_study(study, out="runs", name="a", resume=True)
if result.best and not result.interrupted:
    print(result.best.config.optim.lr, result.best.miou + 0.1, len(result.trials))
segtune.run_study(study, colour="red")
"""


def test_user_program_is_checked_by_pyright(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(USER_PROGRAM)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    checked = subprocess.run([*command, str(program)], capture_output=True, text=True, cwd=ROOT)
    problems = [problem["message"] for problem in json.loads(checked.stdout)["generalDiagnostics"]]
    assert problems == ['No parameter named "colour"']


def test_files_that_are_not_python_are_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = {
        path
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = (path for path in (ROOT / "segtune").rglob("*") if path.is_file())
    assert shipped == {path for path in files if path.suffix not in (".py", ".pyc")}
    assert ROOT / "segtune" / "py.typed" in shipped


def test_package_imports_its_names_when_they_are_used() -> None:
    code = "import sys, segtune; print(sorted({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert all(getattr(segtune, name) for name in segtune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'run_studies'"):
        segtune.run_studies  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_training_leaves_the_random_states_of_the_process(
    tiny_config: segtune.ExperimentConfig, tmp_path: Path
) -> None:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    segtune.run_training(tiny_config, tmp_path / "run")
    assert torch.equal(before[0], torch.get_rng_state())
    assert str(before[1]) == str(np.random.get_state())
    assert before[2] == random.getstate()


def test_training_leaves_a_process_group_of_the_caller_open(
    tiny_config: segtune.ExperimentConfig, tmp_path: Path
) -> None:
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        segtune.run_training(tiny_config, tmp_path / "run")
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_training_run_is_replaced_only_on_request(
    tiny_config: segtune.ExperimentConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    segtune.run_training(tiny_config, out)
    before = TrialDir(out).epochs.read_bytes()
    with pytest.raises(RunError, match="holds a training run already"):
        segtune.run_training(tiny_config, out)
    assert TrialDir(out).epochs.read_bytes() == before
    shorter = tiny_config.override({"schedule.epochs": 1, "schedule.warmup_epochs": 0.0})
    assert segtune.run_training(shorter, out, overwrite=True).verdict.epoch == 1
    assert len(read_environments(TrialDir(out).environment)) == 2
    with pytest.raises(ValueError, match="`resume` continues a training run"):
        segtune.run_training(shorter, out, resume=True, overwrite=True)


def test_predicted_labels_are_those_of_the_command(
    tiny_config: segtune.ExperimentConfig, tmp_path: Path
) -> None:
    training = segtune.run_training(tiny_config.override({"schedule.epochs": 1}), tmp_path / "run")
    assert training.checkpoint
    folder = Path(tiny_config.data.root) / "JPEGImages"
    images = sorted(folder.iterdir())[:2]
    command = ["--checkpoint", str(tmp_path / "run"), "--labels", str(tmp_path / "labels")]
    assert predict.main([*command, *map(str, images)]) == 0
    labels = segtune.predict_labels(training.checkpoint, images)
    for path, predicted in zip(images, labels, strict=True):
        written = np.asarray(Image.open(tmp_path / "labels" / f"{path.stem}.png"))
        assert predicted.dtype == np.uint8
        assert np.array_equal(predicted, written)
    with pytest.raises(DataError, match=r"none\.png"):
        segtune.predict_labels(training.checkpoint, [tmp_path / "none.png"])


@pytest.fixture
def study_file(tiny_config: segtune.ExperimentConfig, tmp_path: Path) -> Path:
    tree = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {
            "trials": 2,
            "scheduler": "none",
            "sampler": "random",
            "max_concurrent": 1,
            "pictures": 0,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


class Recorder(SearchEvents):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_warm_start(self, earlier: WarmStart) -> None:
        self.events.append(f"warm start with {len(earlier.trials)} trials")

    def on_placement(self, study: Study, placement: str, dashboard_url: str) -> None:
        self.events.append(f"placed {study.num_trials} trials, {placement.split(',')[0]}")

    @contextmanager
    def watching(self, study: Study, run: SearchDir) -> Iterator[None]:
        self.events.append(f"start {run.path.name}")
        yield
        self.events.append(f"end {run.path.name}")


@pytest.mark.ray
@pytest.mark.slow
def test_search_returns_its_trials_and_reports_its_events(
    cluster: None,
    study_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = segtune.load_study(study_file, search={"trials": 1})
    first = segtune.run_study(study, tmp_path / "runs", "a")
    assert not first.interrupted
    recorder = Recorder()
    result = segtune.run_study(
        segtune.load_study(study_file),
        tmp_path / "runs",
        "b",
        warm_start=[first.run],
        events=recorder,
    )
    assert recorder.events == [
        "warm start with 1 trials",
        "start b",
        "placed 2 trials, 1 at the same time",
        "end b",
    ]
    columns = ["trial", "state", "kind", "miou", "epoch", "seconds", "optim.lr"]
    assert list(result.trials.columns) == columns
    assert list(result.trials["state"]) == ["completed", "completed"]
    assert result.best is not None
    assert result.best.miou == result.trials["miou"].max()
    assert result.best.config == segtune.load_config(result.run / "best.yaml")
    more = segtune.load_study(study_file, search={"trials": 3})
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert len(segtune.run_study(more, tmp_path / "runs", "b", resume=True).trials) == 3
    assert "results may differ: NVIDIA_TF32_OVERRIDE: 1 now, not known before" in caplog.text
    sessions = read_environments(SearchDir(result.run).environment)
    assert [session.seeds for session in sessions] == [{"search": 0, "config": 0}] * 2


INTERRUPTED_PROGRAM = """
import json, os, signal, sys, threading, time
from pathlib import Path

import segtune
from segtune import stop

study_file, out, wait_for, *actions = sys.argv[1:]


def interrupt():
    while not (Path(out) / "a" / wait_for).exists():
        time.sleep(0.02)
    for action in actions:
        if action == "stop":
            stop.main([str(Path(out) / "a")])
        else:
            os.kill(os.getpid(), signal.Signals[action])
        time.sleep(0.5)


study = segtune.load_study(study_file, overrides=["schedule.epochs=2000"])
threading.Thread(target=interrupt, daemon=True).start()
result = segtune.run_study(study, out, "a")
print(json.dumps({"interrupted": result.interrupted, "states": list(result.trials["state"])}))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("wait_for", "actions", "states"),
    [
        ("trials/0000/epochs.jsonl", ["SIGINT"], [["interrupted"]]),
        # After a second Ctrl-C nothing waits for the trial: it may have no verdict yet.
        ("trials/0000/epochs.jsonl", ["SIGINT", "SIGINT"], [["interrupted"], ["running"]]),
        ("trials/0000/epochs.jsonl", ["SIGTERM"], [["interrupted"]]),
        ("trials/0000/epochs.jsonl", ["stop"], [["interrupted"]]),
        ("study.yaml", ["SIGINT"], [[]]),  # while Ray starts
    ],
    ids=["Ctrl-C", "Ctrl-C twice", "SIGTERM", "segtune stop", "Ctrl-C while Ray starts"],
)
def test_interrupted_search_is_a_result(
    study_file: Path, tmp_path: Path, wait_for: str, actions: list[str], states: list[list[str]]
) -> None:
    arguments = [str(study_file), str(tmp_path / "runs"), wait_for, *actions]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["interrupted"]
    assert result["states"] in states
    assert "KeyboardInterrupt" not in done.stderr
