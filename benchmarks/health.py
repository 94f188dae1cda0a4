"""What the health monitor costs, and how often it is wrong.

    python -m benchmarks.health --configs 24

Draws configs from the shipped spaces and trains them to their full length: the monitor judges, but
its verdicts do not end the training run. A config counts as healthy if its best mIoU is clearly
above that of a constant prediction; any verdict on a healthy config is a false alarm.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest import mock

import optuna
import torch

from segtune.config.schema import ExperimentConfig
from segtune.runs.records import EpochRecord
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training import train_step, trainer
from segtune.training.distributed import Ranks
from segtune.training.health import HealthMonitor
from segtune.training.memory import keep_freed_memory
from segtune.training.probes import gradient_left, weight_norm
from segtune.training.trainer import Trainer
from segtune.tuning.study_reader import load_study

SPACES = ("loss_weights", "optim", "augment", "full")
# A best mIoU above this multiple of a constant prediction's is clearly above it.
HEALTHY_MARGIN = 1.1

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Stopwatch:
    """The total time of some calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def timed(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """Return `function`, with the time of its calls added."""

        def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
            with self.running():
                return function(*arguments, **options)

        return call


class ObservingMonitor(HealthMonitor):
    """A monitor that records its verdicts instead of ending the training run.

    Only a loss that is not finite still ends it: the training could not go on.
    """

    def __init__(self, config: ExperimentConfig, stopwatch: Stopwatch) -> None:
        super().__init__(config)
        self.stopwatch = stopwatch
        self.verdicts: list[Verdict] = []

    def step(
        self, *, epoch: int, step: int, loss: float, grad_norm: float, lr: float, scaled: bool
    ) -> Verdict | None:
        with self.stopwatch.running():
            verdict = super().step(
                epoch=epoch, step=step, loss=loss, grad_norm=grad_norm, lr=lr, scaled=scaled
            )
        if verdict:
            self.verdicts.append(verdict)
        return verdict if verdict and verdict.kind == "non-finite" else None

    def validation(self, record: EpochRecord) -> None:
        with self.stopwatch.running():
            verdict = super().validation(record)
        if verdict:
            self.verdicts.append(verdict)


@dataclass(frozen=True)
class Observed:
    """A training run under an ObservingMonitor."""

    best_miou: float  # in 0..1
    constant_miou: float  # mIoU of predicting the most frequent class everywhere
    verdicts: Sequence[Verdict]
    monitor_share: float  # of the time of the training run

    @property
    def is_healthy(self) -> bool:
        """Whether the model has learnt something."""
        return self.best_miou > HEALTHY_MARGIN * self.constant_miou


def observe(space: str, config: str, overrides: Sequence[str], seed: int) -> Observed:
    """Train a config that is drawn at random from a shipped space."""
    study = load_study(f"search_spaces/{space}.yaml", config, [*overrides, f"seed={seed}"])
    sampler = optuna.samplers.RandomSampler(seed=seed)
    drawn = study.space(optuna.create_study(sampler=sampler).ask())
    with tempfile.TemporaryDirectory() as folder:
        training = Trainer.start(
            study.config.override(drawn), TrialDir(Path(folder) / "run"), Ranks()
        )
        stopwatch = Stopwatch()
        monitor = ObservingMonitor(training.config, stopwatch)
        training.health = monitor
        start = time.perf_counter()
        with probes_timed(stopwatch):
            records = list(training.epochs())
        seconds = time.perf_counter() - start
    scores = [record.validation for record in records if record.validation]
    return Observed(
        best_miou=max((s.miou for s in scores), default=0.0),
        constant_miou=scores[0].constant_miou if scores else 1.0,
        verdicts=monitor.verdicts,
        monitor_share=stopwatch.seconds / seconds,
    )


@contextmanager
def probes_timed(stopwatch: Stopwatch) -> Iterator[None]:
    """Time the two measurements that are made once per epoch for the monitor alone."""
    with (
        mock.patch.object(train_step, "gradient_left", stopwatch.timed(gradient_left)),
        mock.patch.object(trainer, "weight_norm", stopwatch.timed(weight_norm)),
    ):
        yield


def print_summary(observed: Sequence[Observed]) -> None:
    """Print how often the monitor was right, and what it cost."""
    healthy = [run for run in observed if run.is_healthy]
    unhealthy = [run for run in observed if not run.is_healthy]
    num_false_alarms = sum(bool(run.verdicts) for run in healthy)
    num_detected = sum(bool(run.verdicts) for run in unhealthy)
    shares = [100 * run.monitor_share for run in observed]
    print(
        f"healthy: {len(healthy)}, false alarms: {num_false_alarms}; "
        f"unhealthy: {len(unhealthy)}, of them detected: {num_detected}"
    )
    print(
        "the monitor's share of the training time: "
        f"median {statistics.median(shares):.2f} %, maximum {max(shares):.2f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", type=int, default=24, help="how many configs to train")
    parser.add_argument("--config", default="configs/shapes_segformer_b0.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    keep_freed_memory()  # as `segtune train` does
    observed: list[Observed] = []
    for seed in range(arguments.configs):
        space = SPACES[seed % len(SPACES)]
        run = observe(space, arguments.config, arguments.set, seed)
        observed.append(run)
        verdict = "none"
        if run.verdicts:
            verdict = f"{run.verdicts[0].kind} at epoch {run.verdicts[0].epoch}"
        print(
            f"{seed:3} {space:12} mIoU {100 * run.best_miou:5.1f} "
            f"(constant {100 * run.constant_miou:4.1f})  verdict: {verdict}",
            flush=True,
        )
    print_summary(observed)


if __name__ == "__main__":
    main()
