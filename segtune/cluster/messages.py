"""What the driver, the trials and their ranks send one another, as types. Sends nothing itself.

Tune and Ray Train carry flat dictionaries. A type that one of them carries converts itself to such
a dictionary and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir


@dataclass(frozen=True)
class DrawnTrial:
    """A trial that the searcher hands to Tune: the values drawn for it, and which attempt it is."""

    number: int
    params: dict[str, Any]  # {dotted name of a setting: value}
    attempt: int  # from 1

    def to_config(self) -> dict[str, Any]:
        """Return the trial as a Tune config."""
        return {"number": self.number, "params": self.params, "attempt": self.attempt}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DrawnTrial:
        """Return the trial of a Tune config."""
        return cls(config["number"], config["params"], config["attempt"])


@dataclass(frozen=True)
class Measurement:
    """What rank 0 measures of the network before it is trained, and which guards it must keep."""

    config: dict[str, Any]  # of full length: the trial's own one may be a proxy of it
    guards: dict[str, Any]  # the tree of a GuardsConfig
    with_latency: bool
    may_end_trial: bool  # whether a trial that breaks a guard is not trained


@dataclass(frozen=True)
class TrialTask:
    """One training run for the ranks of a trial, or of `segtune train --workers`."""

    config: dict[str, Any]  # the tree of an ExperimentConfig
    out: str
    attempt: int | None  # None outside a search
    cpus: float  # per rank
    resume: bool = False
    overwrite: bool = False
    init_from: str | None = None  # not read if `resume` finds a checkpoint
    measurement: Measurement | None = None  # None: nothing is measured
    pause_epochs: tuple[int, ...] = ()  # at which the search may pause the trial
    resume_epoch: int | None = None  # at which it was paused; None: the last checkpoint counts

    @classmethod
    def of(
        cls,
        config: ExperimentConfig,
        out: TrialDir,
        cpus: float,
        *,
        resume: bool = False,
        overwrite: bool = False,
        init_from: str | None = None,
        measurement: Measurement | None = None,
        pause_epochs: tuple[int, ...] = (),
        resume_epoch: int | None = None,
    ) -> TrialTask:
        """Return the task of training `config` in the folder `out`."""
        return cls(
            config.dump(),
            str(out.path),
            out.attempt,
            cpus,
            resume,
            overwrite,
            init_from,
            measurement,
            pause_epochs,
            resume_epoch,
        )

    @property
    def name(self) -> str:
        """A name that differs from those of all other tasks, also between attempts at a trial."""
        return f"{self.out}, attempt {self.attempt}"

    @property
    def trial(self) -> TrialDir:
        """The folder, as this attempt may write to it."""
        return TrialDir(Path(self.out), self.attempt)


@dataclass(frozen=True)
class TrialReport:
    """The scores of one validated epoch, equal on all ranks."""

    epoch: int
    miou: float
    loss: float

    def to_metrics(self) -> dict[str, Any]:
        """Return the report as `ray.tune.report` and `ray.train.report` take it.

        Tune's own `training_iteration` counts reports and restarts at 1 with every attempt. It is
        set to the epoch, which continues.
        """
        return asdict(self) | {"training_iteration": self.epoch}


@dataclass(frozen=True)
class Ready:
    """The ranks of a group have started and wait for a task."""

    def to_metrics(self) -> dict[str, Any]:
        """Return the message as `ray.train.report` takes it."""
        return {"ready": True}


@dataclass(frozen=True)
class Reported:
    """The ranks have validated an epoch of their task."""

    report: TrialReport

    def to_metrics(self) -> dict[str, Any]:
        """Return the message as `ray.train.report` takes it."""
        return self.report.to_metrics()


@dataclass(frozen=True)
class Finished:
    """The ranks have finished the task of this name, or have left it, and wait for the next."""

    task: str

    def to_metrics(self) -> dict[str, Any]:
        """Return the message as `ray.train.report` takes it."""
        return {"finished": self.task}


@dataclass(frozen=True)
class Died:
    """The ranks have ended with this error. Comes from the controller, not from the ranks."""

    error: BaseException


Message = Ready | Reported | Finished | Died


def message_of(metrics: Mapping[str, Any]) -> Message:
    """Return the message that a rank has sent through `ray.train.report`."""
    if "ready" in metrics:
        return Ready()
    if "finished" in metrics:
        return Finished(metrics["finished"])
    return Reported(TrialReport(metrics["epoch"], metrics["miou"], metrics["loss"]))
