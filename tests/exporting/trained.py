"""Training runs of a few steps, which are exported."""

from pathlib import Path

from segtune.api import run_training
from segtune.config.schema import ExperimentConfig

SHAPES = {
    "data.layout": "shapes",
    "data.classes": "shapes",
    "data.resize": [96, 64],
    "data.crop": [64, 64],
    "data.num_loaders": 0,
    "optim.lr": 1e-2,
    "optim.head_lr_mult": 1.0,
    "schedule.epochs": 12,
    "schedule.batch_size": 8,
    "schedule.warmup_epochs": 0.5,
    "schedule.val_every": 6,
}
UPERNET = {
    "model.name": "upernet",
    "model.encoder": "resnet18",
    "model.decoder_channels": 8,
    "model.drop_path": 0.0,
    "schedule.epochs": 1,
    "schedule.val_every": 1,
}


def train(folder: Path, shapes_root: Path, **changes: object) -> Path:
    settings = {**SHAPES, "data.root": str(shapes_root), **changes}
    result = run_training(ExperimentConfig().override(settings), folder)
    assert result.verdict.state == "completed"
    return folder
