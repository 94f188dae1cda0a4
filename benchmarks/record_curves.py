"""Trains random configs of a space, one after another, and records their learning curves.

    python benchmarks/record_curves.py --number 64 --out benchmarks/data/shapes.jsonl

`tasks.py` reads the curves. Number 0 is the config itself. A curve that the file already holds is
not trained again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import optuna
import torch

from segtune.api import run_training
from segtune.runs.results import miou_by_epoch
from segtune.runs.rundir import TrialDir
from segtune.training.memory import keep_freed_memory
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def draw(study: Study, number: int) -> dict[str, Any]:
    """Return the values of a number, which do not depend on what was recorded before."""
    if number == 0:
        return study.space.complete({})
    sampler = optuna.samplers.RandomSampler(seed=number)
    return study.space(optuna.create_study(sampler=sampler).ask())


def record(study: Study, number: int) -> dict[str, Any]:
    """Train one config to its end; return its validated mIoU by epoch, and how it ended."""
    params = draw(study, number)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = run_training(study.config.override(params), out)
        mious = miou_by_epoch(TrialDir(out).read_epochs())
    return {
        "number": number,
        "params": params,
        "end": result.verdict.kind,
        "epoch": result.verdict.epoch,
        "mious": {epoch: round(miou, 5) for epoch, miou in mious.items()},
    }


def recorded_numbers(path: Path) -> set[int]:
    """Return the numbers whose curves are in the file."""
    if not path.exists():
        return set()
    return {json.loads(line)["number"] for line in path.read_text().splitlines()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="search_spaces/full.yaml")
    parser.add_argument("--config", default="configs/shapes_segformer_b0.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--number", type=int, default=64, help="curves in all")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    keep_freed_memory()  # as `segtune train` does
    study = load_study(arguments.space, arguments.config, arguments.set)
    recorded = recorded_numbers(arguments.out)
    for number in range(arguments.number):
        if number in recorded:
            continue
        curve = record(study, number)
        with arguments.out.open("a") as file:
            file.write(json.dumps(curve) + "\n")
        best = max(curve["mious"].values(), default=0.0)
        print(number, curve["end"] or "completed", best, flush=True)


if __name__ == "__main__":
    main()
