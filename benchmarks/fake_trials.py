"""A thousand fake trials at the same time on one machine.

Tune starts a process for each trial, and such a process takes 112 MB, so that a thousand of them do
not fit into the memory of one machine. Here the trials share a few processes. The driver does the
same work as for real trials: each trial has its own placement group, and each call of Tune goes
through Ray by itself. So the costs of the driver can be measured; those of the workers cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.air.execution.resources.placement_group import PlacementGroupAcquiredResources
from ray.tune import Trainable

from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict

EPOCHS = 6

# Calls that an ActorPool takes at the same time, besides those of its trials.
SPARE_CALLS = 8


def fake_miou(params: Mapping[str, Any], epoch: int) -> float:
    """Return a hill over learning rate and Dice weight, which grows from epoch to epoch."""
    hill = 1 / (1 + abs(np.log10(params["optim.lr"]) + 3) + 0.1 * params["loss.dice.weight"])
    return float(hill * (1 - 0.5 ** (epoch + 1)))


def fake_record(params: Mapping[str, Any], epoch: int, seconds: float) -> EpochRecord:
    """Return the record of an epoch that ends now, `seconds` after the start of the trial."""
    return EpochRecord(
        epoch=epoch,
        step=epoch,
        seconds=seconds,
        ended=time.time(),
        losses={"loss": 1.0},
        validation=ValidationScores(miou=fake_miou(params, epoch), constant_miou=0.0),
    )


class FakeTrial(Trainable):
    """One fake trial: it sleeps instead of training, and writes the files of a real trial."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the trial. `config` holds `drawn` from the searcher, `run` and `epoch_s`."""
        drawn = config["drawn"]
        self.params: dict[str, Any] = drawn["params"]
        self.trial: TrialDir = SearchDir(Path(config["run"])).trial(
            drawn["number"], drawn["attempt"]
        )
        self.epoch_s: float = config["epoch_s"]
        self.epoch = 0

    def step(self) -> dict[str, Any]:
        """Pass one epoch, and return its result for Tune."""
        time.sleep(self.epoch_s)
        self.epoch += 1
        record = fake_record(self.params, self.epoch, self.epoch_s * self.epoch)
        self.trial.append_epoch(record)
        done = self.epoch == EPOCHS
        if done:
            self.trial.write_verdict(Verdict(state="completed", epoch=EPOCHS, step=EPOCHS))
        return {"epoch": record.epoch, "miou": record.miou, **record.losses, "done": done}


class ActorPool:
    """A process that runs many fake trials. Each call of Tune waits in a thread of its own."""

    def __init__(self, run: str, epoch_s: float) -> None:
        """`run` is the folder of the search run; `epoch_s` is the duration of an epoch."""
        self.run = run
        self.epoch_s = epoch_s
        self.trials: dict[int, FakeTrial] = {}

    def call(self, trial: int, method: str, *arguments: Any, **options: Any) -> Any:
        """Do what Tune asks of the actor of one trial."""
        if method == "__ray_ready__":
            self.trials[trial] = FakeTrial(self._config(options["config"]))
            return None
        if method == "reset":
            self.trials[trial].setup(self._config(arguments[0]))
            return True
        if method in ("stop", "__ray_terminate__"):
            return None
        return getattr(self.trials[trial], method)(*arguments, **options)

    def _config(self, drawn: dict[str, Any]) -> dict[str, Any]:
        return {"drawn": drawn, "run": self.run, "epoch_s": self.epoch_s}


class _ActorHandle:
    """The stand-in for the handle of a trial's actor: its methods are calls of an ActorPool."""

    def __init__(self, pool: Any, trial: int, drawn: dict[str, Any]) -> None:
        self._pool = pool
        self._trial = trial
        self._drawn = drawn

    def __getattr__(self, method: str) -> _ActorMethod:
        options = {"config": self._drawn} if method == "__ray_ready__" else {}
        return _ActorMethod(self._pool, self._trial, method, options)


class _ActorMethod:
    """The stand-in for a method of an actor handle."""

    def __init__(self, pool: Any, trial: int, method: str, options: dict[str, Any]) -> None:
        self._pool = pool
        self._trial = trial
        self._method = method
        self._options = options

    def remote(self, *arguments: Any, **options: Any) -> Any:
        """Call the method of the fake trial in its pool, and return Ray's reference."""
        return self._pool.call.remote(
            self._trial, self._method, *arguments, **self._options, **options
        )


class _ActorClass:
    """The stand-in for a remote class."""

    def __init__(self, start: Callable[..., _ActorHandle]) -> None:
        self.remote = start


@contextmanager
def trials_in_pools(
    run: SearchDir, *, num_pools: int, concurrent: int, epoch_s: float
) -> Iterator[None]:
    """Run Tune's trials in `num_pools` processes, spread over the nodes, while the block runs."""
    pool_class = ray.remote(ActorPool).options(
        num_cpus=0,
        max_concurrency=-(-concurrent // num_pools) + SPARE_CALLS,
        scheduling_strategy="SPREAD",
    )
    pools = [pool_class.remote(str(run.path), epoch_s) for _ in range(num_pools)]
    handles: list[_ActorHandle] = []

    def start(**options: Any) -> _ActorHandle:
        number = len(handles)
        handles.append(_ActorHandle(pools[number % num_pools], number, options["config"]))
        return handles[-1]

    # Tune gets the remote class of a trial from here, bound to the trial's placement group.
    original = PlacementGroupAcquiredResources.annotate_remote_entities
    PlacementGroupAcquiredResources.annotate_remote_entities = (  # pyright: ignore[reportAttributeAccessIssue]
        lambda self, entities: [_ActorClass(start)]
    )
    try:
        yield
    finally:
        PlacementGroupAcquiredResources.annotate_remote_entities = original
