"""Fixtures of all tests: a tiny config on the generated data set, and a local Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from segtune.config.schema import ExperimentConfig
from segtune.data import shapes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the processes of pytest-xdist, begin with the files that start Ray: they take longest."""
    if hasattr(config, "workerinput"):
        with_ray = {item.path for item in items if item.get_closest_marker("ray")}
        items.sort(key=lambda item: item.path not in with_ray)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the decoded images of the tests out of the user's cache."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small generated data set: 24 training and 7 validation images."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    shapes.generate_if_needed(root, shapes.ShapesSpec(num_train=24, num_val=7, size=64))
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a local Ray for the tests of a file."""
    from segtune.cluster.ray_session import ray_connection

    with ray_connection(None):
        yield


@pytest.fixture
def ray_internals(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[bool]:
    """Start a local Ray whose processes may or may not use Ray's private names."""
    import ray

    from segtune.cluster.ray_internals import SWITCH
    from segtune.cluster.ray_session import ray_connection

    ray.shutdown()
    monkeypatch.setenv(SWITCH, "1" if request.param else "0")
    with ray_connection(None):
        yield request.param


@pytest.fixture(scope="session")
def tiny_config(shapes_root: Path) -> ExperimentConfig:
    """Return a config that trains two epochs of mit_nano in about a second."""
    return ExperimentConfig().override(
        {
            "data.layout": "shapes",
            "data.root": str(shapes_root),
            "data.classes": "shapes",
            "data.resize": [64, 64],
            "data.crop": [64, 64],
            "data.num_loaders": 0,
            "model.encoder": "mit_nano",
            "optim.lr": 1e-3,
            "optim.head_lr_mult": 1.0,
            "schedule.epochs": 2,
            "schedule.batch_size": 8,
            "schedule.warmup_epochs": 0.5,
            "schedule.val_every": 1,
            "checkpoint.every": 1,
        }
    )
