"""Where every file of a run lies, and atomic writing. No other module builds one of these paths."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.verdict import Verdict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class StaleAttemptError(Exception):
    """This process trains a trial that has been started again elsewhere; it must write nothing more."""


class TrialDir:
    """The files of one training run, inside a search or alone.

    A search starts a trial again after the loss of its machine, while a part of the old attempt may still be alive: with
    `attempt`, writing raises StaleAttemptError once another one has begun.
    """

    def __init__(self, path: Path, attempt: int | None = None) -> None:
        """`path` need not exist yet; without `attempt` writing is never refused."""
        self.path, self.attempt = path, attempt
        self.config = path / "config.yaml"
        self.params = path / "params.json"
        self.notes = path / "sampler.json"
        self.epochs = path / "epochs.jsonl"
        self.verdict = path / "verdict.json"
        self.attempts = path / "attempts"
        self.pulse = path / "pulse.json"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tb"

    @property
    def id(self) -> str:
        """The trial's id: the folder's name."""
        return self.path.name

    def attempts_begun(self) -> int:
        """Returns how often this trial has been started by a search."""
        return int(self.attempts.read_text()) if self.attempts.exists() else 0

    def begin_attempt(self) -> int:
        """Begins another attempt, from which on older ones may not write, and returns its number, from 1."""
        number = self.attempts_begun() + 1
        for of_older in (self.pulse, self.verdict):
            of_older.unlink(missing_ok=True)
        write_atomic(self.attempts, f"{number}\n")
        return number

    def is_current(self) -> bool:
        """Whether no other attempt has begun since this one."""
        return self.attempt is None or self.attempts_begun() == self.attempt

    def check_current(self) -> None:
        """Raises StaleAttemptError where another attempt has begun since this one."""
        if not self.is_current():
            raise StaleAttemptError(
                f"{self.path}: attempt {self.attempt} writes no more, attempt {self.attempts_begun()} has begun"
            )

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Adds one epoch, synced before it returns."""
        self.check_current()
        self.path.mkdir(parents=True, exist_ok=True)
        with self.epochs.open("ab") as file:
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read_epochs(self) -> list[dict[str, Any]]:
        """Returns the rows by epoch; of an epoch told twice (after a restart) the later row; a torn last line is left out."""
        rows: dict[int, dict[str, Any]] = {}
        if self.epochs.exists():
            for line in self.epochs.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    rows[row["epoch"]] = row
        return [rows[epoch] for epoch in sorted(rows)]

    def reached(self, last: float = math.inf) -> tuple[int, int]:
        """Returns the last finished epoch up to `last`, and its step; 0 and 0 before the first."""
        rows = [row for row in self.read_epochs() if row["epoch"] <= last]
        return (rows[-1]["epoch"], rows[-1]["step"]) if rows else (0, 0)

    def cut_epochs(self, last: int) -> None:
        """Drops the rows after epoch `last`: a run that goes on from a checkpoint tells them again."""
        rows = [row for row in self.read_epochs() if row["epoch"] <= last]
        if self.epochs.exists():
            write_atomic(self.epochs, "".join(json.dumps(row) + "\n" for row in rows))

    def write_verdict(self, verdict: Verdict) -> None:
        """Writes how the run ended. The first word stands: a worker that has not yet noticed a stop cannot take it back."""
        self.check_current()
        if not self.verdict.exists():
            write_atomic(self.verdict, json.dumps(verdict.dump(), indent=1) + "\n")

    def read_verdict(self) -> Verdict | None:
        """Returns how the run ended, or None while it has not."""
        return (
            Verdict.parse(json.loads(self.verdict.read_text())) if self.verdict.exists() else None
        )


class SearchDir:
    """The files of one search."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist yet; it is made absolute, because workers change directory."""
        self.path = path.absolute()
        self.study = self.path / "study.yaml"
        self.journal = self.path / "study.log"
        self.warm_start = self.path / "warm_start.json"
        self.ray = self.path / "ray"
        self.trials = self.path / "trials"
        self.best = self.path / "best.yaml"
        self.report = self.path / "report.html"
        self.sessions = self.path / "sessions.jsonl"
        self.lock = self.path / ".lock"
        self.stop_request = self.path / "stop"

    @property
    def full(self) -> SearchDir:
        """The run of the trials that a search on a proxy has carried to full length."""
        return SearchDir(self.path / "full")

    @classmethod
    def open(cls, path: str | Path) -> SearchDir:
        """Returns the run folder at `path`. Raises RunError where there is none."""
        run = cls(Path(path))
        if not run.study.is_file():
            near = (
                ", ".join(sorted(p.parent.name for p in run.path.parent.glob("*/study.yaml")))
                or "none"
            )
            raise RunError(
                f"{path}: no search has been run here (no study.yaml); runs in {run.path.parent}: {near}"
            )
        return run

    def trial(self, number: int, attempt: int | None = None) -> TrialDir:
        """Returns the folder of trial `number`, as one of its attempts sees it or as everybody else."""
        return TrialDir(self.trials / f"{number:04d}", attempt)

    def trial_dirs(self) -> list[TrialDir]:
        """Returns the folders of all trials that have been started, in their order."""
        return [TrialDir(path) for path in sorted(self.trials.glob("[0-9]*")) if path.is_dir()]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for one driver. Raises RunError that names the other one. The kernel frees it with the process."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.path}: another search is using this folder ({file.read().strip()}); wait, or choose --name"
                ) from None
            file.truncate(0)
            file.write(f"host {socket.gethostname()}, process {os.getpid()}")
            file.flush()
            yield


def check_name(name: str) -> str:
    """Returns a run's name. Raises RunError for one that is not a plain folder name."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"--name {name!r}: use letters, digits, '.', '_' and '-', 64 at most, starting with a letter or digit"
        )
    return name
