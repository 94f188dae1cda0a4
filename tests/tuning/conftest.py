"""Studies on the tiny config, and searches that are played without Ray and without training."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.verdict import State, Verdict
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

SPACE = {"optim.lr": {"loguniform": [1e-5, 1e-1]}, "loss.focal.gamma": {"uniform": [0.0, 4.0]}}


@pytest.fixture
def make_study(tiny_config: ExperimentConfig, tmp_path: Path) -> Callable[..., Study]:
    """Make a study from a space, changes to the tiny config, and settings of the search block."""

    def make(
        space: Mapping[str, Any] = SPACE, config: Mapping[str, Any] = {}, **search: Any
    ) -> Study:
        tree = {
            "config": tiny_config.override(config).dump(),
            "space": dict(space),
            "search": {"scheduler": "none", "sampler": "tpe", **search},
        }
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return make


@pytest.fixture
def play() -> Callable[..., list[dict[str, Any]]]:
    """Play a search to its end and return the values of its trials, in the order of starts.

    Each trial has one epoch. Its mIoU is best at lr 1e-2 and gamma 0. `states` are the ends of the
    first trials; all others are completed.
    """

    def play_search(searcher: StudySearcher, states: Sequence[State] = ()) -> list[dict[str, Any]]:
        drawn: list[dict[str, Any]] = []
        while (suggestion := searcher.suggest(f"t{len(drawn)}")) != Searcher.FINISHED:
            name = f"t{len(drawn)}"
            state = states[len(drawn)] if len(drawn) < len(states) else "completed"
            params = suggestion["params"]
            drawn.append(params)
            distance = abs(math.log10(params["optim.lr"]) + 2) + params.get("loss.focal.gamma", 0.0)
            miou = 1 / (1 + distance)
            trial = searcher.run.trial(suggestion["number"])
            trial.append_epoch(EpochRecord(1, 1, 1.0, validation=ValidationScores(miou, 0.0)))
            searcher.on_trial_result(name, {"epoch": 1, "miou": miou})
            if state != "pruned":
                kind = "diverged" if state == "unhealthy" else ""
                trial.write_verdict(Verdict(state=state, kind=kind, epoch=1))
            searcher.on_trial_complete(name, {"epoch": 1})
        return drawn

    return play_search
