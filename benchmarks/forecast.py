"""How far the forecast of a search lies from what comes out, in five real searches.

    python -m benchmarks.forecast --out /tmp/forecast
    python -m benchmarks.forecast --out /tmp/forecast --only "one at a time"

Every search runs on the generated shapes. The forecast is the one that the search writes before its
first trial, from real steps; the outcome is the time from the start of Tune to its end, without the
start of Ray and the corner steps. Run it on a machine that does nothing else: a load that comes and
goes cannot be forecast.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import Row, show_table
from segtune.api import run_study
from segtune.checks.forecast_outcome import Compared, compare_with_outcome
from segtune.config.yaml_io import write_yaml
from segtune.reporting.format import rough_duration
from segtune.runs.rundir import SearchDir
from segtune.tuning.study_reader import load_study

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "shapes_segformer_b0.yaml")
LOSS_WEIGHTS = str(ROOT / "search_spaces" / "loss_weights.yaml")
MODELS = {
    "model.encoder": {"choice": ["mit_nano", "mit_b0"]},
    "optim.lr": {"loguniform": [1e-2, 1e-1]},
}


@dataclass(frozen=True)
class Search:
    """One of the searches."""

    name: str
    trials: int
    epochs: int
    search: Mapping[str, Any]  # of the study
    space: str | Mapping[str, Any] = LOSS_WEIGHTS


ASHA = {"asha": {"grace_epochs": 2, "reduction": 3}}
SEARCHES = (
    Search("loss weights, ASHA", 16, 12, {"scheduler": ASHA}),
    Search("one at a time", 8, 12, {"scheduler": ASHA, "max_concurrent": 1}),
    Search("no stopping rule", 6, 8, {"scheduler": "none", "sampler": "random"}),
    Search("median rule", 12, 8, {"scheduler": {"median": {"min_trials": 3}}}),
    Search("two models", 6, 5, {"scheduler": ASHA, "sampler": "random"}, MODELS),
)


def run_search(search: Search, folder: Path) -> list[Compared]:
    """Run a search in `folder` and return its forecast beside its outcome."""
    study_file = folder / f"{search.name}.yaml"
    tree = {"config": CONFIG, "space": search.space, "search": {**search.search}}
    study_file.write_text(write_yaml(tree))
    changes = [f"schedule.epochs={search.epochs}", f"data.root={ROOT / 'data' / 'shapes'}"]
    study = load_study(study_file, None, changes, {"trials": search.trials})
    result = run_study(study, folder, search.name.replace(" ", "_").replace(",", ""))
    return compare_with_outcome(study, SearchDir(result.run))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the search runs")
    parser.add_argument("--only", help="run the search of this name only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    errors: dict[str, list[float]] = {}
    for search in SEARCHES:
        if arguments.only not in (None, search.name):
            continue
        compared = run_search(search, arguments.out)
        rows += [_row(search, number) for number in compared]
        for number in compared:
            errors.setdefault(number.name, []).append(abs(number.ratio - 1))
    show_table("forecasts of real searches", rows, arguments.out / "forecast.json")
    for name, ratios in errors.items():
        print(f"{name}: median of |outcome / forecast - 1| = {statistics.median(ratios):.2f}")


def _row(search: Search, number: Compared) -> Row:
    is_time = number.unit == "s"
    shown = rough_duration if is_time else lambda value: f"{value:.0f}"
    return {
        "search": search.name,
        "of": number.name if is_time else f"{number.name} ({number.unit})",
        "forecast": shown(number.expected),
        "outcome": shown(number.actual),
        "outcome / forecast": f"{number.ratio:.2f}",
    }


if __name__ == "__main__":
    main()
