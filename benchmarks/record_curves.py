"""Trains configs drawn at random from a space, one after another, and records their learning curves for search.py.

    python benchmarks/record_curves.py --number 64 --out benchmarks/data/shapes.jsonl

Number 0 is the config itself. What the file holds already is not trained again.
"""

import argparse
import json
import tempfile
from pathlib import Path

import optuna
import torch

from segtune.api import run_training
from segtune.runs.rundir import TrialDir
from segtune.tuning.study import Study, load_study


def point(study: Study, number: int) -> dict:
    """Returns the settings of a number: the same ones whatever was recorded before."""
    if number == 0:
        return study.space.complete({})
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask()
    return study.space(trial)


def record(study: Study, number: int) -> dict:
    """Trains one config to its end and returns its curve: validated mIoU by epoch, and how it ended."""
    params = point(study, number)
    with tempfile.TemporaryDirectory() as folder:
        result = run_training(study.config.override(params), Path(folder) / "run")
        rows = TrialDir(Path(folder) / "run").read_epochs()
    mious = {row["epoch"]: round(row["miou"], 5) for row in rows if row.get("miou") is not None}
    return {
        "number": number,
        "params": params,
        "end": result.verdict.kind,
        "epoch": result.verdict.epoch,
        "mious": mious,
    }


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
    study = load_study(arguments.space, arguments.config, arguments.set)
    done = (
        {json.loads(line)["number"] for line in arguments.out.read_text().splitlines()}
        if arguments.out.exists()
        else set()
    )
    for number in range(arguments.number):
        if number not in done:
            row = record(study, number)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                number,
                row["end"] or "completed",
                max(row["mious"].values(), default=0.0),
                flush=True,
            )


if __name__ == "__main__":
    main()
