"""The folders of a training run and of a search run: where each file lies, and how it is written.

No other module builds these paths.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segtune.errors import RunError, first_of, nearest
from segtune.runs.atomic import create_once, naming, write_atomic
from segtune.runs.records import (
    Attempt,
    EpochRecord,
    GuardOutcome,
    NetworkProfile,
    PrecisionSwitch,
)
from segtune.runs.verdict import Verdict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONFIRM = "confirm"  # the folder of a search run in which its confirmation trains


class StaleAttemptError(Exception):
    """The search has started this trial again in another process; this process may not write."""


class TrialDir:
    """The files of one training run, alone or as a trial of a search.

    If a search loses a machine, it starts the trial again while a process of the older attempt may
    still be alive. Therefore the methods that write records raise StaleAttemptError if `attempt` is
    set and a newer attempt has begun.
    """

    def __init__(self, path: Path, attempt: int | None = None) -> None:
        """`path` need not exist yet. If `attempt` is None, no write is refused."""
        self.path = path
        self.attempt = attempt
        self.config = path / "config.yaml"
        self.params = path / "params.json"
        self.sampler_state = path / "sampler.json"
        self.epochs = path / "epochs.jsonl"
        self.verdict = path / "verdict.json"
        self.attempts = path / "attempts.jsonl"
        self.heartbeat = path / "heartbeat.json"
        self.error = path / "error.txt"
        self.environment = path / "environment.json"  # of `segtune train` only
        self.retraining = path / "retrain.json"  # of `segtune retrain` only
        self.loss_factors = path / "loss_factors.json"  # with loss.balance only
        self.precision = path / "precision.json"  # if optim.precision auto has left float16
        self.profile = path / "profile.json"  # with guards or several objectives only
        self.guards = path / "guards.json"  # with guards only
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tb"  # over epochs
        self.tensorboard_steps = self.tensorboard / "steps"  # over optimiser steps
        self.trackers = path / "trackers.json"  # ids of the run in wandb and mlflow, if log.to asks
        self.replay = path / "replay"  # the bundle of a training run that was not finite

    @property
    def id(self) -> str:
        """The trial's id, which is the name of its folder."""
        return self.path.name

    def is_used(self) -> bool:
        """Whether a training run has left epochs or checkpoints in the folder."""
        return self.epochs.exists() or any(self.checkpoints.glob("*-*"))

    def check_unused(self) -> None:
        """Raise RunError if the folder holds a training run."""
        if self.is_used():
            raise RunError(
                f"{self.path}: holds a training run already; continue it with --resume, replace "
                "it with --overwrite, or choose another --out"
            )

    def read_attempts(self) -> list[Attempt]:
        """Return every start of this trial by a search, oldest first."""
        if self.attempts.exists():
            return [Attempt(**json.loads(line)) for line in self.attempts.read_text().splitlines()]
        # Early versions wrote only how many there were.
        counter = self.path / "attempts"
        return [Attempt(None)] * int(counter.read_text()) if counter.exists() else []

    def begin_attempt(self) -> int:
        """Begin another attempt and return its number, from 1. Older attempts may not write now."""
        attempt, verdict = Attempt(round(time.time(), 3)), self.read_verdict()
        if verdict and verdict.state == "paused":
            attempt = replace(attempt, paused=verdict.ended, pause_epoch=verdict.epoch)
        attempts = [*self.read_attempts(), attempt]
        lines = "".join(json.dumps(asdict(attempt)) + "\n" for attempt in attempts)
        write_atomic(self.attempts, lines)
        # Last, because the older attempt may write these files until the new one has begun.
        for of_older_attempt in (self.heartbeat, self.verdict):
            of_older_attempt.unlink(missing_ok=True)
        return len(attempts)

    def is_current(self) -> bool:
        """Whether no newer attempt than this one has begun."""
        return self.attempt is None or len(self.read_attempts()) == self.attempt

    def check_current(self) -> None:
        """Raise StaleAttemptError if a newer attempt than this one has begun."""
        if not self.is_current():
            raise StaleAttemptError(
                f"{self.path}: attempt {self.attempt} may not write any more, "
                f"attempt {len(self.read_attempts())} has begun"
            )

    def append_epoch(self, record: EpochRecord) -> None:
        """Add one epoch and sync it to disk.

        Raise ValueError if a number is not finite, and OSError that names the file if the disk is
        full. The file then ends as before, so that the next record begins on a line of its own.
        """
        self.check_current()
        line = json.dumps(record.to_row(), allow_nan=False).encode() + b"\n"
        with naming(self.epochs):
            self.path.mkdir(parents=True, exist_ok=True)
            with self.epochs.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    # A raw file may write a part and say so; the next write then raises.
                    while line:
                        line = line[file.write(line) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise

    def read_epochs(self, last: float = math.inf) -> list[EpochRecord]:
        """Return the records up to epoch `last`, in order.

        If an epoch was written twice, the later record counts. A line that a crash left incomplete
        is skipped.
        """
        rows: dict[int, dict[str, Any]] = {}
        if self.epochs.exists():
            for line in self.epochs.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    rows[row["epoch"]] = row
        return [EpochRecord.from_row(rows[epoch]) for epoch in sorted(rows) if epoch <= last]

    def progress(self, last: float = math.inf) -> tuple[int, int]:
        """Return the last finished epoch up to `last` and its step; (0, 0) before the first."""
        epochs = self.read_epochs(last)
        return (epochs[-1].epoch, epochs[-1].step) if epochs else (0, 0)

    def cut_epochs(self, last: int) -> None:
        """Drop the records after epoch `last`: a resumed training run repeats those epochs."""
        if self.epochs.exists():
            rows = [record.to_row() for record in self.read_epochs(last)]
            write_atomic(self.epochs, "".join(json.dumps(row) + "\n" for row in rows))

    def write_profile(self, profile: NetworkProfile) -> None:
        """Write the size and the speed of the network."""
        self.check_current()
        write_atomic(self.profile, json.dumps(asdict(profile), indent=1) + "\n")

    def read_profile(self) -> NetworkProfile | None:
        """Return the size and the speed of the network, or None if they were not measured."""
        row = _read_json(self.profile)
        return NetworkProfile.from_row(row) if row else None

    def write_guards(self, outcome: GuardOutcome) -> None:
        """Write which guards the trial breaks, if that has changed. The driver writes it."""
        if outcome != self.read_guards():
            write_atomic(self.guards, json.dumps(asdict(outcome), indent=1) + "\n")

    def read_guards(self) -> GuardOutcome:
        """Return which guards the trial breaks: none without guards, and before it is judged."""
        row = _read_json(self.guards)
        return GuardOutcome.from_row(row) if row else GuardOutcome()

    def write_verdict(self, verdict: Verdict) -> bool:
        """Write how the training run ended, and when; return False if there is a verdict already.

        The first verdict stands, also if two processes write at the same time: a worker that has
        not yet noticed that the driver stopped its trial cannot replace the driver's verdict.
        """
        self.check_current()
        stamped = verdict.override({"ended": round(time.time(), 3), "note": self._note()})
        return create_once(self.verdict, json.dumps(stamped.dump(), indent=1) + "\n")

    def give_up(self, verdict: Verdict) -> None:
        """Prune a paused trial, which has this verdict. The driver does so."""
        pruned = verdict.override({"state": "pruned"})
        # Replaced at once: without a verdict, a resume would continue the trial.
        write_atomic(self.verdict, json.dumps(pruned.dump(), indent=1) + "\n")

    def _note(self) -> str:
        """Return what the verdict says besides its kind: whether the precision has changed."""
        if not self.precision.exists():
            return ""
        return PrecisionSwitch(**json.loads(self.precision.read_text())).sentence

    def read_retraining(self) -> dict[str, Any] | None:
        """Return the record of `segtune retrain`, or None if another command trained here."""
        return _read_record(self.retraining, "segtune retrain RUN --resume")

    def read_verdict(self) -> Verdict | None:
        """Return how the training run ended, or None if it has not ended."""
        try:
            text = self.verdict.read_text()
        except FileNotFoundError:
            return None
        # Empty: `create_once` has not yet written the content.
        return Verdict.parse(json.loads(text)) if text else None


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object that is written at once, or None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


class SearchDir:
    """The files of one search run."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist yet. It is made absolute, because workers change directory."""
        self.path = path.absolute()
        self.study = self.path / "study.yaml"
        self.journal = self.path / "study.log"
        self.warm_start = self.path / "warm_start.json"
        self.ray = self.path / "ray"
        self.trials = self.path / "trials"
        self.best = self.path / "best.yaml"
        self.pareto = self.path / "pareto"  # with several objectives: a config for each trial
        self.narrower = self.path / "narrower.yaml"  # a study, if the search has paused
        self.report = self.path / "report.html"
        self.sessions = self.path / "sessions.jsonl"
        self.environment = self.path / "environment.json"
        self.lock = self.path / ".lock"
        self.identity = self.path / ".identity"
        self.node_token = self.path / ".node-token"  # by which nodes recognise the folder
        self.stop_request = self.path / "stop"
        self.confirmation = self.path / "confirmation.json"
        self.what_mattered = self.path / "what_mattered.json"
        self.noise_floor = self.path / "noise_floor.json"
        self.corners = self.path / "corners.json"
        self.forecast = self.path / "forecast.json"
        self.pictures = self.path / "pictures"  # of the report, with pictures.json
        self.confusion = self.path / "confusion.json"  # of the best trial, on the validation images
        self.end = self.path / "end.json"  # if a limit has ended the search before its last trial

    @property
    def full(self) -> SearchDir:
        """The search run that trains the best trials of a proxy at full length."""
        return SearchDir(self.path / "full")

    @property
    def confirm(self) -> SearchDir:
        """The search run that trains the best trials again, with fresh seeds."""
        return SearchDir(self.path / CONFIRM)

    @property
    def retrained(self) -> TrialDir:
        """The training run of `segtune retrain`, if it has no other --out."""
        return TrialDir(self.path / "retrained")

    @property
    def confirms(self) -> SearchDir | None:
        """The search run that this one confirms, or None if it is a search of its own."""
        parent = SearchDir(self.path.parent)
        return parent if self.path.name == CONFIRM and parent.study.is_file() else None

    def read_confirmation(self) -> dict[str, Any] | None:
        """Return the record that `segtune confirm` has written, or None if there is none."""
        return _read_record(self.confirmation, f"segtune confirm {self.path}")

    def read_noise_floor(self) -> dict[str, Any] | None:
        """Return the record of `search.noise_floor`, or None if there is none."""
        return _read_record(self.noise_floor, "segtune search --resume")

    def read_corners(self) -> dict[str, Any] | None:
        """Return the record of the corner steps, or None if there is none."""
        return _read_record(self.corners, "segtune search --resume")

    def read_what_mattered(self) -> dict[str, Any] | None:
        """Return what mattered in the search at its last report, or None if there is none."""
        return _read_record(self.what_mattered, f"segtune report {self.path}")

    def read_pictures(self) -> dict[str, Any] | None:
        """Return the record of the report's pictures, or None if there are none."""
        command = f"segtune report {self.path} --pictures"
        return _read_record(self.pictures / "pictures.json", command)

    def read_confusion(self) -> dict[str, Any] | None:
        """Return the best trial's confusion matrix and what it belongs to, or None."""
        return _read_record(self.confusion, f"segtune report {self.path} --pictures")

    @classmethod
    def open(cls, path: str | Path) -> SearchDir:
        """Return the search run at `path`. Raise RunError if no search has run there."""
        run = cls(Path(path))
        if not run.study.is_file():
            raise RunError(f"{path}: no search has been run here; {_what_is_there(run.path)}")
        return run

    def read_identity(self) -> str:
        """Return the search run's random name, which stays if its folder is moved or renamed.

        Written at the first call; a copy of the folder has the same one.
        """
        create_once(self.identity, uuid.uuid4().hex)
        return self.identity.read_text()

    def trial(self, number: int, attempt: int | None = None) -> TrialDir:
        """Return the folder of trial `number`, to which `attempt` writes; see `TrialDir`."""
        return TrialDir(self.trials / f"{number:04d}", attempt)

    def trial_dirs(self) -> list[TrialDir]:
        """Return the folders of all trials that have been started, by number."""
        return [TrialDir(path) for path in sorted(self.trials.glob("[0-9]*")) if path.is_dir()]

    def is_locked(self) -> bool:
        """Whether a driver has locked the folder, as far as this machine's kernel knows.

        Takes the lock for a moment if it is free.
        """
        if not self.lock.exists():
            return False
        with self.lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this driver. Raise RunError if another driver has locked it.

        The kernel releases the lock when the process ends, even if it is killed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.path}: another search is using this folder ({file.read().strip()}); "
                    "wait until it ends, or choose another --name"
                ) from None
            file.truncate(0)
            file.write(f"host {socket.gethostname()}, process {os.getpid()}")
            file.flush()
            yield


def _read_record(path: Path, command: str) -> dict[str, Any] | None:
    """Return a JSON record, or None if there is no such file; `command` writes it again."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(
            f"{path}: cannot be read ({error}); remove it and write it again with `{command}`, "
            "which repeats no training run"
        ) from None


def search_runs_in(folder: Path) -> list[str]:
    """Return the names of the search runs in a folder."""
    return sorted(study.parent.name for study in folder.glob("*/study.yaml"))


def search_of(path: Path) -> SearchDir | None:
    """Return the search run that a trial's folder, or a file or folder in it, belongs to."""
    for run in map(SearchDir, path.absolute().parents[:5]):
        # A folder of the user's own files may hold a study.yaml, too.
        if run.study.is_file() and run.trials.is_dir():
            return run
    return None


def is_training_run(path: Path) -> bool:
    """Whether `path` is the folder of a training run, alone or as a trial."""
    trial = TrialDir(path)
    return trial.config.is_file() and (trial.is_used() or trial.verdict.exists())


def _what_is_there(path: Path) -> str:
    """Describe an absolute path that is no search run, and name the path to use instead."""
    if inside := search_runs_in(path):
        return (
            f"the folder holds {len(inside)} search runs: {', '.join(inside)}; use one of them, "
            f"for example {path / inside[0]}"
        )
    if (run := search_of(path)) is not None:
        return f"it belongs to the search run {run.path}; use that folder"
    if is_training_run(path):
        return "it is a single training run (segtune status and segtune plot show it)"
    if path.is_file():
        return "it is a file; a search run is a folder with study.yaml"
    trained = [f.name for f in sorted(path.glob("*")) if f.is_dir() and is_training_run(f)]
    if trained:
        return (
            f"training runs in this folder: {first_of(trained, 5)}; segtune status shows one, "
            "segtune plot compares several"
        )
    siblings = search_runs_in(path.parent)
    state = "no study.yaml" if path.exists() else "no such folder"
    names = ", ".join(siblings) or "none"
    return f"{state}; search runs in {path.parent}: {names}{nearest(path.name, siblings)}"


def check_name(name: str) -> str:
    """Return `name`, the name of a search run. Raise RunError if it is no plain folder name."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"--name {name!r}: use at most 64 letters, digits, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    return name
