"""Laws of writing a file: all of it or nothing, and created by one process only."""

import errno
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from segtune.runs.atomic import create_once, write_atomic
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict

NUM_PROCESSES = 8
NUM_TRIALS = 10


def fail_to_sync(file: int) -> None:
    raise OSError(errno.ENOSPC, "disk full")


def fail_to_link(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "no hard links on this file system")


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    write_atomic(target, "old")
    monkeypatch.setattr(os, "fsync", fail_to_sync)
    for write in (write_atomic, create_once):
        with pytest.raises(OSError, match="disk full"):
            write(target, "new")
    assert target.read_text() == "old"
    assert file_names(tmp_path) == ["a"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_only_the_first_call_creates_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", fail_to_link)
    target = tmp_path / "new folder" / "a"
    assert create_once(target, "first")
    assert not create_once(target, "second")
    assert target.read_text() == "first"
    assert file_names(target.parent) == ["a"]


def test_other_failures_to_link_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.EACCES, "permission denied")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(PermissionError):
        create_once(tmp_path / "a", "content")
    assert file_names(tmp_path) == []


barrier: Barrier


def fail_to_link_together(source: Path, target: Path) -> None:
    """Fail in all processes at the same time, so that they race for what comes next."""
    barrier.wait(timeout=60)
    fail_to_link(source, target)


def rename_slowly(source: Path, target: Path) -> None:
    """Rename a file slowly: a process that only looks whether the file exists is then caught."""
    time.sleep(0.02)
    os.rename(source, target)


def join_race(shared: Barrier, hard_links: bool) -> None:
    """Prepare a process of the race."""
    global barrier
    barrier = shared
    if not hard_links:
        os.link = fail_to_link_together
        os.replace = rename_slowly


def write_verdicts(run: Path, kind: str) -> list[bool]:
    """Write a verdict of each trial at the same time as the other processes."""
    created = []
    for number in range(NUM_TRIALS):
        trial = SearchDir(run).trial(number)
        barrier.wait(timeout=60)
        created.append(trial.write_verdict(Verdict(state="failed", kind=kind)))
    return created


@pytest.mark.parametrize("hard_links", [True, False])
def test_of_processes_that_race_for_a_verdict_exactly_one_wins(
    search_run: SearchDir, hard_links: bool
) -> None:
    context = multiprocessing.get_context("spawn")
    shared = context.Barrier(NUM_PROCESSES)
    kinds = [f"process-{i}" for i in range(NUM_PROCESSES)]
    with ProcessPoolExecutor(NUM_PROCESSES, context, join_race, (shared, hard_links)) as pool:
        created = list(pool.map(write_verdicts, [search_run.path] * NUM_PROCESSES, kinds))
    for number in range(NUM_TRIALS):
        winners = [kind for kind, wins in zip(kinds, created, strict=True) if wins[number]]
        verdict = search_run.trial(number).read_verdict()
        assert verdict is not None
        assert winners == [verdict.kind]
        assert file_names(search_run.trial(number).path) == ["verdict.json"]
