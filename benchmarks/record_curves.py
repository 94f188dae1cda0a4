"""Trains random configs of a study to their end, and records their learning curves.

    python -m benchmarks.record_curves --space configs/loss_weights.yaml --epochs 40 \\
        --configs 200 --seeds 3 --repeated 30 --out benchmarks/data/shapes.jsonl

Config 0 is the study's config itself. The first `--repeated` configs are trained with each of the
seeds, the others with seed 0. A curve that the file already holds is not trained again: stop the
command at any time, and start it again to go on. Each line is written when its run has ended.

A line holds the number of the config, the seed, the drawn values, the mIoU and the seconds of each
epoch, and how the run ended: "" if it was healthy to its end, otherwise the kind of its verdict.
"""

import argparse
import itertools
import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from segtune.api import run_training
from segtune.runs.rundir import TrialDir
from segtune.training.memory import keep_freed_memory
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


@dataclass(frozen=True)
class Recording:
    """One run that is to be recorded."""

    study: Study
    number: int  # of the config
    seed: int  # of the training run

    def params(self) -> dict[str, Any]:
        """Return the values of the config, which depend only on its number."""
        if self.number == 0:
            return self.study.space.complete({})
        sampler = optuna.samplers.RandomSampler(seed=self.number)
        return self.study.space(optuna.create_study(sampler=sampler).ask())


def record(recording: Recording) -> dict[str, Any]:
    """Train one config to its end; return its line of the file."""
    params = recording.params()
    config = recording.study.config.override({**params, "seed": recording.seed})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        verdict = run_training(config, out).verdict
        epochs = TrialDir(out).read_epochs()
    ends = [0.0, *(epoch.seconds for epoch in epochs)]
    return {
        "config": recording.number,
        "seed": recording.seed,
        "params": {name: _rounded(value) for name, value in params.items()},
        "end": verdict.kind,
        "mious": [round(epoch.miou or 0.0, 4) for epoch in epochs],
        "seconds": [round(end - start, 2) for start, end in itertools.pairwise(ends)],
    }


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def missing(
    study: Study, configs: int, repeated: int, seeds: int, recorded: set[tuple[int, int]]
) -> list[Recording]:
    """Return the runs that are not recorded yet: seed 0 of every config, then the other seeds."""
    wanted = [(number, 0) for number in range(configs)]
    wanted += [(number, seed) for seed in range(1, seeds) for number in range(repeated)]
    return [Recording(study, *run) for run in wanted if run not in recorded]


def recorded_runs(path: Path) -> set[tuple[int, int]]:
    """Return the config and the seed of each line of the file."""
    if not path.exists():
        return set()
    rows = map(json.loads, path.read_text().splitlines())
    return {(row["config"], row["seed"]) for row in rows}


def record_all(recordings: Sequence[Recording], processes: int) -> Iterator[dict[str, Any]]:
    """Yield the line of each run as it ends; `processes` runs train at the same time."""
    with multiprocessing.get_context("spawn").Pool(processes, initializer=_begin) as pool:
        yield from pool.imap_unordered(record, recordings)


def _begin() -> None:
    """Prepare a process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    keep_freed_memory()  # as `segtune train` does


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="configs/loss_weights.yaml", help="a study")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--epochs", type=int, required=True, help="of each run")
    parser.add_argument("--configs", type=int, required=True, help="configs, with seed 0")
    parser.add_argument("--repeated", type=int, default=0, help="configs with the other seeds too")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the repeated configs")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    # A run is one process: it loads its own images.
    changes = ["data.num_loaders=0", *arguments.set, f"schedule.epochs={arguments.epochs}"]
    study = load_study(arguments.space, None, changes)
    done = recorded_runs(arguments.out)
    recordings = missing(study, arguments.configs, arguments.repeated, arguments.seeds, done)
    for row in record_all(recordings, arguments.processes):
        with arguments.out.open("a") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        best = 100 * max(row["mious"], default=0.0)
        print(f"config {row['config']}, seed {row['seed']}: {best:.1f}", row["end"], flush=True)


if __name__ == "__main__":
    main()
