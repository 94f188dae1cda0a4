"""The names that mmsegmentation and mmengine have for settings of segtune, for messages."""

from __future__ import annotations

from collections.abc import Collection

# By the last part of the name there: the setting here, and what differs.
NAMES = {
    "momentum": ("optim.betas", "with optim.name sgd, the first of the two is the momentum"),
    "by_epoch": ("schedule.by", "step or epoch"),
    "start_factor": ("schedule.warmup_start", ""),
    "warmup_ratio": ("schedule.warmup_start", ""),
    "warmup_iters": ("schedule.warmup_steps", ""),
    "power": ("schedule.poly_power", ""),
    "max_epochs": ("schedule.epochs", ""),
    "max_iters": ("schedule.steps", ""),
    "val_interval": ("schedule.val_every", "it counts epochs"),
    "lr_mult": ("optim.head_lr_mult", ""),
    "decay_rate": ("optim.layer_decay", ""),
    "drop_path_rate": ("model.drop_path", ""),
    "dropout_ratio": ("model.dropout", ""),
}


def mmseg_setting(name: str, known: Collection[str]) -> str:
    """Return `; here this is 'optim.betas': …` for a name of mmseg, empty for others.

    `known` are the names of the settings; one that is not among them is not proposed.
    """
    setting, difference = NAMES.get(name.rpartition(".")[2], ("", ""))
    if setting not in known:
        return ""
    return f"; here this is {setting!r}" + (f": {difference}" if difference else "")
