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
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtune.config.schema import CHANGEABLE_ON_RESUME, ExperimentConfig
from segtune.config.settings import differences
from segtune.data.known_classes import NAMED_CLASSES, current_names
from segtune.errors import CheckpointError
from segtune.runs.atomic import naming, sync_folder, write_atomic

log = logging.getLogger(__name__)

Kind = Literal["last", "best"]

WEIGHTS = "weights.safetensors"
STATE = "state.pt"
MANIFEST = "manifest.json"

# One spare: if the newest checkpoint is damaged, the training run continues from the one before.
NUM_LAST_KEPT = 2


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. It is written last, so a folder with a manifest is complete."""

    epoch: int
    step: int
    lr: float  # the encoder's learning rate at the last step
    miou: float | None  # in 0..1; None if the epoch had no validation
    config: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)  # by file name
    classes: tuple[str, ...] | None = None  # in the order of labels; None in early versions


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
    write_folder(target, weights, state, asdict(manifest))
    for old in _of_kind(folder, "last")[NUM_LAST_KEPT:] + _superseded(folder):
        shutil.rmtree(old)
    return target


def write_folder(
    target: Path,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any] | None,
    manifest: Mapping[str, Any],
) -> None:
    """Write weights, state and a manifest with their checksums; replace an earlier folder.

    Raise OSError that names the path, for example if the disk is full. An earlier folder is then
    as it was.
    """
    folder = target.parent
    temporary = folder / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with naming(target):
            temporary.mkdir(parents=True)
            on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
            _write_weights(on_cpu, temporary / WEIGHTS)
            if state is not None:
                _write_state(state, temporary / STATE)
            checksums = {path.name: _sha256(path) for path in temporary.iterdir()}
            content = {**manifest, "sha256": checksums}
            write_atomic(temporary / MANIFEST, json.dumps(content, indent=1))
            # safetensors lets only this user read its files, whatever the umask.
            shutil.copymode(temporary / MANIFEST, temporary / WEIGHTS)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def last_good(folder: Path, epoch: int | None = None) -> tuple[Path, Manifest] | None:
    """Return the newest undamaged checkpoint to resume from, or None. Warn of damaged ones.

    With `epoch`, the checkpoints up to that epoch come first, and newer ones after them.
    """
    newest_first = _of_kind(folder, "last")
    # Stable: false comes before true.
    order = sorted(newest_first, key=lambda path: epoch is not None and _epoch(path) > epoch)
    for path in order:
        try:
            return path, _verified(path)
        except CheckpointError as error:
            log.warning("%s; going back to the checkpoint before it", error)
    return None


def newest_best(folder: Path) -> Path | None:
    """Return the newest best checkpoint in `folder`, or the newest last one; None if it has none.

    Other entries of the folder, such as copies of the user, are not taken.
    """
    return next(iter((*_of_kind(folder, "best"), *_of_kind(folder, "last"))), None)


def verify(path: Path, *, weights_only: bool = False) -> Manifest:
    """Check every file against its checksum; return the manifest.

    With `weights_only`, the state of the optimiser is not checked and may be absent. Raises
    CheckpointError that names the damaged file and another checkpoint of the training run.
    """
    try:
        return _verified(path, (WEIGHTS,) if weights_only else None)
    except CheckpointError as error:
        siblings = [*_of_kind(path.parent, "best"), *_of_kind(path.parent, "last")]
        other = next((f", or use {sibling}" for sibling in siblings if sibling != path), "")
        raise CheckpointError(f"{error}; copy the whole folder again{other}") from None


def _verified(path: Path, names: Sequence[str] | None = None) -> Manifest:
    """Check the files `names`, by default all of them; return the manifest."""
    manifest = _read_manifest(path)
    checksums = manifest.sha256
    check_files(path, {n: checksums[n] for n in checksums if names is None or n in names})
    return manifest


def check_files(path: Path, sha256: Mapping[str, str]) -> None:
    """Raise CheckpointError if a file in `path` is absent, not readable or damaged."""
    for name, expected in sha256.items():
        try:
            actual = _sha256(path / name)
        except FileNotFoundError:
            raise CheckpointError(f"{path / name}: absent, but {MANIFEST} lists it") from None
        except OSError as error:
            raise CheckpointError(f"{path / name}: not readable: {error.strerror}") from None
        if actual != expected:
            raise CheckpointError(
                f"{path / name}: damaged: its content differs from the checksum in {MANIFEST}"
            )


def _read_manifest(path: Path) -> Manifest:
    known = {part.name for part in fields(Manifest)}
    try:
        content = json.loads((path / MANIFEST).read_text())
        manifest = {name: value for name, value in content.items() if name in known}
        if manifest.get("classes") is not None:
            manifest["classes"] = current_names(manifest["classes"])
        return Manifest(**manifest)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: {MANIFEST} is absent, which holds the config and the checksums"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST}: not readable: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise CheckpointError(f"{path / MANIFEST}: damaged: not a checkpoint's manifest") from None


def class_names_in(manifest: Manifest) -> tuple[str, ...] | None:
    """Return the class names of a checkpoint, in the order of their labels.

    Returns None for a checkpoint of an early version if its config names a file of class names.
    """
    if manifest.classes is not None:
        return manifest.classes
    classes = manifest.config.get("data", {}).get("classes")
    return NAMED_CLASSES.get(classes) if isinstance(classes, str) else tuple(classes or ()) or None


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


def check_same_run(
    path: Path, manifest: Manifest, config: ExperimentConfig, classes: Sequence[str] | None = None
) -> None:
    """Raise CheckpointError that lists the settings in which `config` differs from a checkpoint.

    `classes` are the names of its classes, which a file may hold.
    """
    saved = ExperimentConfig.parse(manifest.config)
    changed = [
        str(difference)
        for difference in differences(config, saved)
        if difference.name not in CHANGEABLE_ON_RESUME
    ]
    if classes and manifest.classes and tuple(classes) != manifest.classes:
        ours, theirs = ", ".join(classes), ", ".join(manifest.classes)
        changed.append(f"names of the classes: {ours} here, {theirs} there")
    if changed:
        listed = "\n  ".join(changed)
        raise CheckpointError(
            f"{path}: --resume continues a training run exactly, but these settings differ:\n"
            f"  {listed}\n"
            "Undo the changes, or start a new training run from these weights, with a schedule and "
            "an optimiser of its own: no --resume, another --out, and "
            f"--init-from {shlex.quote(str(path.parent.parent))}"
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


def _of_kind(folder: Path, kind: Kind) -> list[Path]:
    """Return the checkpoints of one kind, newest first. Copies of another name are the user's."""
    name = re.compile(rf"{kind}-\d+")
    paths = [p for p in folder.glob(f"{kind}-*") if name.fullmatch(p.name) and p.is_dir()]
    return sorted(paths, key=_epoch, reverse=True)


def _epoch(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
