"""Settings of a first training run that suit the images and the machine. Reads no file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segtune.first_config.machine import Machine

# Optimiser steps of a training run: a few minutes on two CPU cores, a few hours on a GPU.
CPU_STEPS, GPU_STEPS = 600, 12_000
MIN_EPOCHS, MAX_EPOCHS = 12, 300
NUM_VALIDATIONS = 12
# Short side of the images and side of the crop. ADE20K and VOC are trained at 512 in the papers.
CPU_SIDE, GPU_SIDE = 192, 512
CPU_CROP, GPU_CROP = 160, 512
MULTIPLE = 32  # the stride of the encoder's last stage
MIN_SIDE = 32
# Of AdamW, for a MiT: with ImageNet weights as in the paper; random weights need ten times more.
FINE_TUNING = {"lr": 6.0e-5, "head_lr_mult": 10.0}
FROM_SCRATCH = {"lr": 6.0e-4, "head_lr_mult": 1.0}
CPU_TRIALS, GPU_TRIALS = 12, 20


@dataclass(frozen=True)
class Basis:
    """What the settings follow from."""

    machine: Machine
    sizes: Mapping[tuple[int, int], int]  # {(width, height): number of images}
    num_train: int
    weights: str | None


def encoder_for(machine: Machine) -> str:
    """Return the encoder of SegFormer that trains on a machine in reasonable time."""
    return "mit_b2" if machine.num_gpus else "mit_b0"


def training_settings(basis: Basis) -> dict[str, dict[str, Any]]:
    """Return {section: settings} of everything but the files and the labels."""
    has_gpu = basis.machine.num_gpus > 0
    batch_size = _batch_size(basis)
    steps_per_epoch = max(1, basis.num_train // batch_size)
    wanted = (GPU_STEPS if has_gpu else CPU_STEPS) / steps_per_epoch
    epochs = round(min(max(wanted, MIN_EPOCHS), MAX_EPOCHS))
    val_every = max(1, epochs // NUM_VALIDATIONS)
    epochs = math.ceil(epochs / val_every) * val_every
    resize, crop = image_settings(basis.sizes, has_gpu=has_gpu)
    return {
        "data": {"resize": resize, "crop": [crop, crop]},
        "augment": {"ratio": [0.5, 2.0], "flip": 0.5, "photometric": True},
        "model": {
            "name": "segformer",
            "encoder": encoder_for(basis.machine),
            "weights": basis.weights,
        },
        # Cross-entropy alone: the search finds what focal loss and Dice add to it.
        "loss": {"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 1.0}},
        "optim": dict(FINE_TUNING if basis.weights else FROM_SCRATCH),
        "schedule": {
            "epochs": epochs,
            "batch_size": batch_size,
            "warmup_epochs": round(epochs / 20, 1),
            "val_every": val_every,
        },
        "checkpoint": {"every": val_every},
    }


def _batch_size(basis: Basis) -> int:
    """Return a batch that fits into the memory, and of which an epoch has two or more."""
    largest = 4
    if basis.machine.num_gpus:
        largest = 16 if basis.machine.gpu_gb >= 38 else 8 if basis.machine.gpu_gb >= 15 else 4
    return max(1, min(largest, basis.num_train // 2))


def image_settings(sizes: Mapping[tuple[int, int], int], *, has_gpu: bool) -> tuple[list[int], int]:
    """Return data.resize (long side, short side) and the side of the crop.

    The short side of most images becomes that of `resize`; no image is enlarged on the whole. If
    proportions differ, the long side leaves room for 4 : 1.
    """
    shorts = sorted(min(size) for size, count in sizes.items() for _ in range(count))
    median = shorts[len(shorts) // 2]
    short = max(MIN_SIDE, min(median, GPU_SIDE if has_gpu else CPU_SIDE))
    ratios = {max(size) / min(size) for size in sizes}
    ratio = max(ratios) if max(ratios) <= 1.1 * min(ratios) else 4.0
    limit = GPU_CROP if has_gpu else CPU_CROP
    crop = max(MIN_SIDE, min(short, limit) // MULTIPLE * MULTIPLE)
    return [max(short, round(short * ratio)), short], crop


def shapes_settings() -> dict[str, dict[str, Any]]:
    """Return the settings of configs/shapes_segformer_b0.yaml, for which data are generated."""
    return {
        "data": {"resize": [64, 64], "crop": [64, 64]},
        "augment": {"ratio": [0.75, 1.5]},
        "model": {"name": "segformer", "encoder": "mit_nano", "drop_path": 0.0},
        "loss": {"focal": {"weight": 1.0}, "dice": {"weight": 1.0}},
        "optim": {"name": "sgd", "lr": 3.0e-2, "head_lr_mult": 1.0},
        "schedule": {"epochs": 12, "batch_size": 4, "warmup_epochs": 1, "val_every": 1},
        "checkpoint": {"every": 3},
        "health": {"stuck_steps": 100},
    }


def search_settings(machine: Machine) -> dict[str, Any]:
    """Return the search block of a study."""
    return {"trials": GPU_TRIALS if machine.num_gpus else CPU_TRIALS, "seed": 0}


def space_settings(lr: float) -> dict[str, Any]:
    """Return the space: search_spaces/loss_weights.yaml and the learning rate, with priors."""
    return {
        "loss.focal.form": {"choice": ["sigmoid", "softmax"]},
        "loss.focal.weight": {"uniform": [0.0, 4.0]},
        "loss.focal.gamma": {"uniform": [0.0, 4.0]},
        "loss.dice.weight": {"uniform": [0.0, 4.0], "prior": 1.0, "confidence": "low"},
        "loss.ce.weight": {"uniform": [0.0, 2.0], "prior": 1.0, "confidence": "medium"},
        "optim.lr": {
            "loguniform": [float(f"{lr / 10:.1e}"), float(f"{lr * 10:.1e}")],
            "prior": lr,
            "confidence": "medium",
        },
    }
