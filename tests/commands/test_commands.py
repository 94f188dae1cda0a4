"""Laws of the commands: one clear message per mistake, reliable exit codes, late heavy imports."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import segtune
from segtune.__main__ import COMMANDS
from segtune.__main__ import main as program
from segtune.api import run_training
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.search import argument_parser, newest_name, next_name, resume_command
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

HEAVY = (
    "torch",
    "ray",
    "transformers",
    "timm",
    "optuna",
    "pandas",
    "albumentations",
    "cv2",
    "numpy",
    "plotly",
    "matplotlib",
    "jinja2",
)
IMPORTED_BY_HELP = """
import sys, {module} as command
try:
    command.main(["--help"])
except SystemExit:
    pass
print([name for name in {heavy} if name in sys.modules])
"""


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_help_imports_nothing_heavy(module: str) -> None:
    code = IMPORTED_BY_HELP.format(module=module, heavy=HEAVY)
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "usage: segtune" in out
    assert out.splitlines()[-1] == "[]"


def test_program_lists_its_commands_and_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)
    assert program(["serch"]) == 2
    assert "did you mean 'search'" in capsys.readouterr().err
    assert program(["--version"]) == 0
    assert segtune.__version__ in capsys.readouterr().out


@pytest.fixture
def files(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    """A folder with a config, c.yaml, and a study of it, s.yaml."""
    (tmp_path / "c.yaml").write_text(write_yaml(tiny_config.dump()))
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    asha = {"grace_epochs": 1, "reduction": 2, "pause": False}
    search = {"trials": 3, "scheduler": {"asha": asha}}
    study = {"config": "c.yaml", "space": space, "search": search}
    (tmp_path / "s.yaml").write_text(write_yaml(study))
    return tmp_path


def test_user_error_is_one_message_without_traceback_and_exit_code_2(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["train", "--config", str(files / "cc.yaml"), "--out", "x"]) == 2
    assert "no such file; did you mean 'c.yaml'" in capsys.readouterr().err
    assert program(["config", str(files / "c.yaml"), "--set", "optim.lrr=3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --set: optim.lrr: no such setting; did you mean 'optim.lr'?")
    assert "Traceback" not in error
    assert program(["status", str(files)]) == 2


ABSENT_DATA = ["--set", "data.root=/nowhere/at/all", "--set", "data.layout=voc"]


def test_absent_data_set_is_named_by_search(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["search", "--space", str(files / "s.yaml"), "--dry-run", *ABSENT_DATA]) == 2
    assert "data.root: no folder '/nowhere/at/all'" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["voc", "ade20k", "folder"])
def test_absent_data_set_is_named_by_train(
    files: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    data = ["--set", "data.root=/nowhere/at/all", "--set", f"data.layout={layout}"]
    config = str(files / "c.yaml")
    assert program(["train", "--config", config, "--out", str(files / "run"), *data]) == 2
    assert "data.root: no folder '/nowhere/at/all'" in capsys.readouterr().err


def test_config_is_shown_resolved_and_described(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["config", str(files / "c.yaml"), "--set", "optim.lr=0.25"]) == 0
    assert "lr: 0.25" in capsys.readouterr().out
    assert program(["config", "--describe"]) == 0
    assert "focusing" in capsys.readouterr().out


def test_dry_run_prints_the_plan_and_starts_nothing(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--space", str(files / "s.yaml"), "--out", str(files / "runs")]
    assert program([*command, "--dry-run", "--trials", "5"]) == 0
    plan = capsys.readouterr().out
    for part in (
        "24 training and 7 validation images, 7 classes",
        "5, drawn by curves",
        "2 of 3 steps",
        "rungs:      epochs 1",
        "0: {'optim.lr': 0.001}",
    ):
        assert part in plan
    assert not (files / "runs").exists()


@pytest.fixture
def trained(files: Path) -> Path:
    """The folder of a finished training run of c.yaml."""
    out = files / "run"
    assert program(["train", "--config", str(files / "c.yaml"), "--out", str(out)]) == 0
    return out


def best_miou(trained: Path) -> str:
    rows = map(json.loads, (trained / "epochs.jsonl").read_text().splitlines())
    return f"{100 * max(row['miou'] for row in rows):.2f}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_used_folder_is_refused_before_anything_starts(
    files: Path, trained: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    before = (trained / "epochs.jsonl").read_bytes()
    command = ["train", "--config", str(files / "c.yaml"), "--out", str(trained)]
    assert program([*command, "--workers", workers]) == 2
    error = capsys.readouterr().err
    assert "holds a training run already; continue it with --resume, replace it with" in error
    assert (trained / "epochs.jsonl").read_bytes() == before


def test_overwrite_replaces_the_training_run(files: Path, trained: Path) -> None:
    command = ["train", "--config", str(files / "c.yaml"), "--out", str(trained)]
    assert program([*command, "--overwrite", "--set", "schedule.epochs=1"]) == 0
    assert len((trained / "epochs.jsonl").read_text().splitlines()) == 1


def test_resume_excludes_a_new_start(files: Path) -> None:
    command = ["train", "--config", str(files / "c.yaml"), "--out", "x", "--resume"]
    for start in (["--overwrite"], ["--init-from", "y"]):
        with pytest.raises(SystemExit) as stop:
            program([*command, *start])
        assert stop.value.code == 2


def test_evaluate_finds_the_miou_of_the_training_run(
    trained: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, overlays = files / "e.csv", files / "show"
    command = ["evaluate", "--checkpoint", str(trained)]
    assert program([*command, "--csv", str(table), "--show-dir", str(overlays)]) == 0
    assert best_miou(trained) in capsys.readouterr().out
    rows = list(csv.reader(table.open()))
    assert rows[0] == ["Class", "IoU", "Acc"]
    assert rows[-2][:2] == ["mean", best_miou(trained)]
    assert len(list(overlays.glob("*.png"))) == 7


def test_evaluate_averages_augmented_predictions(
    trained: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--checkpoint", str(trained), "--csv"]
    augmentation = ["--flip", "--scales", "0.5,1", "--window", "32", "--stride", "16"]
    assert program([*command, str(files / "plain.csv")]) == 0
    assert program([*command, str(files / "augmented.csv"), *augmentation]) == 0
    assert (files / "augmented.csv").read_text() != (files / "plain.csv").read_text()
    assert program([*command, str(files / "x.csv"), "--scales", "large"]) == 2
    assert "--scales: expected numbers" in capsys.readouterr().err


def test_absent_data_set_is_named_by_evaluate(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["evaluate", "--checkpoint", str(trained), *ABSENT_DATA]) == 2
    assert "data.root: no folder '/nowhere/at/all'" in capsys.readouterr().err


def test_evaluate_reads_the_classes_where_the_data_set_is_now(trained: Path, files: Path) -> None:
    config = segtune.load_config(files / "c.yaml")
    # A data set whose class names are a file of its own, and that is moved after the training.
    old, new = files / "data", files / "moved"
    shutil.copytree(config.data.root, old)
    names = ["background", "box", "disc", "triangle", "ring", "line", "dot"]
    (old / "labels.txt").write_text("\n".join(names) + "\n")
    out = files / "of_old"
    data = ["--set", f"data.root={old}", "--set", "data.layout=voc"]
    data += ["--set", f"data.classes={old / 'labels.txt'}"]
    assert program(["train", "--config", str(files / "c.yaml"), "--out", str(out), *data]) == 0
    old.rename(new)
    moved = ["--set", f"data.root={new}", "--set", f"data.classes={new / 'labels.txt'}"]
    assert program(["evaluate", "--checkpoint", str(out), *moved]) == 0


def test_predict_writes_an_overlay_for_each_image(
    trained: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(segtune.load_config(files / "c.yaml").data.root)
    image = next(root.glob("JPEGImages/*.jpg"))
    command = ["predict", "--checkpoint", str(trained), "--out", str(files / "p")]
    assert program([*command, str(image)]) == 0
    assert (files / "p" / f"{image.stem}.png").exists()
    assert program([*command, str(files / "nothing.jpg")]) == 2
    assert "nothing.jpg: no such image" in capsys.readouterr().err


def test_unhealthy_training_exits_with_3_and_says_why(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["train", "--config", str(files / "c.yaml"), "--out", str(files / "bad")]
    for assignment in ("optim.name=sgd", "optim.lr=1e30", "schedule.warmup_epochs=0"):
        command += ["--set", assignment]
    assert program(command) == 3
    assert "unhealthy: non-finite: " in caplog.text


@pytest.fixture
def run(files: Path) -> SearchDir:
    """A search run of s.yaml with three trials; the best of them is trial 1."""
    study, run = load_study(files / "s.yaml"), SearchDir(files / "runs" / "s-1")
    prepare_study(run, study)
    ends: list[tuple[float, float, State]] = [
        (1e-3, 0.2, "completed"),
        (1e-2, 0.4, "pruned"),
        (1e-1, 0.9, "unhealthy"),
    ]
    for number, (lr, miou, state) in enumerate(ends):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": lr}))
        write_atomic(trial.config, write_yaml(study.config.override({"optim.lr": lr}).dump()))
        scores = ValidationScores(miou=miou, constant_miou=0.1)
        trial.append_epoch(EpochRecord(epoch=1, seconds=1.0, validation=scores))
        kind = "non-finite" if state == "unhealthy" else ""
        evidence = "the loss is nan" if kind else ""
        trial.write_verdict(Verdict(state=state, kind=kind, epoch=1, evidence=evidence))
    return run


def test_status_ranks_the_trials_and_gives_reasons(
    run: SearchDir, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert program(["status", str(run.path), "--csv", str(tmp_path / "t.csv")]) == 0
    out = capsys.readouterr().out
    assert out.index("0001") < out.index("0000")
    assert "trial 0002 unhealthy: non-finite: the loss is nan" in out
    best = "best:        trial 0001, mIoU 40.00 at epoch 1; the config itself (trial 0, *): 20.00"
    assert best in out
    assert f"retrain it:  segtune retrain {run.path}\n" in out
    columns = (tmp_path / "t.csv").read_text().splitlines()[0]
    assert columns == "trial,state,kind,miou,epoch,seconds,optim.lr"


def test_export_writes_a_config_that_trains(
    run: SearchDir, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "b.yaml"
    command = ["export", str(run.path), "--out", str(out)]
    assert program([*command, "--set", "schedule.epochs=1"]) == 0
    config = segtune.load_config(out)
    assert (config.optim.lr, config.schedule.epochs) == (1e-2, 1)
    assert run_training(config, tmp_path / "again").verdict.state == "completed"
    assert program([*command, "--trial", "0"]) == 0
    assert segtune.load_config(out).optim.lr == 1e-3
    assert program([*command, "--trial", "7"]) == 2
    assert "no trial 7; trials: 0000, 0001, 0002" in capsys.readouterr().err


def test_stop_writes_its_request_into_the_folder(run: SearchDir) -> None:
    assert program(["stop", str(run.path)]) == 0
    assert run.stop_request.exists()


def test_used_search_run_is_not_overwritten(
    run: SearchDir, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run.study.read_bytes()
    space, out = str(files / "s.yaml"), str(files / "runs")
    command = ["search", "--space", space, "--out", out, "--name", "s-1", "--trials", "99"]
    assert program(command) == 2
    assert "holds a search run already; continue it with --resume" in capsys.readouterr().err
    assert run.study.read_bytes() == before


def test_resume_of_a_live_search_leaves_its_study_as_it_is(
    run: SearchDir, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run.study.read_bytes()
    space, out = str(files / "s.yaml"), str(files / "runs")
    command = ["search", "--space", space, "--out", out, "--name", "s-1", "--resume"]
    with run.locked():
        assert program([*command, "--trials", "99"]) == 2
    assert "another search is using this folder" in capsys.readouterr().err
    assert run.study.read_bytes() == before


def test_resume_of_an_absent_search_creates_no_folder(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, out = str(files / "s.yaml"), files / "runs"
    assert program(["search", "--space", space, "--out", str(out), "--name", "x", "--resume"]) == 2
    assert "no search has been run here" in capsys.readouterr().err
    assert not (out / "x").exists()


def test_resume_refuses_another_study(run: SearchDir, files: Path) -> None:
    prepare_study(run, load_study(files / "s.yaml", search={"trials": 9}), resume=True)
    assert load_study(run.study).search.trials == 9
    other = load_study(files / "s.yaml", overrides=["seed=1"])
    with pytest.raises(RunError, match=r"seed: 1 here, 0 there"):
        prepare_study(run, other, resume=True)


def test_names_of_search_runs_count_up(run: SearchDir, files: Path) -> None:
    out = files / "runs"
    assert next_name(out, "s") == "s-2"
    assert newest_name(out, "s") == "s-1"
    run.path.rename(out / "s-9")
    (out / "s-10").mkdir()
    (out / "s-10" / "study.yaml").touch()
    assert newest_name(out, "s") == "s-10"
    with pytest.raises(RunError, match="give its --name"):
        newest_name(out, "t")


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "search"],
        ["--name=search", "--out=my runs"],
        ["--name", "x", "--config", "search", "--address", "auto"],
        ["--name", "x", "--resume", "--max-concurrent", "3"],
        ["--name", "x", "--extend", "--trials", "9", "--seed", "5"],
        ["--set", "data.val=--name", "--set", "data.train=[a, b]", "--workers-per-trial=2"],
        ["--out=-runs", "--gpus-per-worker", "0.5"],
    ],
)
def test_resume_command_means_the_same_search(options: list[str]) -> None:
    started = argument_parser().parse_args(["--space", "s.yaml", *options])
    name = started.name or "s-1"
    python, module, program, *words = shlex.split(resume_command(started, name))
    assert (python, module, program) == ("python", "-m", "segtune.search")
    resumed = argument_parser().parse_args(words)
    # An extended space is in the search run's own study.yaml by then.
    expected = vars(started) | {"name": name, "resume": True, "extend": False}
    assert vars(resumed) == expected


def test_resume_command_leaves_out_the_warm_start() -> None:
    started = argument_parser().parse_args(["--warm-start", "a", "b", "--space", "s.yaml"])
    expected = "python -m segtune.search --space s.yaml --out runs --name s-1 --resume"
    assert resume_command(started, "s-1") == expected


@pytest.mark.ray
@pytest.mark.slow
def test_overwrite_replaces_the_training_run_on_workers_too(files: Path, trained: Path) -> None:
    command = ["train", "--config", str(files / "c.yaml"), "--out", str(trained)]
    options = ["--workers", "2", "--overwrite", "--set", "schedule.epochs=1"]
    assert program([*command, *options]) == 0
    assert len((trained / "epochs.jsonl").read_text().splitlines()) == 1
