"""Searches whose folder or database was moved, copied, or cannot be used."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ClusterError, RunError
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.optuna_study import shown_url
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

Begin = Callable[..., tuple[Study, SearchDir]]


@pytest.fixture
def make_study(tiny_config: ExperimentConfig, tmp_path: Path) -> Callable[..., Study]:
    def make(storage: str | None = None, config: dict[str, Any] | None = None) -> Study:
        tree = {
            "config": tiny_config.override(config or {}).dump(),
            "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}},
            "search": {"scheduler": "none", "sampler": "random", "trials": 3, "storage": storage},
        }
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return make


def end_one_trial(study: Study, run: SearchDir, resume: bool = False) -> StudySearcher:
    """Start or resume a search and end its next trial, as a session would."""
    prepare_study(run, study, resume=resume)
    searcher = StudySearcher.from_run(study, run)
    trial = run.trial(searcher.suggest("t")["number"])
    trial.write_verdict(Verdict(state="failed", kind="exception", epoch=1))
    searcher.on_trial_complete("t", {"epoch": 1})
    return searcher


def num_trials(file: Path, name: str) -> int:
    return len(optuna.load_study(study_name=name, storage=f"sqlite:///{file}").trials)


def test_a_search_goes_on_after_folder_and_database_were_moved_together(
    make_study: Callable[..., Study], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = tmp_path / "old disk" / "s", tmp_path / "new disk" / "s"
    study = make_study(f"sqlite:///{old}/study.db")
    end_one_trial(study, SearchDir(old))
    new.parent.mkdir()
    shutil.move(old, new)
    searcher = end_one_trial(study, SearchDir(new), resume=True)
    assert searcher.num_started == 2
    assert num_trials(new / "study.db", "s") == 2
    assert not old.exists()
    assert f"there is no folder {old}: using {new}/study.db" in caplog.text


def test_a_search_goes_on_if_only_its_folder_was_moved(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study(f"sqlite:///{tmp_path}/study.db")
    end_one_trial(study, SearchDir(tmp_path / "old" / "s"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    end_one_trial(study, SearchDir(tmp_path / "new" / "s"), resume=True)
    assert num_trials(tmp_path / "study.db", "s") == 2


def test_a_study_of_an_early_version_is_known_after_a_move(
    make_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(f"sqlite:///{tmp_path}/study.db")
    run = SearchDir(tmp_path / "old" / "s")
    monkeypatch.setattr("segtune.tuning.optuna_study.IDENTITY_ATTRIBUTE", "unused")
    end_one_trial(study, run)
    monkeypatch.undo()
    run.identity.unlink()
    shutil.move(tmp_path / "old", tmp_path / "new")
    end_one_trial(study, SearchDir(tmp_path / "new" / "s"), resume=True)
    assert num_trials(tmp_path / "study.db", "s") == 2


def test_a_copy_of_a_search_run_does_not_take_the_study_of_the_original(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study(f"sqlite:///{tmp_path}/study.db")
    end_one_trial(study, SearchDir(tmp_path / "a" / "s"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = SearchDir(tmp_path / "b" / "s")
    with pytest.raises(ClusterError, match=r"already holds a study 's' \(of .*/a/s\); set another"):
        end_one_trial(study, copy, resume=True)
    assert num_trials(tmp_path / "study.db", "s") == 1
    end_one_trial(make_study(f"sqlite:///{tmp_path}/b.db"), copy, resume=True)
    assert num_trials(tmp_path / "b.db", "s") == 2


def test_the_study_of_another_run_stays_also_if_its_folder_is_out_of_sight(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    """A colleague on another host may use the same database and the same name."""
    study = make_study(f"sqlite:///{tmp_path}/study.db")
    end_one_trial(study, SearchDir(tmp_path / "colleague" / "s"))
    shutil.rmtree(tmp_path / "colleague")
    with pytest.raises(ClusterError, match="already holds a study 's'"):
        end_one_trial(study, SearchDir(tmp_path / "mine" / "s"))


def test_a_renamed_search_run_goes_on(make_study: Callable[..., Study], tmp_path: Path) -> None:
    for storage in (None, f"sqlite:///{tmp_path}/study.db"):
        study = make_study(storage)
        end_one_trial(study, SearchDir(tmp_path / "old"))
        shutil.move(tmp_path / "old", tmp_path / "new")
        assert end_one_trial(study, SearchDir(tmp_path / "new"), resume=True).num_started == 2
        shutil.rmtree(tmp_path / "new")


def test_a_database_that_was_lost_is_named_with_all_places(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study(f"sqlite:///{tmp_path}/gone/study.db")
    with pytest.raises(ClusterError) as caught:
        StudySearcher.from_run(study, SearchDir(tmp_path / "runs" / "s"))
    message = str(caught.value)
    assert f"no folder {tmp_path}/gone" in message
    assert f"no study.db in {tmp_path}/runs/s or {tmp_path}/runs" in message
    assert "set another search.storage, also at a resume" in message
    assert "--name" not in message


def test_the_storage_may_change_at_a_resume(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    run = SearchDir(tmp_path / "s")
    end_one_trial(make_study(f"sqlite:///{tmp_path}/study.db"), run)
    assert end_one_trial(make_study(), run, resume=True).num_started == 2
    assert run.journal.exists()


def test_the_folder_of_the_data_may_change_at_a_resume(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    run = SearchDir(tmp_path / "s")
    end_one_trial(make_study(), run)
    moved = make_study(config={"data.root": str(tmp_path / "moved"), "data.cache": "none"})
    prepare_study(run, moved, resume=True)
    assert load_study(run.study).config.data.root == str(tmp_path / "moved")
    prepare_study(run, moved, resume=True, extend=True)
    with pytest.raises(RunError, match=r"optim\.lr"):
        prepare_study(run, make_study(config={"optim.lr": 0.5}), resume=True)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_text(path: Path) -> None:
    path.write_text("no database, but a text of more than a hundred bytes " * 4)


def make_database_of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("create table studies (a integer)")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_folder, "is a folder; name a file in it"),
        (make_text, "file is not a database"),
        (make_database_of_another_program, "no such column"),
    ],
)
def test_a_file_that_is_no_study_is_named_with_the_reason(
    make_study: Callable[..., Study], tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "study.db")
    with pytest.raises(ClusterError, match=reason) as caught:
        StudySearcher.from_run(
            make_study(f"sqlite:///{tmp_path}/study.db"), SearchDir(tmp_path / "s")
        )
    assert str(tmp_path / "study.db") in str(caught.value)
    assert "--name" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite:////proc/study.db", "sqlite:////dev/null"])
def test_a_database_that_cannot_be_written_is_named_with_the_reason(
    make_study: Callable[..., Study], tmp_path: Path, url: str
) -> None:
    with pytest.raises(ClusterError, match="does not answer, or cannot be written") as caught:
        StudySearcher.from_run(make_study(url), SearchDir(tmp_path / "s"))
    assert url.removeprefix("sqlite:///") in str(caught.value)


@pytest.mark.parametrize(
    "folder", ["a b", "ümlaut", "100%", "50%20", "is it?", "a#b", "a@b:c", "a&b", "é\nnew line"]
)
def test_run_folders_with_odd_names_keep_their_study(
    make_study: Callable[..., Study], tmp_path: Path, folder: str
) -> None:
    run = SearchDir(tmp_path / folder / "s")
    study = make_study()
    end_one_trial(study, run)
    assert end_one_trial(study, run, resume=True).num_started == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("sqlite:////data/a@b/study.db", "sqlite:////data/a@b/study.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec@ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec/ret@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret",
            "postgresql://host/db?user=me&password=***",
        ),
    ],
)
def test_the_password_of_a_database_is_never_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(("folder", "written"), [("is it?", "is it%3F"), ("50%20", "50%2520")])
def test_percent_and_question_mark_in_the_url_of_a_database_are_explained(
    make_study: Callable[..., Study], tmp_path: Path, folder: str, written: str
) -> None:
    (tmp_path / folder).mkdir()
    run = SearchDir(tmp_path / "s")
    with pytest.raises(ClusterError, match="% is written %25 and \\? is written %3F"):
        StudySearcher.from_run(make_study(f"sqlite:///{tmp_path}/{folder}/study.db"), run)
    StudySearcher.from_run(make_study(f"sqlite:///{tmp_path}/{written}/study.db"), run)
    assert (tmp_path / folder / "study.db").is_file()
