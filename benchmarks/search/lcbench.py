"""LCBench: learning curves of 52 epochs on 34 data sets, from YAHPO Gym's model of them.

Zimmer, Lindauer and Hutter 2021 trained 2,000 configs of an MLP on each data set; a network that
Pfisterer, Schneider et al. 2022 fitted to them gives the validation accuracy of every config. Both
are under the Apache licence 2.0: folder lcbench of github.com/slds-lmu/yahpo_data. The folder is
not part of this project.

The seven settings of the MLP have other names here, because segtune's spaces search segtune's own
settings. Nothing depends on the names.

    python -m benchmarks.search.lcbench DIR     # what the data sets are like
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.tasks import Config, Curve, Params, Task, reference_scores, seed_of
from benchmarks.timing import Row, show_table
from segtune.config.schema import ExperimentConfig
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

EPOCHS = 52
GRACE = 2
NUM_RANDOM = 1000  # configs, among which the best and the median are looked for
# Standard deviation of the noise of an epoch, as a share of what lies between the median config
# and the best. The model itself has none.
NOISE = 0.02
ACCURACY = 1  # column of the model's output, in per cent


@dataclass(frozen=True)
class Setting:
    """A setting of the MLP, drawn on 0..1 under the name of a setting of segtune."""

    alias: str
    name: str
    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False
    start: float = 0.5  # of the config itself, in 0..1: the middle, as in the original

    def value(self, share: float) -> float:
        """Return the value of the MLP's setting that lies at a share of its range."""
        if self.is_log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.is_whole else value


# In the order in which the model takes them.
SETTINGS = (
    Setting("loss.ce.weight", "batch_size", 16, 512, is_log=True, is_whole=True),
    Setting("loss.dice.weight", "learning_rate", 1e-4, 1e-1, is_log=True),
    Setting("loss.focal.weight", "momentum", 0.1, 0.99),
    Setting("loss.focal.alpha", "weight_decay", 1e-5, 1e-1),
    Setting("loss.focal.gamma", "num_layers", 1, 5, is_whole=True),
    Setting("augment.flip", "max_units", 64, 1024, is_log=True, is_whole=True),
    Setting("model.drop_path", "max_dropout", 0.0, 1.0),
)
HIGHEST_SHARE = 0.999  # segtune's own setting may be below 1 only
# The model takes so many configs at a time: it keeps the memory of its largest input.
POINTS_AT_A_TIME = 20


def lcbench_study() -> Study:
    """Return the study: seven ranges of 0..1, and a config in their middle."""
    start = {setting.alias: setting.start for setting in SETTINGS}
    dimensions = [Dimension(s.alias, "uniform", (0.0, HIGHEST_SHARE)) for s in SETTINGS]
    changes = {**start, "schedule.epochs": EPOCHS, "data.num_loaders": 0}
    return Study(
        ExperimentConfig().override(changes), Space(tuple(dimensions), start), SearchConfig()
    )


class LCBenchTask(Task):
    """One of the 34 data sets."""

    epochs = EPOCHS
    grace = GRACE

    def __init__(self, folder: Path, data_set: str) -> None:
        """`folder` holds lcbench_model.onnx and lcbench_encoding.json; `data_set` is a number."""
        self.name = f"lcbench-{data_set}"
        self.folder = folder
        self.study = lcbench_study()
        encoding = json.loads((folder / "lcbench_encoding.json").read_text())
        # A search asks for the truth of a config after its curve.
        self.latest: tuple[tuple[float, ...], np.ndarray] = ((), np.empty(0))
        self.code = encoding["OpenML_task_id"][data_set]
        self.best, self.middle = reference_scores(self._random_means().max(1).tolist())
        self.noise = NOISE * (self.best - self.middle)

    def _means(self, points: np.ndarray) -> np.ndarray:
        """Return the accuracy in 0..1 [N, epochs] of points [N, 7] in 0..1."""
        parts = [points[i : i + POINTS_AT_A_TIME] for i in range(0, len(points), POINTS_AT_A_TIME)]
        return np.concatenate([self._means_of_few(part) for part in parts])

    def _means_of_few(self, points: np.ndarray) -> np.ndarray:
        values = [
            [setting.value(x) for setting, x in zip(SETTINGS, point, strict=True)]
            for point in points
        ]
        rows = np.repeat(np.array(values), EPOCHS, axis=0)
        epochs = np.tile(np.arange(1, EPOCHS + 1), len(points))
        inputs = {
            "x_cat": np.full((len(rows), 1), self.code, dtype=np.int32),
            "x_cont": np.column_stack([epochs, rows]).astype(np.float32),
        }
        accuracy = _model(self.folder).run(None, inputs)[0][:, ACCURACY]
        return np.clip(accuracy.reshape(len(points), EPOCHS) / 100, 0.0, 1.0)

    def _random_means(self) -> np.ndarray:
        """Return the accuracy of NUM_RANDOM random configs [NUM_RANDOM, epochs], in 0..1."""
        return self._means(_random_points())

    def first_rung_correlation(self) -> float:
        """Return the rank correlation of the score at the first rung with the score at the end."""
        from scipy.stats import spearmanr

        means = self._random_means()
        correlation: Any = spearmanr(means[:, :GRACE].max(1), means.max(1))[0]
        return float(correlation)

    def extremes(self) -> tuple[Params, Params]:
        points, truths = _random_points(), self._random_means().max(1)
        aliases = [setting.alias for setting in SETTINGS]
        best, worst = points[truths.argmax()].tolist(), points[truths.argmin()].tolist()
        return dict(zip(aliases, best, strict=True)), dict(zip(aliases, worst, strict=True))

    def _mean(self, config: Config) -> np.ndarray:
        """Return the accuracy of a config at each epoch, in 0..1."""
        point = tuple(config.params[setting.alias] for setting in SETTINGS)
        if point != self.latest[0]:
            self.latest = (point, self._means(np.array([point]))[0])
        return self.latest[1]

    def nearest(self, params: Params, used: Collection[int]) -> Config:
        """Return the config itself: the model knows every config."""
        return Config(dict(params))

    def curve(self, config: Config, seed: int) -> Curve:
        points = json.dumps(config.params, sort_keys=True)
        noise = np.random.default_rng(seed_of(self.name, points, seed)).normal(size=EPOCHS)
        scores = np.clip(self._mean(config) + self.noise * noise, 0.0, 1.0)
        return Curve(tuple(scores.tolist()))

    def truth(self, config: Config) -> float:
        return float(self._mean(config).max())


@cache
def _model(folder: Path) -> Any:
    """Return the model of all data sets."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(folder / "lcbench_model.onnx"), options)


def _random_points() -> np.ndarray:
    """Return NUM_RANDOM random points [NUM_RANDOM, 7], always the same."""
    shape = (NUM_RANDOM, len(SETTINGS))
    return np.random.default_rng(0).uniform(0, HIGHEST_SHARE, shape)


def data_sets(folder: Path) -> list[str]:
    """Return the numbers of the data sets."""
    space = json.loads((folder / "lcbench_config_space.json").read_text())
    by_name = {setting["name"]: setting for setting in space["hyperparameters"]}
    return list(by_name["OpenML_task_id"]["choices"])


def main() -> None:
    parser = argparse.ArgumentParser(description="What the data sets of LCBench are like.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows: list[Row] = []
    for number in data_sets(folder):
        task = LCBenchTask(folder, number)
        row: Row = {
            "data set": number,
            "best of random configs": f"{task.best:.3f}",
            "median": f"{task.middle:.3f}",
            "first rung and end, rank correlation": f"{task.first_rung_correlation():.2f}",
        }
        rows.append(row)
    show_table("LCBench", rows, None)


if __name__ == "__main__":
    main()
