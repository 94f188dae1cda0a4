"""Losses compared by real training: equal budgets, several seeds, and the winner of a search.

    python -m benchmarks.evidence --root ../shared/camvid --weights data/lite0.safetensors
    python -m benchmarks.evidence --root … --weights … --winner runs/evidence_search/best.yaml

Each row is configs/camvid_upernet_lite0.yaml with another loss. The losses are those of the
experiments in configs/voc12aug_segformer_b2_v1.yaml, _v2_first.yaml and _v2_final.yaml. A training
run that is complete in `--out` is not trained again; one that was interrupted is resumed.

A search trains with seed 0, so the rows have other seeds: the score of the winner would otherwise
be the lucky one that it won with.
"""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import Row, show_table
from segtune.api import run_training
from segtune.config.schema import ExperimentConfig, load_config
from segtune.runs.rundir import TrialDir

CONFIG = "configs/camvid_upernet_lite0.yaml"


class Loss(NamedTuple):
    """A row of the table."""

    title: str
    changes: Mapping[str, object]  # of the config


# By the name of the folders of their training runs.
LOSSES = {
    "v1": Loss(
        "V1: cross-entropy, no photometric distortion",
        {
            "loss.ce.weight": 1.0,
            "loss.focal.weight": 0.0,
            "loss.dice.weight": 0.0,
            "augment.photometric": False,
        },
    ),
    "v2_first": Loss(
        "V2 first: sigmoid focal, gamma 2",
        {"loss.ce.weight": 0.0, "loss.focal.weight": 1.0, "loss.dice.weight": 0.0},
    ),
    "v2_final": Loss(
        "V2 final: sigmoid focal, gamma 2, and Dice",
        {"loss.ce.weight": 0.0, "loss.focal.weight": 1.0, "loss.dice.weight": 1.0},
    ),
}
SEEDS = (1, 2, 3)


def best_and_last(config: ExperimentConfig, out: Path) -> tuple[float, float]:
    """Train a config unless `out` is complete; return its best and last mIoU in per cent."""
    trial = TrialDir(out)
    if not trial.verdict.is_file():
        run_training(config, out, resume=trial.config.is_file())
    scores = [record.miou for record in trial.read_epochs() if record.miou is not None]
    return 100 * max(scores), 100 * scores[-1]


def row_of(title: str, config: ExperimentConfig, out: Path, seeds: Sequence[int]) -> Row:
    """Train a config once for each seed, in folders `out`-SEED; return its row of the table."""
    best, last = zip(
        *(
            best_and_last(config.override({"seed": seed}), out.with_name(f"{out.name}-{seed}"))
            for seed in seeds
        ),
        strict=True,
    )
    return {
        "loss": title,
        "best mIoU, mean": f"{statistics.mean(best):.2f}",
        "deviation": f"{statistics.stdev(best):.2f}" if len(best) > 1 else "-",
        "by seed": "  ".join(f"{score:.2f}" for score in best),
        "last mIoU, mean": f"{statistics.mean(last):.2f}",
    }


def main() -> None:
    """Read the arguments, train, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of CamVid in VOC layout")
    parser.add_argument("--weights", required=True, help="file of scripts/convert_lite0.py")
    parser.add_argument("--winner", type=Path, help="best.yaml of a search run: one more row")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--epochs", type=int, help="default: those of the config")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="training runs")
    parser.add_argument("--out", type=Path, help="file for the table as JSON")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    places: dict[str, object] = {"data.root": arguments.root, "model.weights": arguments.weights}
    if arguments.epochs:
        places["schedule.epochs"] = arguments.epochs
    base = load_config(CONFIG).override(places)
    rows = [
        row_of(loss.title, base.override(loss.changes), arguments.runs / name, arguments.seeds)
        for name, loss in LOSSES.items()
    ]
    if arguments.winner:
        winner = load_config(arguments.winner).override(places)
        rows.append(
            row_of("winner of the search", winner, arguments.runs / "winner", arguments.seeds)
        )
    show_table(f"{CONFIG}, mIoU in per cent", rows, arguments.out)


if __name__ == "__main__":
    main()
