"""Studies on the tiny config, as a user writes them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

MakeStudy = Callable[..., Study]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for one another: everything here is small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Callable[..., Path]:
    """Write a study: a space, changes to the tiny config, and settings of the search block."""

    def make(space: Mapping[str, Any], config: Mapping[str, Any] = {}, **search: Any) -> Path:
        tree = {
            "config": tiny_config.override(config).dump(),
            "space": dict(space),
            "search": {"scheduler": "none", "sampler": "tpe", **search},
        }
        path = tmp_path / "study.yaml"
        path.write_text(write_yaml(tree))
        return path

    return make


@pytest.fixture
def make_study(make_file: Callable[..., Path]) -> MakeStudy:
    """Make a study from a space, changes to the tiny config, and settings of the search block."""

    def make(space: Mapping[str, Any], config: Mapping[str, Any] = {}, **search: Any) -> Study:
        return load_study(make_file(space, config, **search))

    return make
