"""Small data sets of the inputs that users have on disk, made on the spot."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from segtune.config.data_config import DataConfig

# Writes one file; a test makes it from pixels, from bytes or from text.
Writer = Callable[[Path], object]
MakeDataSet = Callable[..., DataConfig]


@pytest.fixture
def make_data_set(tmp_path: Path) -> MakeDataSet:
    """Return a function that writes a data set of layout `folder` and returns its config.

    Its argument `files` maps paths under the root to writers; its keywords are further settings of
    `data`, without the prefix.
    """
    root = tmp_path / "data set"

    def make(files: Mapping[str, Writer], **settings: object) -> DataConfig:
        for name, write in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        tree = {"layout": "folder", "root": str(root), "classes": ["background", "thing"]}
        return DataConfig.parse({**tree, "cache": "none", **settings})

    return make
