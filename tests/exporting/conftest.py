"""Trained models that are exported: a few steps on the generated data set, once for all tests."""

from pathlib import Path

import pytest
from PIL import Image
from trained import UPERNET, train

from segtune.exporting.source import ExportSource, open_source


@pytest.fixture(scope="session")
def segformer(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Path:
    """Return the training run of a mit_nano."""
    folder = tmp_path_factory.mktemp("segformer") / "run"
    return train(folder, shapes_root, **{"model.encoder": "mit_nano"})


@pytest.fixture(scope="session")
def upernet(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Path:
    """Return the training run of a UPerNet over a ResNet of timm."""
    return train(tmp_path_factory.mktemp("upernet") / "run", shapes_root, **UPERNET)


@pytest.fixture(scope="session")
def deeplab(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Path:
    """Return the training run of a model that transformers lacks."""
    changes = {**UPERNET, "model.name": "lraspp_mobilenet_v3_large", "model.decoder_channels": None}
    changes["model.encoder"] = "mobilenet_v3_large"
    return train(tmp_path_factory.mktemp("lraspp") / "run", shapes_root, **changes)


@pytest.fixture(scope="session")
def segformer_source(segformer: Path) -> ExportSource:
    return open_source(segformer)


@pytest.fixture(scope="session")
def image(segformer: Path, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image file of 64 x 64 pixels, which data.resize leaves as it is."""
    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.open(shapes_root / "JPEGImages" / "val_00000.jpg").save(path)
    return path
