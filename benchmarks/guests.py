"""A thousand fake trials at a time on one machine: each takes its resources on the cluster, but they share a few processes.

A process for a trial of Tune takes 112 MB of its own: a thousand do not fit here. What is asked is what they cost the driver, and
that has no way to tell: each trial has its own placement group, and answers Tune's calls through Ray, one by one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.air.execution.resources.placement_group import PlacementGroupAcquiredResources
from ray.tune import Trainable

from benchmarks.search_overhead import fake_score
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict

EPOCHS = 6


class FakeTrial(Trainable):
    """One fake trial: sleeps instead of training, and writes the same files."""

    trial: TrialDir
    drawn: dict[str, Any]

    def setup(self, config: dict[str, Any]) -> None:
        """Takes what the sampler has drawn, with where and how long."""
        self.drawn = config["drawn"]
        self.trial = SearchDir(Path(config["run"])).trial(
            self.drawn["number"], self.drawn["attempt"]
        )
        self.epoch_s, self.epoch = config["epoch_s"], 0

    def step(self) -> dict[str, Any]:
        """Ends an epoch."""
        time.sleep(self.epoch_s)
        self.epoch += 1
        scores = {"loss": 1.0, "miou": fake_score(self.drawn["params"], self.epoch)}
        self.trial.append_epoch(
            {
                "epoch": self.epoch,
                "step": self.epoch,
                **scores,
                "seconds": self.epoch_s * self.epoch,
                "ended": time.time(),
            }
        )
        if self.epoch == EPOCHS:
            self.trial.write_verdict(Verdict(state="completed", epoch=EPOCHS, step=EPOCHS))
        return {"epoch": self.epoch, **scores, "done": self.epoch == EPOCHS}


class ActorPool:
    """A process with guests. Each call of one of them waits in a thread of its own."""

    def __init__(self, run: str, epoch_s: float) -> None:
        self.run, self.epoch_s, self.guests = run, epoch_s, dict[int, FakeTrial]()

    def call(self, guest: int, method: str, *given: Any, **named: Any) -> Any:
        """Does what Tune asks of the actor of a trial."""
        if method == "__ray_ready__":
            self.guests[guest] = FakeTrial(
                {"drawn": named["config"], "run": self.run, "epoch_s": self.epoch_s}
            )
            return None
        if method == "reset":
            self.guests[guest].setup({"drawn": given[0], "run": self.run, "epoch_s": self.epoch_s})
            return True
        if method in ("stop", "__ray_terminate__"):
            return None
        return getattr(self.guests[guest], method)(*given, **named)


class _Actor:
    """What Tune takes for the actor of a trial."""

    def __init__(self, house: Any, number: int, named: dict[str, Any]) -> None:
        self._house, self._number, self._named = house, number, named

    def __getattr__(self, method: str) -> Any:
        return _Method(
            self._house, self._number, method, self._named if method == "__ray_ready__" else {}
        )


class _Method:
    def __init__(self, house: Any, number: int, method: str, named: dict[str, Any]) -> None:
        self.house, self.call, self.named = house, (number, method), named

    def remote(self, *given: Any, **named: Any) -> Any:
        """Calls the guest."""
        return self.house.call.remote(*self.call, *given, **self.named, **named)


class _Class:
    def __init__(self, start: Callable[..., _Actor]) -> None:
        self.remote = start


@contextmanager
def in_houses(run: SearchDir, houses: int, concurrent: int, epoch_s: float) -> Iterator[None]:
    """While the block runs, Tune's trials are guests in so many processes, spread over the nodes."""
    options = {
        "num_cpus": 0,
        "max_concurrency": -(-concurrent // houses) + 8,
        "scheduling_strategy": "SPREAD",
    }
    there = [
        ray.remote(ActorPool).options(**options).remote(str(run.path), epoch_s)
        for _ in range(houses)
    ]
    started: list[_Actor] = []

    def start(**named: Any) -> _Actor:
        started.append(
            _Actor(there[len(started) % houses], len(started), {"config": named["config"]})
        )
        return started[-1]

    real = PlacementGroupAcquiredResources.annotate_remote_entities
    PlacementGroupAcquiredResources.annotate_remote_entities = lambda self, entities: [
        _Class(start)
    ]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        PlacementGroupAcquiredResources.annotate_remote_entities = real
