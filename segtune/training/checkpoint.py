"""Checkpoints that survive a crash: written to a temporary folder, checksummed, then renamed.

`last-00010` holds the weights and everything that an exact resume needs; `best-00008` holds the
weights of the best validation. Random state is not saved, because the trainer seeds every epoch.
Reading a checkpoint runs no pickled code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtune.config.schema import CHANGEABLE_ON_RESUME, ExperimentConfig
from segtune.config.settings import differences
from segtune.errors import CheckpointError
from segtune.runs.atomic import naming, sync_folder, write_atomic

log = logging.getLogger(__name__)

Kind = Literal["last", "best"]

WEIGHTS = "weights.safetensors"
STATE = "state.pt"
MANIFEST = "manifest.json"

# One spare: if the newest checkpoint is damaged, the training run continues from the one before.
NUM_LAST_KEPT = 2

# Warn of a learning rate above this multiple of the rate at which the checkpoint's training run
# ended: such a learning rate has taken mIoU to 0.
LARGE_LR_FACTOR = 10


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. It is written last, so a folder with a manifest is complete."""

    epoch: int
    step: int
    lr: float  # the encoder's learning rate at the last step
    miou: float | None  # in 0..1; None if the epoch had no validation
    config: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)  # by file name


def save(
    folder: Path,
    kind: Kind,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any] | None,
    manifest: Manifest,
) -> Path:
    """Write `folder/kind-EPOCH` and return its path; remove checkpoints that no resume needs.

    Raise OSError that names the path, for example if the disk is full. Earlier checkpoints are then
    as they were.
    """
    target = folder / f"{kind}-{manifest.epoch:05d}"
    temporary = folder / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with naming(target):
            temporary.mkdir(parents=True)
            on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
            _write_weights(on_cpu, temporary / WEIGHTS)
            if state is not None:
                _write_state(state, temporary / STATE)
            checksums = {path.name: _sha256(path) for path in temporary.iterdir()}
            content = {**asdict(manifest), "sha256": checksums}
            write_atomic(temporary / MANIFEST, json.dumps(content, indent=1))
            # safetensors lets only this user read its files, whatever the umask.
            shutil.copymode(temporary / MANIFEST, temporary / WEIGHTS)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _of_kind(folder, "last")[NUM_LAST_KEPT:] + _superseded(folder):
        shutil.rmtree(old)
    return target


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of weights. Raise OSError if the disk is full."""
    try:
        save_file(dict(weights), path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write everything else that a resume needs. Raise OSError if the disk is full."""
    try:
        with path.open("wb") as file:
            torch.save(dict(state), file)
    except RuntimeError as error:
        # torch.save notices that the write before, which has raised OSError, did not take place.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _superseded(folder: Path) -> list[Path]:
    """Return the best checkpoints that no resume needs.

    A resume needs the newest, and the one that was the newest when a kept `last` was written.
    """
    bests = _of_kind(folder, "best")
    needed = {
        next((best for best in bests if _epoch(best) <= _epoch(last)), None)
        for last in _of_kind(folder, "last")
    }
    return [path for path in bests[1:] if path not in needed]


def remove_after(folder: Path, epoch: int) -> None:
    """Remove the checkpoints after `epoch`; a resumed training run trains those epochs again."""
    for path in [*_of_kind(folder, "best"), *_of_kind(folder, "last")]:
        if _epoch(path) > epoch:
            shutil.rmtree(path)


def remove_incomplete(folder: Path) -> None:
    """Remove checkpoints that a crash left half written."""
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the best validation in a checkpoints folder, or None."""
    return next(iter(_of_kind(folder, "best")), None)


def last_good(folder: Path) -> tuple[Path, Manifest] | None:
    """Return the newest undamaged checkpoint to resume from, or None. Warn of damaged ones."""
    for path in _of_kind(folder, "last"):
        try:
            return path, verify(path)
        except CheckpointError as error:
            log.warning("%s; going back to the checkpoint before it", error)
    return None


def find(path: str | Path) -> Path:
    """Return the checkpoint at `path`. A training run's folder stands for its best checkpoint.

    If it has no best checkpoint yet, the newest last one is returned. Raises CheckpointError if
    there is none.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    for folder in (path, path / "checkpoints"):
        if checkpoints := [*_of_kind(folder, "best"), *_of_kind(folder, "last")]:
            return checkpoints[0]
    raise CheckpointError(
        f"{path}: no checkpoint; expected a folder with {MANIFEST}, or the folder of a training "
        "run with checkpoints/"
    )


def verify(path: Path) -> Manifest:
    """Check every file against its checksum; return the manifest.

    Raises CheckpointError that names the damaged file.
    """
    try:
        manifest = Manifest(**json.loads((path / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(
            f"{path}: not a checkpoint, or damaged: {MANIFEST} is absent or unreadable"
        ) from None
    for name, expected in manifest.sha256.items():
        if not (path / name).is_file() or _sha256(path / name) != expected:
            raise CheckpointError(
                f"{path / name}: damaged: its content differs from the checksum in {MANIFEST}"
            )
    return manifest


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights, on the CPU. Raise CheckpointError if the file is not readable."""
    try:
        return load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: not readable: {error}") from None


def load_state(path: Path) -> dict[str, Any]:
    """Return the `state` that `save` wrote, on the CPU, without running pickled code.

    Raises CheckpointError if the checkpoint holds weights only.
    """
    if not (path / STATE).is_file():
        raise CheckpointError(
            f"{path}: holds only weights, so no training run can resume from it; use --init-from"
        )
    return torch.load(path / STATE, map_location="cpu", weights_only=True)


def check_same_run(path: Path, manifest: Manifest, config: ExperimentConfig) -> None:
    """Raise CheckpointError that lists the settings in which `config` differs from a checkpoint."""
    saved = ExperimentConfig.parse(manifest.config)
    changed = [
        str(difference)
        for difference in differences(config, saved)
        if difference.name not in CHANGEABLE_ON_RESUME
    ]
    if changed:
        listed = "\n  ".join(changed)
        raise CheckpointError(
            f"{path}: --resume continues a training run exactly, but these settings differ:\n"
            f"  {listed}\n"
            "Undo the changes, or start a new training run from these weights with --init-from"
        )


def load_into(model: torch.nn.Module, path: Path) -> None:
    """Copy a checkpoint's weights into a model. Raise CheckpointError that lists what differs."""
    weights, expected = load_weights(path), model.state_dict()
    problems = [
        f"{name} is {list(weights[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems += [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    if problems:
        raise CheckpointError(
            f"{path}: these weights belong to another model: {'; '.join(problems[:3])} "
            f"({len(problems)} in all)"
        )
    model.load_state_dict(weights)


def load_initial_weights(model: torch.nn.Module, source: Path, lr: float) -> None:
    """Load the weights that a new training run starts from; warn if `lr` is likely to ruin them.

    `source` is a checkpoint or the folder of a training run. Raises CheckpointError.
    """
    path = find(source)
    manifest = verify(path)
    load_into(model, path)
    if manifest.lr and lr > LARGE_LR_FACTOR * manifest.lr:
        log.warning(
            "optim.lr %.3g is %.0f times the rate at which %s ended (%.3g): a large rate on a "
            "converged model can take mIoU to 0",
            lr,
            lr / manifest.lr,
            path,
            manifest.lr,
        )


def _of_kind(folder: Path, kind: Kind) -> list[Path]:
    """Return the checkpoints of one kind, newest first."""
    return sorted((path for path in folder.glob(f"{kind}-*") if path.is_dir()), reverse=True)


def _epoch(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
