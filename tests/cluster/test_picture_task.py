"""A search draws the pictures of its report at its end, on a worker."""

from pathlib import Path

import pytest

from segtune.api import run_study
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.rundir import SearchDir
from segtune.tuning.study_reader import load_study

pytestmark = pytest.mark.ray


def test_a_search_draws_pictures_once_and_again_for_a_new_winner(
    cluster: None, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    tree = {
        "config": tiny_config.override({"optim.lr": 1e-6}).dump(),
        "space": {"optim.lr": {"loguniform": [1e-6, 1e-1]}},
        "search": {
            "trials": 1,
            "scheduler": "none",
            "sampler": "random",
            "known_good": [{"optim.lr": 3e-3}],
            "corner_steps": 0,
            "cpus_per_worker": 1.0,
            "pictures": 2,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    run = SearchDir(tmp_path / "a")
    run_study(load_study(tmp_path / "s.yaml"), tmp_path, "a")
    first = run.read_pictures()
    assert first is not None
    assert (first["best"]["trial"], len(first["images"])) == ("0000", 2)
    study = load_study(tmp_path / "s.yaml", search={"trials": 2})
    run_study(study, tmp_path, "a", resume=True)
    second = run.read_pictures()
    assert second is not None
    assert (second["best"]["trial"], second["baseline"]["trial"]) == ("0001", "0000")
    written = (run.pictures / "pictures.json").stat().st_mtime_ns
    run_study(study, tmp_path, "a", resume=True)
    assert (run.pictures / "pictures.json").stat().st_mtime_ns == written
