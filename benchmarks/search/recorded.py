"""A task that is a table: real training runs, recorded by benchmarks/record_curves.py.

Nothing is predicted between the recorded configs. Some configs were trained with several seeds.
What one of these runs differs from the mean over the seeds of its config is the noise of a training
run, epoch by epoch; the noise of one such run, drawn at random, is added to the mean curve of
every config.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.tasks import (
    Config,
    Curve,
    Params,
    Task,
    reference_scores,
    seed_of,
)
from segtune.tuning.curves.encoding import coordinates
from segtune.tuning.study import Study

# A mean over two seeds has a smaller spread than the truth: sqrt((n - 1) / n) of it.
MIN_SEEDS = 2


@dataclass(frozen=True)
class Row:
    """A recorded config: the mean curve over its seeds."""

    params: dict[str, Any]
    scores: np.ndarray  # [epochs]
    end: str  # empty, if most of its training runs were healthy

    @property
    def truth(self) -> float:
        """The best score of the mean curve: a user keeps the best checkpoint."""
        return 0.0 if self.end else float(self.scores.max())


class RecordedTask(Task):
    """Searchers choose among the recorded configs; each can be chosen once."""

    def __init__(
        self, name: str, study: Study, lines: Iterable[Mapping[str, Any]], grace: int
    ) -> None:
        """`lines` are those of the file; a trial may be stopped from epoch `grace` on."""
        self.name = name
        self.study = study
        self.grace = grace
        runs: dict[int, list[Mapping[str, Any]]] = {}
        for line in lines:
            if line["mious"]:
                runs.setdefault(line["config"], []).append(line)
        self.epochs = max(len(line["mious"]) for group in runs.values() for line in group)
        self.rows = [_mean_row(group) for _, group in sorted(runs.items())]
        self.noises = [noise for group in runs.values() for noise in self._noises_of(group)]
        self.points = np.stack([coordinates(study.space, row.params) for row in self.rows])
        healthy = [row.truth for row in self.rows if not row.end]
        self.best, self.middle = reference_scores(healthy)

    @classmethod
    def read(cls, path: Path, study: Study, grace: int) -> RecordedTask:
        """Read the file that record_curves.py has written."""
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return cls(path.stem, study, lines, grace)

    def _noises_of(self, group: list[Mapping[str, Any]]) -> list[np.ndarray]:
        """Return what each full run of a config differs from the mean of its full runs."""
        curves = [line["mious"] for line in group if len(line["mious"]) == self.epochs]
        if len(curves) < MIN_SEEDS:
            return []
        differences = np.array(curves) - np.mean(curves, axis=0)
        return list(differences * np.sqrt(len(curves) / (len(curves) - 1)))

    def extremes(self) -> tuple[Params, Params]:
        healthy = sorted((row for row in self.rows if not row.end), key=lambda row: row.truth)
        return healthy[-1].params, healthy[0].params

    def nearest(self, params: Params, used: Collection[int]) -> Config:
        distances = np.abs(self.points - coordinates(self.space, params)).sum(1)
        distances[list(used)] = np.inf
        row = int(distances.argmin())
        return Config(dict(self.rows[row].params), row)

    def curve(self, config: Config, seed: int) -> Curve:
        row = self.rows[self._row(config)]
        scores = row.scores
        if self.noises:
            draw = np.random.default_rng(seed_of(self.name, config.row, seed))
            scores = scores + self.noises[draw.integers(len(self.noises))][: len(scores)]
        return Curve(tuple(np.clip(scores, 0.0, 1.0).tolist()), row.end)

    def truth(self, config: Config) -> float:
        return self.rows[self._row(config)].truth

    def _row(self, config: Config) -> int:
        assert config.row is not None
        return config.row


def _mean_row(group: list[Mapping[str, Any]]) -> Row:
    """Return the mean over the runs of a config that ended as most of them did."""
    num_sick = sum(bool(line["end"]) for line in group)
    is_sick = 2 * num_sick > len(group)
    kept = [line for line in group if bool(line["end"]) == is_sick]
    length = min(len(line["mious"]) for line in kept)
    scores = np.mean([line["mious"][:length] for line in kept], axis=0)
    return Row(dict(group[0]["params"]), scores, kept[0]["end"])
