"""What the health monitors cost, and how often they are wrong: configs from the shipped spaces, trained to their full length.

    python -m benchmarks.health --configs 24

The monitors look and say, but end nothing. A config counts as healthy if it ends clearly above a constant prediction; every
verdict on such a one is a false alarm.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import torch

import segtune.training.train_step
import segtune.training.trainer
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training.distributed import Ranks
from segtune.training.health import HealthMonitor
from segtune.training.trainer import Trainer
from segtune.tuning.study import load_study

SPACES = ("loss_weights", "optim", "augment", "full")
CLEARLY_ABOVE = 1.1


class Listener(HealthMonitor):
    """A monitor whose verdicts are noted instead of obeyed, with the time that it takes. Only what cannot go on ends."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.said: list[Verdict] = []
        self.seconds = 0.0

    def step(self, **numbers: Any) -> Verdict | None:
        start = time.perf_counter()
        verdict = super().step(**numbers)
        self.seconds += time.perf_counter() - start
        self.said += [verdict] if verdict else []
        return verdict if verdict and verdict.kind == "non-finite" else None

    def validation(self, row: Any) -> None:
        start = time.perf_counter()
        verdict = super().validation(row)
        self.seconds += time.perf_counter() - start
        self.said += [verdict] if verdict else []


class Stopwatch:
    """Adds up the time of the two measurements that are made for health once an epoch."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Any) -> Any:
        """Returns the function with its time taken."""

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def watch(
    space: str, config: str, overrides: list[str], seed: int, watched: Stopwatch
) -> tuple[float, float, list[Verdict], float]:
    """Trains one drawn config; returns best mIoU, that of a constant prediction, what was said, and the monitors' share of the time."""
    study = load_study(f"search_spaces/{space}.yaml", config, [*overrides, f"seed={seed}"])
    drawn = study.space(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask())
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(study.config.override(drawn), TrialDir(Path(folder) / "run"), Ranks())
        trainer.health = listener = Listener(trainer.config)
        before, start = watched.seconds, time.perf_counter()
        rows = [report.row for report in trainer.epochs()]
        share = (listener.seconds + watched.seconds - before) / (time.perf_counter() - start)
    return (
        max((r["miou"] for r in rows), default=0.0),
        rows[0]["constant_miou"] if rows else 1.0,
        listener.said,
        share,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", type=int, default=24)
    parser.add_argument("--config", default="configs/shapes_segformer_b0.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    watched = Stopwatch()
    segtune.steps.gradient_left = watched.around(segtune.steps.gradient_left)
    segtune.trainer.weight_norm = watched.around(segtune.trainer.weight_norm)
    healthy, alarms, sick, told, shares = 0, 0, 0, 0, []
    for seed in range(arguments.configs):
        space = SPACES[seed % len(SPACES)]
        best, constant, said, share = watch(space, arguments.config, arguments.set, seed, watched)
        good = best > CLEARLY_ABOVE * constant
        healthy, alarms, sick, told = (
            healthy + good,
            alarms + (good and bool(said)),
            sick + (not good),
            told + (not good and bool(said)),
        )
        shares.append(share)
        words = ", ".join(f"{v.kind} at epoch {v.epoch}" for v in said[:1]) or "nothing"
        print(
            f"{seed:3} {space:12} mIoU {100 * best:5.1f} (constant {100 * constant:4.1f})  said: {words}",
            flush=True,
        )
    print(f"healthy: {healthy}, false alarms: {alarms}; sick: {sick}, of them told: {told}")
    print(
        f"share of the run's time that the monitors took: median {100 * sorted(shares)[len(shares) // 2]:.2f} %, most {100 * max(shares):.2f} %"
    )


if __name__ == "__main__":
    main()
