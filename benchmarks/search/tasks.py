"""What a task of the search benchmark is: the learning curve, and the truth, of each config.

A curve has the noise of one training run. The truth has none: it is the mean mIoU to which a config
leads if it is trained at full length. A method sees curves only; it is judged by the truth of the
config that it would announce.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtune.tuning.space import Space
from segtune.tuning.study import Study

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """The learning curve of one training run."""

    scores: tuple[float, ...]  # mIoU (or accuracy) in 0..1 after each epoch, from epoch 1
    end: str = ""  # kind of the verdict after the last epoch; empty: healthy to the end

    @property
    def epochs(self) -> int:
        """Epochs until the training run ends."""
        return len(self.scores)


@dataclass(frozen=True)
class Config:
    """A config that a task can train."""

    params: dict[str, Any]
    row: int | None = None  # of the table, if the task has one


class Task(ABC):
    """Configs, their learning curves, and what they are worth."""

    name: str
    study: Study  # the config itself, and the space around it
    epochs: int  # of a training run at full length
    grace: int  # epoch of the first rung
    best: float  # the truth of the best config
    middle: float  # the median truth over random configs; a search below it is worse than a draw

    @property
    def space(self) -> Space:
        """The space that is searched."""
        return self.study.space

    def config_itself(self) -> Config:
        """Return the config that a search is to improve."""
        return self.nearest(self.space.complete({}), ())

    @abstractmethod
    def extremes(self) -> tuple[Params, Params]:
        """Return the best and the worst of the configs from which `best` and `middle` come."""

    @abstractmethod
    def nearest(self, params: Params, used: Collection[int]) -> Config:
        """Return the config that is trained if a method asks for `params`.

        A table has the recorded configs only: the nearest one whose row is not in `used`.
        """

    @abstractmethod
    def curve(self, config: Config, seed: int) -> Curve:
        """Return what a training run with this seed of the training reports."""

    @abstractmethod
    def truth(self, config: Config) -> float:
        """Return the mean score at full length; 0 for a config that ends unhealthy."""

    def regret(self, truth: float) -> float:
        """Return how far a truth is below the best: 0 for the best config, 1 for the median."""
        return (self.best - truth) / (self.best - self.middle)


def reference_scores(truths: Sequence[float]) -> tuple[float, float]:
    """Return the best truth and the median one."""
    return float(max(truths)), float(np.median(truths))


def seed_of(*parts: object) -> int:
    """Return a seed of 32 bits that depends on all parts, in every process."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
