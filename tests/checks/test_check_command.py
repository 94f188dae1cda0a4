"""`segtune check`, and the rules that `segtune search` applies before it starts anything."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune import check, search
from segtune.checks.before_search import refuse_mistakes
from segtune.errors import ConfigError
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

MakeFile = Callable[..., Path]
LR = {"optim.lr": {"loguniform": [1e-4, 1e-3]}}
GAMMA = {"loss.focal.gamma": {"uniform": [0.0, 4.0]}}
NO_FOCAL = {"loss.focal.weight": 0.0, "loss.ce.weight": 1.0}
# A learning rate that no trial of AdamW can use.
HIGH_LR = {"optim.lr": {"loguniform": [0.5, 1.0]}}


def test_a_sound_study_has_exit_code_0_and_the_command_of_its_search(
    make_file: MakeFile, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_file(LR)
    assert check.main([str(path), "--trials", "12", "--set", "seed=3"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == (
        f"no errors, no warnings; to search it: segtune search --space {path} --trials 12 "
        "--set seed=3"
    )
    assert "optim.lr" in out
    assert "live" in out


def test_a_dead_setting_has_exit_code_2(
    make_file: MakeFile, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_file(GAMMA, NO_FOCAL)
    assert check.main([str(path), "--no-steps"]) == 2
    assert "1 error, no warnings" in capsys.readouterr().out
    # With a weight, the same space is fine.
    assert check.main([str(path), "--no-steps", "--set", "loss.focal.weight=1"]) == 0


def test_the_json_file_has_every_finding_with_its_way_out(
    make_file: MakeFile, tmp_path: Path
) -> None:
    path = make_file({**GAMMA, **HIGH_LR}, NO_FOCAL)
    file = str(tmp_path / "out" / "found.json")
    assert check.main([str(path), "--no-steps", "--json", file]) == 2
    tree = json.loads((tmp_path / "out" / "found.json").read_text())
    found = {(f["check"], f["severity"], f["rule"], f["key"]) for f in tree["findings"]}
    assert found == {
        ("space", "error", "lr-decades", "optim.lr"),
        ("liveness", "error", "dead-key", "loss.focal.gamma"),
    }
    assert all(f["problem"] and f["reason"] and f["way_out"] for f in tree["findings"])
    statuses = {row["setting"]: row["status"] for row in tree["details"]["liveness"]}
    assert statuses == {"loss.focal.gamma": "dead", "optim.lr": "live"}


def test_a_corner_that_fails_is_a_finding_and_no_steps_leaves_it_out(
    make_file: MakeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_file({"schedule.batch_size": {"choice": [8, 4000]}})
    file = tmp_path / "found.json"
    assert check.main([str(path), "--json", str(file)]) == 0
    tree = json.loads(file.read_text())
    (finding,) = [f for f in tree["findings"] if f["check"] == "corners"]
    assert finding["rule"] == "corner-config"
    assert "4000 is more than the 24 training images" in finding["problem"]
    assert "8 was healthy for 4 steps" in finding["way_out"]
    assert [row["end"] for row in tree["details"]["corners"]] == ["healthy", "config"]
    assert "corners: 2 corners of the space, 4 real optimiser steps" in capsys.readouterr().out
    assert check.main([str(path), "--no-steps", "--json", str(file)]) == 0
    assert "corners" not in json.loads(file.read_text())["details"]


@pytest.mark.parametrize(("copied", "code"), [(0, 0), (2, 2)])
def test_validation_images_that_are_training_images_are_an_error(
    make_file: MakeFile, tmp_path: Path, copied: int, code: int
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 48, 48, 3), dtype=np.uint8)
    for split, numbers in (("train", range(8)), ("val", range(8 - copied, 12 - copied))):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for number in numbers:
            labels = rng.permutation(np.repeat(np.arange(3, dtype=np.uint8), 768)).reshape(48, 48)
            name = f"{split}/{split}{number}.png"
            Image.fromarray(images[number]).save(tmp_path / "data/images" / name)
            Image.fromarray(labels).save(tmp_path / "data/masks" / name)
    data = {"data.layout": "folder", "data.root": str(tmp_path / "data")}
    path = make_file(LR, {**data, "data.classes": ["a", "b", "c"], "data.cache": "none"})
    file = tmp_path / "found.json"
    assert check.main([str(path), "--no-steps", "--json", str(file)]) == code
    tree = json.loads(file.read_text())
    found = [f for f in tree["findings"] if f["check"] == "labels" and f["severity"] == "error"]
    assert bool(found) == bool(copied)
    assert tree["details"]["labels"][0]["findings"] == len(found)


def test_labels_that_are_not_here_are_not_read(
    make_file: MakeFile, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {"data.layout": "folder", "data.root": "/absent", "data.classes": ["a", "b"]}
    assert check.main([str(make_file(LR, absent))]) == 0
    out = capsys.readouterr().out
    assert "labels: not read: /absent is not on this machine" in out
    assert "corners: no steps: /absent is not on this machine" in out


def test_a_search_is_refused_before_its_folder_exists(
    make_file: MakeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert search.main(["--space", str(make_file(HIGH_LR)), "--out", str(runs)]) == 2
    message = capsys.readouterr().err
    assert "optim.lr: the learning rate of the encoder lies outside" in message
    assert "--no-check starts the search in spite of this" in message
    assert not runs.exists()


def test_no_check_skips_the_rules(make_file: MakeFile) -> None:
    path = str(make_file(HIGH_LR))
    assert search.main(["--space", path, "--dry-run"]) == 2
    assert search.main(["--space", path, "--dry-run", "--no-check"]) == 0


def test_a_resume_is_not_refused_by_the_rules(
    make_file: MakeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # There is no such search run, which is the message; the rules are not asked before.
    arguments = ["--space", str(make_file(HIGH_LR)), "--out", str(tmp_path), "--name", "absent"]
    assert search.main([*arguments, "--resume"]) == 2
    assert "learning rate" not in capsys.readouterr().err


def test_a_warning_is_a_note_and_starts_the_search(
    make_file: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "segtune"):
        refuse_mistakes(load_study(make_file(LR, trials=10)))
    assert [r.getMessage().split(":")[:2] for r in caplog.records] == [["note", " search.trials"]]


def test_all_errors_are_in_one_message(make_file: MakeFile) -> None:
    config = {"schedule.epochs": 40, "schedule.warmup_steps": 100}
    study: Study = load_study(make_file(HIGH_LR, config, proxy={"epochs": 2}))
    with pytest.raises(ConfigError) as raised:
        refuse_mistakes(study)
    assert [problem.split(":")[0] for problem in raised.value.problems[:-1]] == [
        "schedule.warmup_steps",
        "optim.lr",
    ]
