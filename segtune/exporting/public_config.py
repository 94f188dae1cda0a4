"""A config as it can be given to others: without paths and servers of this machine."""

from __future__ import annotations

from pathlib import Path

from segtune.config.schema import ExperimentConfig


def public_config(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with the last part of each path, and without `log`, which names servers.

    An id on the Hugging Face hub stays as it is.
    """
    changes = {
        name: Path(path).name
        for name in ("data.root", "data.images", "data.masks", "model.weights")
        if (path := config.get(name)) and _is_of_this_machine(path)
    }
    public = config.override({**changes, "data.cache": "auto"})
    return ExperimentConfig.parse({k: v for k, v in public.dump().items() if k != "log"})


def _is_of_this_machine(path: str) -> bool:
    """Whether a path is absolute, leads up, or exists here; relative names of a data set stay."""
    return Path(path).is_absolute() or ".." in Path(path).parts or Path(path).exists()


def data_set_name(config: ExperimentConfig) -> str:
    """Return the name of the data set: that of its folder, without the folders above it."""
    return Path(config.data.root).name or config.data.layout
