"""By which settings the runs of a tracker are compared: those of the space, or the main ones."""

from __future__ import annotations

from pathlib import Path

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import read_yaml
from segtune.runs.rundir import SearchDir, search_of
from segtune.tracking.tracker import Hyperparameter, as_hyperparameter

# Of a training run outside a search.
MAIN_SETTINGS = (
    "seed",
    "model.name",
    "model.encoder",
    "data.crop",
    "optim.name",
    "optim.lr",
    "optim.weight_decay",
    "schedule.epochs",
    "schedule.batch_size",
    "schedule.warmup_epochs",
    "loss.focal.weight",
    "loss.focal.gamma",
    "loss.dice.weight",
    "loss.ce.weight",
    "loss.lovasz.weight",
    "loss.tversky.weight",
)


def hyperparameters(config: ExperimentConfig, folder: Path) -> dict[str, Hyperparameter]:
    """Return {dotted name: value} of the settings by which a training run is compared.

    In a search run, these are the settings of its space, also if a trial has not drawn them.
    """
    search = search_of(folder)
    names = read_yaml(search.study)[0]["space"] if search else MAIN_SETTINGS
    return {name: as_hyperparameter(config.get(name)) for name in names}


def group_name(search: SearchDir | None) -> str:
    """Return the name of a search run, with that of the one it is a part of: `first/confirm`."""
    if search is None:
        return ""
    whole = search_of(search.path)
    return f"{whole.path.name}/{search.path.name}" if whole else search.path.name
