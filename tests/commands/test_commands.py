"""Laws of the commands: one clear message per mistake, exit codes that scripts can trust, nothing heavy before it is needed."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import segtune
from segtune.__main__ import COMMANDS
from segtune.__main__ import main as program
from segtune.api import prepare, run_training
from segtune.config.yaml_io import write_yaml
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.search import newest_name, next_name
from segtune.tuning.study import load_study

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
    "jinja2",
)


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_help_imports_nothing_heavy(module):
    code = f"import sys, {module}\ntry: {module}.main(['--help'])\nexcept SystemExit: pass\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "usage: segtune" in out
    assert out.splitlines()[-1] == "[]"


def test_program_lists_its_commands_and_names_the_nearest(capsys):
    assert program(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)
    assert program(["serch"]) == 2
    assert "did you mean 'search'" in capsys.readouterr().err
    assert program(["--version"]) == 0
    assert segtune.__version__ in capsys.readouterr().out


@pytest.fixture
def files(tiny_config, tmp_path):
    (tmp_path / "c.yaml").write_text(write_yaml(tiny_config.dump()))
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    search = {"trials": 3, "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2}}}
    (tmp_path / "s.yaml").write_text(
        write_yaml({"config": "c.yaml", "space": space, "search": search})
    )
    return tmp_path


def test_user_errors_exit_with_2_and_one_message_without_traceback(files, capsys):
    assert program(["train", "--config", str(files / "cc.yaml"), "--out", "x"]) == 2
    assert "no such file; did you mean 'c.yaml'" in capsys.readouterr().err
    assert program(["config", str(files / "c.yaml"), "--set", "optim.lrr=3"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --set: optim.lrr: no such setting; did you mean 'optim.lr'?")
    assert "Traceback" not in told
    assert program(["status", str(files)]) == 2
    assert (
        program(
            [
                "search",
                "--space",
                str(files / "s.yaml"),
                "--dry-run",
                "--set",
                "data.root=/nowhere/at/all",
                "--set",
                "data.layout=voc",
            ]
        )
        == 2
    )
    assert "data.root: no folder '/nowhere/at/all'" in capsys.readouterr().err


def test_config_is_shown_resolved_and_described(files, capsys):
    assert program(["config", str(files / "c.yaml"), "--set", "optim.lr=0.25"]) == 0
    assert "lr: 0.25" in capsys.readouterr().out
    assert program(["config", "--describe"]) == 0
    assert "focusing" in capsys.readouterr().out


def test_dry_run_prints_the_plan_and_starts_nothing(files, capsys):
    assert (
        program(
            [
                "search",
                "--space",
                str(files / "s.yaml"),
                "--out",
                str(files / "runs"),
                "--dry-run",
                "--trials",
                "5",
            ]
        )
        == 0
    )
    plan = capsys.readouterr().out
    for part in (
        "24 training and 7 validation images, 7 classes",
        "5, drawn by gp",
        "2 of 3 steps",
        "rungs at 1",
        "0: {'optim.lr': 0.001}",
    ):
        assert part in plan
    assert not (files / "runs").exists()


def test_train_evaluate_predict_go_together(files, capsys):
    out = str(files / "run")
    assert program(["train", "--config", str(files / "c.yaml"), "--out", out]) == 0
    assert program(["train", "--config", str(files / "c.yaml"), "--out", out]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (
        program(
            [
                "evaluate",
                "--checkpoint",
                out,
                "--csv",
                str(files / "e.csv"),
                "--show-dir",
                str(files / "show"),
            ]
        )
        == 0
    )
    table = capsys.readouterr().out
    best = max(
        json.loads(line)["miou"]
        for line in (files / "run" / "epochs.jsonl").read_text().splitlines()
    )
    assert f"{100 * best:.2f}" in table
    rows = list(csv.reader((files / "e.csv").open()))
    assert rows[0] == ["Class", "IoU", "Acc"]
    assert rows[-2][:2] == ["mean", f"{100 * best:.2f}"]
    assert len(list((files / "show").glob("*.png"))) == 7
    image = next(Path(load_study(files / "s.yaml").config.data.root).glob("JPEGImages/*.jpg"))
    assert program(["predict", "--checkpoint", out, "--out", str(files / "p"), str(image)]) == 0
    assert (files / "p" / f"{image.stem}.png").exists()
    assert program(["predict", "--checkpoint", out, str(files / "nothing.jpg")]) == 2
    looks = [
        "--flip",
        "--scales",
        "0.5,1",
        "--window",
        "32",
        "--stride",
        "16",
        "--csv",
        str(files / "looks.csv"),
    ]
    assert program(["evaluate", "--checkpoint", out, *looks]) == 0
    assert (files / "looks.csv").read_text() != (files / "e.csv").read_text()
    assert program(["evaluate", "--checkpoint", out, "--scales", "large"]) == 2
    assert "--scales: expected numbers" in capsys.readouterr().err


def test_unhealthy_training_exits_with_3_and_says_why(files, capsys):
    options = [
        "--set",
        "optim.name=sgd",
        "--set",
        "optim.lr=1e30",
        "--set",
        "schedule.warmup_epochs=0",
    ]
    assert (
        program(["train", "--config", str(files / "c.yaml"), "--out", str(files / "bad"), *options])
        == 3
    )


@pytest.fixture
def run(files):
    study, run = load_study(files / "s.yaml"), SearchDir(files / "runs" / "s-1")
    prepare(run, study, resume=False)
    for number, (lr, miou, state) in enumerate(
        [(1e-3, 0.2, "completed"), (1e-2, 0.4, "pruned"), (1e-1, 0.9, "unhealthy")]
    ):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": lr}))
        write_atomic(trial.config, write_yaml(study.config.override({"optim.lr": lr}).dump()))
        trial.append_epoch({"epoch": 1, "miou": miou, "seconds": 1.0})
        trial.write_verdict(
            Verdict(
                state=state,
                kind="non-finite" if state == "unhealthy" else "",
                epoch=1,
                evidence="the loss is nan",
            )
        )
    return run


def test_status_ranks_the_trials_and_tells_reasons(run, capsys, tmp_path):
    assert program(["status", str(run.path), "--csv", str(tmp_path / "t.csv")]) == 0
    out = capsys.readouterr().out
    assert out.index("0001") < out.index("0000")
    assert "trial 0002 unhealthy: non-finite: the loss is nan" in out
    assert "best: trial 0001, mIoU 40.00 at epoch 1; the config itself (trial 0, *): 20.00" in out
    assert f"--config {run.best} --out {run.path / 'retrain'}\n" in out
    assert (tmp_path / "t.csv").read_text().splitlines()[
        0
    ] == "trial,state,kind,miou,epoch,seconds,optim.lr"


def test_export_writes_a_config_that_trains(run, capsys, tmp_path):
    assert (
        program(
            [
                "export",
                str(run.path),
                "--out",
                str(tmp_path / "b.yaml"),
                "--set",
                "schedule.epochs=1",
            ]
        )
        == 0
    )
    config = segtune.load_config(tmp_path / "b.yaml")
    assert (config.optim.lr, config.schedule.epochs) == (1e-2, 1)
    assert run_training(config, tmp_path / "again").verdict.state == "completed"
    assert program(["export", str(run.path), "--trial", "7"]) == 2
    assert "no trial 7; trials: 0000, 0001, 0002" in capsys.readouterr().err


def test_stop_leaves_its_request(run):
    assert program(["stop", str(run.path)]) == 0
    assert run.stop_request.exists()


def test_existing_run_is_not_overwritten_and_resume_refuses_another_study(run, files):
    study = load_study(files / "s.yaml")
    with pytest.raises(RunError, match="holds a run already"):
        prepare(run, study, resume=False)
    prepare(run, load_study(files / "s.yaml", search={"trials": 9}), resume=True)
    with pytest.raises(RunError, match=r"seed: 1 here, 0 there"):
        prepare(run, load_study(files / "s.yaml", overrides=["seed=1"]), resume=True)


def test_names_of_runs_count_up(run, files):
    out = files / "runs"
    assert next_name(out, "s") == "s-2"
    assert newest_name(out, "s") == "s-1"
    with pytest.raises(RunError, match="give its --name"):
        newest_name(out, "t")
