"""The bundle that a training run leaves if it dies of numbers: what `segtune replay` needs.

It is the folder `replay` of the training run, about as large as a checkpoint: the weights, the
optimiser and the random states before the step, and a manifest. Healthy training pays nothing for
it but the random states of the latest steps. Replays nothing: `replay_step.py` does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shlex
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import TrainLoader
from segtune.errors import RunError, place_problem
from segtune.runs.replay_record import StepNumbers, json_number
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.training import checkpoint
from segtune.training.distributed import Ranks, unwrap
from segtune.training.precision import dtype_name
from segtune.training.train_step import LAG, StepResult, TrainStep

log = logging.getLogger(__name__)

# The kinds of verdict that leave a bundle.
KINDS = ("non-finite", "diverged")


@dataclass(frozen=True)
class BundleManifest:
    """What a bundle holds. Numbers that are not finite are the words inf, -inf and nan."""

    kind: str  # of the verdict
    evidence: str  # of the verdict
    epoch: int  # in which the step was made, from 1
    step: int  # the optimiser step to replay, from 1
    lr: float  # the encoder's learning rate of the step
    losses: dict[str, float | str]
    grad_norm: float | str
    exact: bool  # whether the weights are those before the step
    note: str  # why they are not; empty if they are
    world_size: int
    device: str  # cpu or cuda
    precision: str  # of autocast, for example float16
    scale: float | None  # of the loss, before the step; None without a scaler
    seed: int
    images: list[list[str]]  # names of the step's images, by rank
    classes: tuple[str, ...]
    config: dict[str, Any]
    weights: dict[str, dict[str, float]]  # statistics of each parameter, see `statistics_of`
    sha256: dict[str, str] = field(default_factory=dict)  # by file name
    format: int = 1

    @property
    def numbers(self) -> StepNumbers:
        """The numbers of the step as the training run recorded them."""
        losses = {name: float(value) for name, value in self.losses.items()}
        return StepNumbers(self.step, losses, float(self.grad_norm))


@dataclass(frozen=True)
class Bundle:
    """A bundle as it was read: the manifest, the weights and the state."""

    manifest: BundleManifest
    weights: dict[str, Tensor]  # and buffers, by name
    optimizer: dict[str, Any]
    random_states: list[list[Tensor]]  # before the step, by rank; see `random_state`
    loss_factors: dict[str, float]  # with loss.balance


class BundleWriter:
    """Writes the bundle of a training run on rank 0; all ranks keep their latest random states."""

    def __init__(
        self,
        config: ExperimentConfig,
        out: TrialDir,
        ranks: Ranks,
        data: TrainLoader,
        classes: Sequence[str],
    ) -> None:
        self.config = config
        self.out = out
        self.ranks = ranks
        self.data = data
        self.classes = tuple(classes)
        self._random_states: deque[tuple[int, list[Tensor]]] = deque(maxlen=LAG + 1)

    def before_step(self, step: int) -> None:
        """Keep the random state before a step, for as long as the step may still be judged."""
        self._random_states.append((step, random_state(self.ranks.device)))

    def write(
        self, verdict: Verdict, train_step: TrainStep, loss_factors: dict[str, float]
    ) -> Verdict:
        """Write the bundle of step `verdict.step`; return the verdict with the way to replay it.

        All ranks have to call it. Without a bundle, the verdict stays as it is: if it is of another
        kind, if another trial of the search has left a bundle of this kind, or if the disk is full.
        """
        if verdict.kind not in KINDS:
            return verdict
        random_states = self.ranks.gather(dict(self._random_states)[verdict.step])
        if not self.ranks.is_first:
            return verdict
        self.out.check_current()
        try:
            if earlier := _bundle_of_kind(self.out, verdict.kind):
                log.info("%s: no bundle, because %s has one of this kind", self.out.path, earlier)
                return verdict
            manifest = self._manifest(verdict, train_step)
            state = {
                "optimizer": train_step.optimizer.state_dict(),
                "random_states": random_states,
                "loss_factors": loss_factors,
            }
            weights = unwrap(train_step.model).state_dict()
            checkpoint.write_folder(self.out.replay, weights, state, asdict(manifest))
        except OSError as error:
            problem = place_problem(error) or error
            log.warning("this step cannot be replayed, its bundle was not written: %s", problem)
            return verdict
        command = shlex.join(["segtune", "replay", str(self.out.path)])
        way = f"see the layer and try remedies: {command}"
        return verdict.override({"advice": f"{verdict.advice}; {way}"})

    def _manifest(self, verdict: Verdict, train_step: TrainStep) -> BundleManifest:
        step, steps_per_epoch = verdict.step, self.data.steps_per_epoch
        epoch, index = epoch_and_index(step, steps_per_epoch)
        results = [pending.read() for pending in train_step.recent if pending.step >= step]
        result = results[0]
        is_scaled = train_step.scaler.is_enabled()
        note = _why_inexact(verdict.kind, results, is_scaled=is_scaled)
        ranks = range(self.ranks.world_size)
        return BundleManifest(
            kind=verdict.kind,
            evidence=verdict.evidence,
            epoch=epoch,
            step=step,
            lr=result.lr,
            losses={name: json_number(value) for name, value in result.losses.items()},
            grad_norm=json_number(result.grad_norm),
            exact=not note,
            note=note,
            world_size=self.ranks.world_size,
            device=self.ranks.device.type,
            precision=dtype_name(train_step.precision),
            scale=_scale_before(train_step.scaler, results) if is_scaled else None,
            seed=self.config.seed,
            images=[self.data.images_of_step(epoch, index, rank) for rank in ranks],
            classes=self.classes,
            config=self.config.dump(),
            weights=statistics_of(unwrap(train_step.model).named_parameters()),
        )


def epoch_and_index(step: int, steps_per_epoch: int) -> tuple[int, int]:
    """Return the epoch, from 1, and the number in it, from 0, of an optimiser step, from 1."""
    return (step - 1) // steps_per_epoch + 1, (step - 1) % steps_per_epoch


def _why_inexact(kind: str, results: Sequence[StepResult], *, is_scaled: bool) -> str:
    """Return why the weights are not those before the step, or "" if they are.

    `results` are those of the step and of all steps after it. Without a scaler, a step that is not
    finite also stops those after it (`train_step.py`). A scaler skips only the steps whose
    gradients are not finite.
    """
    last = results[-1].step
    if kind == "diverged":
        return f"the last steps are judged together; the weights are those after step {last}"
    changed = [r.step for r in results if is_scaled and math.isfinite(r.grad_norm)]
    if changed:
        steps = ", ".join(map(str, changed))
        return f"the weights are those after step {last}; changed since by step {steps}"
    return ""


def _scale_before(scaler: torch.amp.GradScaler, results: Sequence[StepResult]) -> float:
    """Return the scale of the loss before the first of `results`, each of which may have cut it."""
    num_skipped = sum(not math.isfinite(result.grad_norm) for result in results)
    return scaler.get_scale() / scaler.get_backoff_factor() ** num_skipped


def statistics_of(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Return `largest` (absolute), `norm` and `non_finite` (share) of each tensor, by its name.

    The first two are of the finite values.
    """
    statistics = {}
    for name, tensor in tensors:
        values = tensor.detach().float()
        is_finite = values.isfinite()
        finite = values.where(is_finite, 0.0)
        numbers = torch.stack(
            [finite.abs().max().double(), finite.double().norm(), (~is_finite).double().mean()]
        )
        largest, norm, share = numbers.tolist()
        statistics[name] = {"largest": largest, "norm": norm, "non_finite": share}
    return statistics


def random_state(device: torch.device) -> list[Tensor]:
    """Return the states of torch's generators: of the CPU, and of the GPU if `device` is one."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    """Set the states that `random_state` returned; a state for another device is left out."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def read_manifest(folder: Path) -> BundleManifest | None:
    """Return the manifest of the bundle in `folder`, or None if there is none.

    Raises RunError if it is damaged or of a later version.
    """
    path = folder / checkpoint.MANIFEST
    try:
        content = json.loads(path.read_text())
        known = {part.name for part in fields(BundleManifest)}
        manifest = BundleManifest(**{name: content[name] for name in content if name in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: damaged: not the manifest of a bundle ({error})") from None
    if manifest.format != 1:
        raise RunError(f"{path}: format {manifest.format}; this version of segtune reads format 1")
    return replace(manifest, classes=tuple(manifest.classes))


def read_bundle(folder: Path) -> Bundle | None:
    """Return the bundle in `folder`, on the CPU, or None if there is none. Runs no pickled code.

    Raises CheckpointError if a file is damaged, RunError if the manifest is.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    checkpoint.check_files(folder, manifest.sha256)
    state = checkpoint.load_state(folder)
    weights = checkpoint.load_weights(folder)
    return Bundle(
        manifest, weights, state["optimizer"], state["random_states"], state["loss_factors"]
    )


def _bundle_of_kind(out: TrialDir, kind: str) -> Path | None:
    """Return the bundle of this kind that another trial of the same search has left, or None."""
    trial = out.path.absolute()
    run = SearchDir(trial.parent.parent)
    if trial.parent != run.trials or not run.study.is_file():
        return None
    for other in run.trial_dirs():
        with contextlib.suppress(RunError):  # a damaged bundle is none
            manifest = read_manifest(other.replay)
            if other.path != trial and manifest and manifest.kind == kind:
                return other.replay
    return None
