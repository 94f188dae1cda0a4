"""Checkpoints that survive a crash: written aside, checksummed, renamed; read without unpickling code.

`last-00010` holds the weights and all that exact resuming needs, `best-00008` the weights of the best validation.
Randomness has no state to save: the trainer seeds it per epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.config.settings import differences
from segtune.errors import CheckpointError
from segtune.runs.atomic import sync_folder, write_atomic

log = logging.getLogger(__name__)

WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"

# One spare: should the newest turn out damaged, the run goes on from the one before.
KEPT_LAST = 2

# Settings that may change between a run and its continuation: they do not change the numbers.
FREE_ON_RESUME = ("data.root", "data.num_loaders", "checkpoint.every")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is: written last, so that a folder with a manifest is complete."""

    epoch: int
    step: int
    lr: float  # the encoder's rate at the last step
    miou: float | None
    config: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)


def save(
    folder: Path,
    kind: str,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any] | None,
    manifest: Manifest,
) -> Path:
    """Writes `folder/kind-EPOCH` and removes those that nobody asks for any more. `kind` is last or best; returns the path."""
    target = folder / f"{kind}-{manifest.epoch:05d}"
    aside = folder / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    aside.mkdir(parents=True)
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
            aside / WEIGHTS,
        )
        if state is not None:
            torch.save(state, aside / STATE)
        sums = {path.name: _sha256(path) for path in aside.iterdir()}
        write_atomic(aside / MANIFEST, json.dumps({**asdict(manifest), "sha256": sums}, indent=1))
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        sync_folder(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in _of_kind(folder, "last")[KEPT_LAST:] + _superseded(folder):
        shutil.rmtree(old)
    return target


def _superseded(folder: Path) -> list[Path]:
    """Returns the best ones that no resume asks for: neither the newest nor the newest at the time of a last one."""
    bests = _of_kind(folder, "best")
    needed = {
        next((b for b in bests if _epoch(b) <= _epoch(last)), None)
        for last in _of_kind(folder, "last")
    }
    return [path for path in bests[1:] if path not in needed]


def drop_after(folder: Path, epoch: int) -> None:
    """Removes checkpoints of epochs that a resumed run has yet to come to."""
    for path in [*_of_kind(folder, "best"), *_of_kind(folder, "last")]:
        if _epoch(path) > epoch:
            shutil.rmtree(path)


def _epoch(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def best_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint with the best validation in a run's checkpoints folder, or None."""
    return next(iter(_of_kind(folder, "best")), None)


def last_good(folder: Path) -> tuple[Path, Manifest] | None:
    """Returns the newest undamaged checkpoint to resume from, or None; a damaged one is passed over with a warning."""
    for path in _of_kind(folder, "last"):
        try:
            return path, verify(path)
        except CheckpointError as error:
            log.warning("%s; going back to the one before", error)
    return None


def find(path: str | Path) -> Path:
    """Returns the checkpoint meant by `path`: itself, or the best (else the last) one of a run or trial folder."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    for folder in (path, path / "checkpoints"):
        found = [*_of_kind(folder, "best"), *_of_kind(folder, "last")]
        if found:
            return found[0]
    raise CheckpointError(
        f"{path}: no checkpoint here; expected a folder with {MANIFEST}, or a run's folder with checkpoints/"
    )


def verify(path: Path) -> Manifest:
    """Reads the manifest and checks every file against its checksum. Raises CheckpointError that names the file."""
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
    """Returns the weights on the CPU. Raises CheckpointError where the file is not readable."""
    try:
        return load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: not readable: {error}") from None


def load_state(path: Path) -> dict[str, Any]:
    """Returns what was saved beside the weights, on the CPU, without running any pickled code."""
    if not (path / STATE).is_file():
        raise CheckpointError(
            f"{path}: holds weights only, so a run cannot be resumed from it; use --init-from"
        )
    return torch.load(path / STATE, map_location="cpu", weights_only=True)


def check_same_run(path: Path, manifest: Manifest, config: ExperimentConfig) -> None:
    """Raises CheckpointError that lists the settings in which `config` differs from the checkpoint's."""
    saved = ExperimentConfig.parse(manifest.config)
    changed = [
        str(difference)
        for difference in differences(config, saved)
        if difference.name not in FREE_ON_RESUME
    ]
    if changed:
        listed = "\n  ".join(changed)
        raise CheckpointError(
            f"{path}: --resume continues a run exactly, but these settings differ:\n  {listed}\n"
            "Undo the changes, or start afresh from its weights with --init-from"
        )


def load_into(model: torch.nn.Module, path: Path) -> None:
    """Copies a checkpoint's weights into a model. Raises CheckpointError that names what does not fit."""
    weights, own = load_weights(path), model.state_dict()
    wrong = [
        f"{n} is {list(weights[n].shape)}, expected {list(own[n].shape)}"
        for n in own
        if n in weights and weights[n].shape != own[n].shape
    ]
    wrong += [f"{name} is missing" for name in own if name not in weights] + [
        f"{name} is unknown" for name in weights if name not in own
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: these weights belong to another model: {'; '.join(wrong[:3])} ({len(wrong)} in all)"
        )
    model.load_state_dict(weights)


def start_from(model: torch.nn.Module, given: Path, lr: float) -> None:
    """Loads only the weights of a checkpoint, and warns where `lr` is much larger than the rate at which it ended."""
    path = find(given)
    manifest = verify(path)
    load_into(model, path)
    if manifest.lr and lr > 10 * manifest.lr:
        log.warning(
            "optim.lr %.3g is %.0f times the rate at which %s ended (%.3g): a large rate on a converged model can take mIoU to 0",
            lr, lr / manifest.lr, path, manifest.lr,
        )  # fmt: skip


def _of_kind(folder: Path, kind: str) -> list[Path]:
    """Returns the checkpoints of one kind, newest first."""
    return sorted((p for p in folder.glob(f"{kind}-*") if p.is_dir()), reverse=True)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def sweep(folder: Path) -> None:
    """Removes what a crash left half-written."""
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
