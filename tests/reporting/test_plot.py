"""Laws of `segtune plot`: which runs a path stands for, its messages, and what it writes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting.curve_sources import read_runs
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def write_run(path: Path, config: ExperimentConfig, miou: float, num_epochs: int = 2) -> TrialDir:
    trial = TrialDir(path)
    write_atomic(trial.config, write_yaml(config.dump()))
    for epoch in range(1, num_epochs + 1):
        trial.append_epoch(
            EpochRecord(
                epoch=epoch,
                step=10 * epoch,
                seconds=2.0 * epoch,
                lr=0.01,
                losses={"loss": 1.0 / epoch},
                validation=ValidationScores(miou * epoch, 0.05, class_iou=(0.1,) * 7),
            )
        )
    return trial


@pytest.fixture
def run(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    trial = write_run(tmp_path / "runs" / "my first", tiny_config, 0.2)
    trial.write_verdict(Verdict(state="completed", epoch=2, step=20))
    return trial.path


@pytest.fixture
def search(tmp_path: Path, tiny_config: ExperimentConfig) -> SearchDir:
    """Trial 0 is the second best, trial 1 the best, and trial 2 has diverged before an epoch."""
    tree: dict[str, Any] = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {"trials": 3},
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    run = SearchDir(tmp_path / "runs" / "s-1")
    prepare_study(run, load_study(tmp_path / "s.yaml"))
    for number, miou in enumerate((0.1, 0.2)):
        write_run(run.trial(number).path, tiny_config, miou)
        run.trial(number).write_verdict(Verdict(state="completed", epoch=2, step=20))
    write_atomic(run.trial(2).config, write_yaml(tiny_config.dump()))
    verdict = Verdict(state="unhealthy", kind="diverged", evidence="9 > 1")
    write_atomic(run.trial(2).verdict, json.dumps(verdict.dump()))
    return run


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    path = tmp_path / "work_dirs" / "old"
    rows = [{"loss": 1.0, "lr": 0.1, "time": 0.5, "iter": step} for step in (50, 100)]
    rows.append({"aAcc": 80.0, "mIoU": 37.5, "mAcc": 50.0, "step": 100})
    log = path / "20230521_130545" / "vis_data" / "scalars.json"
    write_atomic(log, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_runs_of_both_kinds_are_in_one_figure(
    run: Path, work_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a figure.png"
    arguments = ["plot", str(run), str(work_dir), "--out", str(out), "--keys", "mIoU,loss"]
    assert program([*arguments, "--json"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = json.loads(capsys.readouterr().out)
    assert (printed["figure"], printed["x"]) == (str(out), "step")
    best = {row["name"]: row["values"]["miou"]["best"] for row in printed["runs"]}
    assert best == {"my first": pytest.approx(0.4), "old": pytest.approx(0.375)}
    assert program(arguments) == 0
    words = capsys.readouterr().out
    for part in ("40.00 (epoch 2)", "37.50 (step 100)", f"figure: {out}", "training steps only"):
        assert part in words, part


def test_a_search_run_is_its_best_trial_or_the_trials_that_are_asked_for(
    search: SearchDir, caplog: pytest.LogCaptureFixture
) -> None:
    assert [r.name for r in read_runs([search.path])] == ["s-1/0001"]
    assert [r.name for r in read_runs([search.path], ["0000", "1"])] == ["s-1/0000", "s-1/0001"]
    assert [r.name for r in read_runs([search.trial(0).path])] == ["s-1/0000"]
    assert caplog.messages == []
    # From best to worst; a trial without an epoch has nothing to draw.
    assert [r.name for r in read_runs([search.path], ["all"])] == ["s-1/0001", "s-1/0000"]
    trial = search.trial(2).path
    assert caplog.messages == [
        f"{trial}: no finished epoch; unhealthy: diverged (diverged: 9 > 1); not drawn"
    ]


def test_a_search_on_a_proxy_stands_for_its_best_trial_at_full_length(
    search: SearchDir, tiny_config: ExperimentConfig
) -> None:
    write_run(search.full.trial(0).path, tiny_config, 0.3)
    shutil.copy(search.study, search.full.study)
    write_atomic(search.full.best, write_yaml(tiny_config.dump()))
    (best,) = read_runs([search.path])
    assert (best.path, best.name) == (search.full.trial(0).path, "s-1/full/0000")


@pytest.mark.parametrize("name", ["epochs.jsonl", "config.yaml", "verdict.json", "."])
def test_a_file_of_a_run_stands_for_its_run(run: Path, name: str) -> None:
    assert [r.name for r in read_runs([run / name])] == ["my first"]


@pytest.mark.parametrize(
    "inner", [".", "20230521_130545", "20230521_130545/vis_data", "*/vis_data/scalars.json"]
)
def test_a_work_dir_is_found_from_any_of_its_folders(work_dir: Path, inner: str) -> None:
    path = next(work_dir.glob(inner)) if "*" in inner else work_dir / inner
    name = "old" if inner == "." else "old/20230521_130545"
    assert [r.name for r in read_runs([path])] == [name]


def test_runs_of_the_same_name_are_named_with_their_folders(
    tmp_path: Path, tiny_config: ExperimentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("x", "y"):
        write_run(tmp_path / place / "a", tiny_config, 0.2)
    runs = read_runs([tmp_path / "x" / "a", tmp_path / "y" / "a", tmp_path / "x" / "a"])
    assert [r.name for r in runs] == ["x/a", "y/a"]
    assert caplog.messages == [f"{tmp_path / 'x' / 'a'}: named more than once, drawn once"]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert program(["plot", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_path_that_is_no_run_is_explained(
    run: Path,
    search: SearchDir,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "my frist: no such file or folder; did you mean 'my first'?" in error_of(
        capsys, run.parent / "my frist"
    )
    folder, first = run.parent, f"'{run}'"
    text = error_of(capsys, folder)
    assert "the folder holds 2 runs: my first, s-1; name those that you want, for example" in text
    assert f"{first}, or all: {folder}/*" in text
    (run / "checkpoints").mkdir()
    text = error_of(capsys, run / "checkpoints")
    assert f"it belongs to the run {run}; use that folder" in text
    (tmp_path / "a.log").write_text("Iter [50/20000] lr: 0.01")
    assert "a log in words; use the scalars.json in vis_data" in error_of(
        capsys, tmp_path / "a.log"
    )
    assert "no run; expected the folder of a training run" in error_of(capsys, tmp_path / "s.yaml")
    assert "no trial '7'; allowed are best, all, 0000, 0001, 0002" in error_of(
        capsys, search.path, "--trials", "7"
    )
    assert "none of the runs is a search run" in error_of(capsys, run, "--trials", "all")


def test_runs_after_an_option_with_several_words_are_explained(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = error_of(capsys, "--keys", "loss", run)
    assert f"no RUN: --keys has taken {run}; put the runs first" in text
    assert "no RUN: name at least one training run" in error_of(capsys)


def test_a_figure_has_at_least_one_key(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = error_of(capsys, run, "--keys", ",")
    assert text.startswith("error: --keys: no key\nkeys of my first: ")


def test_the_place_of_the_figure_is_a_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = error_of(capsys, run, "--out", tmp_path)
    assert f"--out: {tmp_path} is a folder; expected a file, as in {tmp_path}/curves.png" in text


def test_status_shows_a_work_dir(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["status", str(work_dir)]) == 0
    words = capsys.readouterr().out
    for part in ("old", "0:50 *", "37.50 (step 100)", "80.00 (step 100)", "best macc"):
        assert part in words, part


def test_status_and_report_name_the_command_for_training_runs(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, path in (("status", run.parent), ("report", run)):
        assert program([command, str(path)]) == 2
    words = capsys.readouterr().err
    assert "training runs in this folder: my first; segtune status shows one" in words
    assert "it is a single training run (segtune status and segtune plot show it)" in words


def test_names_are_one_for_each_curve(
    run: Path, work_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = error_of(capsys, run, work_dir, "--names", "new")
    assert "--names: 1 names for 2 curves: my first, old; give one name for each" in text
    out = tmp_path / "a.png"
    arguments = ["plot", str(run), "--names", "new one", "--out", str(out), "--json"]
    assert program(arguments) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "new one"


def test_a_run_without_an_epoch_is_an_error_if_it_is_alone(
    search: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    text = error_of(capsys, search.trial(2).path)
    assert f"no curve to draw: {search.trial(2).path}: no finished epoch; unhealthy" in text


def test_nothing_is_written_if_a_key_is_unknown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    text = error_of(capsys, run, "--keys", "los", "--out", out)
    assert "--keys: los: no run has this key; did you mean 'loss'?" in text
    assert not out.exists()


@pytest.mark.slow
def test_a_browser_draws_the_page_without_a_network(
    run: Path, work_dir: Path, tmp_path: Path
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser")
    out = tmp_path / "a.html"
    assert program(["plot", str(run), str(work_dir), "--out", str(out)]) == 0
    assert "src=" not in out.read_text().split("</head>")[1]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}"]
    page = subprocess.run([*command, out.as_uri()], capture_output=True, text=True, timeout=120)
    for part in ("my first", "37.50", "mIoU (%)", "legendtext"):
        assert part in page.stdout.split("</head>")[1], part
