"""Makes the step of a bundle again in one process, and tries remedies from the same weights.

The ranks of the training run follow one another as micro-batches of one step: the gradient is the
same mean, and batch norms see the images of one rank at a time, as they did.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import Batch, TrainLoader
from segtune.errors import RunError
from segtune.losses.labels import Mixing
from segtune.losses.segmentation import build_loss
from segtune.models.build import head_parameters
from segtune.runs.replay_record import Origin, RemedyResult, ReplayRecord, StepNumbers
from segtune.training.distributed import Ranks
from segtune.training.evaluation import autocast_dtype
from segtune.training.first_non_finite import THE_LOSS, NonFiniteTracer, non_finite_share
from segtune.training.loss_balance import balanced_loss
from segtune.training.network import build_network, seeded
from segtune.training.optimizer import build_optimizer, set_learning_rate
from segtune.training.precision import repair_norms
from segtune.training.remedies import works
from segtune.training.replay_bundle import (
    Bundle,
    epoch_and_index,
    set_random_state,
    statistics_of,
)
from segtune.training.schedule import lr_factor
from segtune.training.train_step import OutOfMemory, TrainStep

# How many steps are made with each remedy: the step of the bundle, and those after it.
NUM_STEPS = 6
# A step on another device, or with the sums of ranks in another order, differs in its last digits.
TOLERANCE = 1e-3
SHORT_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class Replay:
    """The step of a bundle with all that it needs, on the device of this process."""

    def __init__(self, bundle: Bundle, ranks: Ranks) -> None:
        """`ranks` are those of this process alone. Raises SegtuneError if the data is absent."""
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.ranks = ranks
        # The weights come from the bundle, and a single step is not worth compiling.
        changes = {
            "optim.precision": SHORT_NAMES[self.manifest.precision],
            "optim.compile": False,
            "data.num_loaders": 0,
            "model.weights": None,
        }
        self.config = ExperimentConfig.parse(self.manifest.config).override(changes)
        self.data = TrainLoader(self.config, 0, self.manifest.world_size)
        self._batches: dict[int, list[Batch]] = {}

    def reproduce(self, trial: Path) -> ReplayRecord:
        """Make the step as the training run made it, with every operation watched.

        Return the record of a replay of `trial`, still without remedies.
        """
        manifest = self.manifest
        train_step = self._train_step(self.config)
        train_step.tracer = tracer = NonFiniteTracer(train_step.model)
        damaged = _damaged_weights(train_step.model)
        with self._seeded(), tracer:
            replayed = self._make(train_step, self.config, manifest.step)
        recorded = manifest.numbers
        return ReplayRecord(
            trial=str(trial),
            kind=manifest.kind,
            evidence=manifest.evidence,
            step=manifest.step,
            epoch=manifest.epoch,
            exact=manifest.exact,
            note=manifest.note,
            recorded=recorded,
            replayed=replayed,
            reproduced=is_reproduced(recorded, replayed, exact=manifest.exact),
            differences=list(self._differences()),
            origin=damaged or train_step.origin(replayed),
            earlier=train_step.harmless,
            images=manifest.images,
            activations=tracer.activations,
            gradients=dict(train_step.gradients),
            weights=manifest.weights,
        )

    def try_settings(self, settings: Mapping[str, Any]) -> RemedyResult:
        """Make the step and the steps after it with changed settings, from the same weights."""
        config = self.config.override(settings)
        train_step = self._train_step(config)
        first = self.manifest.step
        with self._seeded():
            steps = [
                self._make(train_step, config, step) for step in range(first, first + NUM_STEPS)
            ]
            loss_after = train_step.loss_of(self._images_of(first))
        damaged = _damaged_weights(train_step.model) is not None
        # A scaler may skip steps, which is how it finds its scale. The last steps have to be made.
        made = steps[-2:] if train_step.scaler.is_enabled() else steps
        stays_finite = (
            all(step.is_finite for step in made)
            and all(math.isfinite(step.loss) for step in steps)
            and math.isfinite(loss_after)
            and not damaged
        )
        return RemedyResult(
            settings=dict(settings),
            steps=steps,
            loss_after=loss_after,
            stays_finite=stays_finite,
            works=works(steps, loss_after, stays_finite=stays_finite),
        )

    def _differences(self) -> Iterator[str]:
        """Yield what is computed otherwise than in the training run, and may change the numbers."""
        manifest, device = self.manifest, self.ranks.device.type
        if device != manifest.device:
            yield f"device: {device} now, {manifest.device} before"
        if manifest.world_size > 1:
            yield f"ranks: one process computes the batches of {manifest.world_size} in turn"
            if self.config.model.sync_norms and manifest.device == "cuda":
                yield "model.sync_norms: each batch norm sees the images of one rank, not of all"
        if manifest.config["optim"]["compile"]:
            yield "optim.compile: not compiled now"
        epoch, index = epoch_and_index(manifest.step, self.data.steps_per_epoch)
        ranks = range(manifest.world_size)
        images = [self.data.images_of_step(epoch, index, rank) for rank in ranks]
        if images != manifest.images:
            yield "data: the step has other images now"

    def _make(self, train_step: ReplayStep, config: ExperimentConfig, step: int) -> StepNumbers:
        factor = lr_factor(config, step - 1, self.data.steps_per_epoch)
        set_learning_rate(train_step.optimizer, factor)
        outcome = train_step.run(self._images_of(step), step=step, lr=config.optim.lr * factor)
        if isinstance(outcome, OutOfMemory):
            raise RunError(
                f"the step of {outcome.num_images} images does not fit into the memory of "
                f"{self.ranks.device} ({outcome.message[:200]}); replay it on a larger device"
            )
        result = outcome.read()
        return StepNumbers(step, result.losses, result.grad_norm)

    def _images_of(self, step: int) -> list[Batch]:
        """Return the micro-batches of all ranks: those of rank 0, then those of rank 1."""
        if step not in self._batches:
            epoch, index = epoch_and_index(step, self.data.steps_per_epoch)
            ranks = range(self.manifest.world_size)
            parts = [self.data.batches_of_step(epoch, index, rank) for rank in ranks]
            self._batches[step] = [batch for of_rank in parts for batch in of_rank]
        return self._batches[step]

    def _seeded(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that restores the caller's random state; `ReplayStep` sets its own."""
        return seeded(self.manifest.seed, self.ranks.device)

    def _train_step(self, config: ExperimentConfig) -> ReplayStep:
        """Return a step with the weights and the optimiser of the bundle, and these settings."""
        classes, factors = self.manifest.classes, self.bundle.loss_factors
        network = build_network(config, len(classes), self.ranks)
        network.load_state_dict(self.bundle.weights)
        repair_norms(network)
        optimizer = build_optimizer(network, config.optim, head_parameters(network))
        if config.optim.name == self.config.optim.name:
            _load_moments(optimizer, self.bundle.optimizer)
        precision = autocast_dtype(config.optim.precision, self.ranks.device)
        scaler = torch.amp.GradScaler(
            self.ranks.device.type,
            # Of the bundle; a remedy in fp16 begins with torch's default.
            init_scale=self.manifest.scale or 2.0**16,
            enabled=precision == torch.float16,
        )
        loss = (
            balanced_loss(config, classes, factors)
            if factors
            else build_loss(config.loss, len(classes), config.data.ignore_index)
        )
        step = ReplayStep(
            config.optim, network.train(), loss, optimizer, scaler, precision, self.ranks
        )
        step.random_states = self.bundle.random_states
        step.num_parts = config.schedule.accumulate
        return step


class ReplayStep(TrainStep):
    """A training step whose phases are watched, and whose ranks follow one another."""

    random_states: Sequence[Sequence[Tensor]] = ()  # before the first step, by rank
    num_parts = 1  # micro-batches of a rank in one step
    tracer: NonFiniteTracer | None = None
    gradients: Mapping[str, dict[str, float]] = {}  # if it is watched; see `statistics_of`
    harmless: Origin | None = None  # not finite in the forward pass, although the logits are finite
    _num_forwards = 0
    _loss_origin: Origin | None = None  # not finite in the loss, although the loss is finite

    def origin(self, numbers: StepNumbers) -> Origin | None:
        """Return the first value of the step that was not finite; None if all were finite."""
        tracer = self.tracer
        assert tracer is not None
        if not numbers.is_finite:
            if not math.isfinite(numbers.loss):
                origin = tracer.take("forward") or tracer.take("loss")
                return origin or Origin("loss", THE_LOSS, "")
            backward = tracer.take("backward")
            if backward and backward.layer == THE_LOSS and self._loss_origin:
                return self._loss_origin
            return backward or _not_summed(self.gradients)
        return _damaged_weights(self.model, phase="update")

    def loss_of(self, micro_batches: Sequence[Batch]) -> float:
        """Return the loss of the first step's images, with the random states of the first step."""
        self._num_forwards = 0
        values = []
        with torch.no_grad():
            for batch in micro_batches:
                outputs = self._forward(self.model, batch)
                values.append(self._losses(*outputs, *self._labels(batch))["loss"])
        return float(torch.stack(values).mean())

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        rank, part = divmod(self._num_forwards, self.num_parts)
        if part == 0 and rank < len(self.random_states):
            set_random_state(self.random_states[rank], self.ranks.device)
        self._num_forwards += 1
        if self.tracer is None:
            return super()._forward(model, batch)
        self.tracer.phase, self.tracer.rank, self.tracer.part = "forward", rank, part + 1
        logits, auxiliary = super()._forward(model, batch)
        outputs = (logits,) if auxiliary is None else (logits, auxiliary)
        if not any(map(non_finite_share, outputs)):
            self.harmless = self.tracer.take("forward") or self.harmless
        self.tracer.phase = "loss"
        return logits, auxiliary

    def _losses(
        self, logits: Tensor, auxiliary: Tensor | None, masks: Tensor, mixing: Mixing | None
    ) -> dict[str, Tensor]:
        losses = super()._losses(logits, auxiliary, masks, mixing)
        if self.tracer is None:
            return losses
        self.tracer.phase = "backward"
        self.tracer.adopt(losses["loss"], THE_LOSS)
        bad = [name for name, value in losses.items() if not value.isfinite()]
        terms = [name for name in bad if name != "loss"]
        layer = f"loss term {', '.join(terms)}" if terms else THE_LOSS
        origin = self.tracer.take("loss", layer=layer)
        if origin and bad:
            self.tracer.first.setdefault("loss", origin)
        elif origin:
            self._loss_origin = self._loss_origin or origin
        return losses

    def _clip_gradients(self) -> Tensor:
        if self.tracer is not None:
            # Before clipping: it turns infinite gradients into NaN.
            named = self.model.named_parameters()
            self.gradients = statistics_of((n, p.grad) for n, p in named if p.grad is not None)
        return super()._clip_gradients()


def is_reproduced(recorded: StepNumbers, replayed: StepNumbers, *, exact: bool) -> bool:
    """Whether a replayed step has the recorded losses and gradient norm.

    Without the exact weights, it has to be finite where the recorded one is.
    """
    pairs = [(recorded.grad_norm, replayed.grad_norm)]
    pairs += [(value, replayed.losses.get(name, 0.0)) for name, value in recorded.losses.items()]
    for before, now in pairs:
        if math.isfinite(before) != math.isfinite(now):
            return False
        if exact and math.isfinite(now) and not math.isclose(before, now, rel_tol=TOLERANCE):
            return False
    return True


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of an optimiser, and keep the settings of this one's groups."""
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _damaged_weights(network: nn.Module, phase: Any = "weights") -> Origin | None:
    """Return the first parameter that is not finite, or None."""
    for name, parameter in network.named_parameters():
        if share := non_finite_share(parameter.detach()):
            return Origin(phase, name, "", nan_share=share, parameters=(name,))
    return None


def _not_summed(gradients: Mapping[str, dict[str, float]]) -> Origin:
    """Return the origin of a norm that is not finite: a gradient, or the sum of their squares."""
    for name, numbers in gradients.items():
        if share := numbers["non_finite"]:
            return Origin("backward", name, "", nan_share=share, parameters=(name,))
    largest = max(numbers["largest"] for numbers in gradients.values())
    return Origin("norm", "all parameters", "get_total_norm", largest_input=largest)
