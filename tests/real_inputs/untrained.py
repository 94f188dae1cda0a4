"""Checkpoints of untrained models, so that a test of a command needs no training."""

from pathlib import Path

import torch

from segtune.config.schema import ExperimentConfig
from segtune.data.layouts import class_names
from segtune.models.build import build_model
from segtune.training import checkpoint


def save_checkpoint(run: Path, config: ExperimentConfig, epoch: int = 1) -> Path:
    """Write a checkpoint of random weights into the folder of a training run; return its path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config.model, len(class_names(config.data)))
    manifest = checkpoint.Manifest(epoch, step=1, lr=1e-3, miou=0.5, config=config.dump())
    return checkpoint.save(run / "checkpoints", "best", model.state_dict(), None, manifest)
