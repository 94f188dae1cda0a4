"""Takes the few real steps of a corner in this process, and returns their costs. Knows no Ray."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from segtune.checks.corner_steps import CornerReport, take_corner_steps
from segtune.checks.corners import Corner
from segtune.checks.step_costs import StepCosts
from segtune.config.schema import ExperimentConfig
from segtune.errors import SegtuneError, WeightsError
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training.distributed import Ranks
from segtune.training.few_steps import checkpoint_bytes, few_steps, seconds_per_val_image
from segtune.training.memory import PeakMemory, is_out_of_memory, keep_freed_memory, release_memory
from segtune.training.network_profile import measure_network
from segtune.training.trainer import Trainer
from segtune.tuning.guards import GUARD, size_outcome
from segtune.tuning.guards_config import GuardsConfig
from segtune.tuning.study import Study


def corner_report_here(study: Study) -> CornerReport:
    """Take the corner steps of a study in this process, on the CPUs of one of its workers."""
    cpus = study.search.cpus_per_worker
    if cpus is None and not torch.cuda.is_available():
        cpus = 1.0  # as `placement` gives a worker without a GPU
    num_threads = torch.get_num_threads()
    if cpus is not None:
        torch.set_num_threads(max(1, int(cpus)))
    try:
        with _with_shapes(study) as ready:
            return take_corner_steps(
                ready, lambda corners: [measure_corner(ready, corner, cpus) for corner in corners]
            )
    finally:
        torch.set_num_threads(num_threads)


@contextlib.contextmanager
def _with_shapes(study: Study) -> Iterator[Study]:
    """Yield the study; if its generated shapes are not here yet, in a temporary folder."""
    data = study.config.data
    if data.layout != "shapes" or Path(data.root).exists():
        yield study
        return
    with TemporaryDirectory(prefix="segtune-check-") as folder:
        root = {"data.root": str(Path(folder) / "shapes")}
        yield replace(study, config=study.config.override(root))


def measure_as_rank(study: Study, corner: Corner, cpus: float) -> StepCosts:
    """Take the real steps of a corner with the threads and the memory of a rank of a trial.

    This changes the whole process, as `worker.train_rank` does.
    """
    keep_freed_memory()
    torch.set_num_threads(max(1, int(cpus)))
    return measure_corner(study, corner, cpus)


def measure_corner(study: Study, corner: Corner, cpus: float | None = None) -> StepCosts:
    """Take the real steps of a corner as a worker of its trial would.

    `cpus` is the worker's share of the cores; None: all cores of this process.
    """
    config = study.trial_config(study.space.complete(corner.params))
    if corner.params:
        # Compiling takes a minute for each network. The config itself shows what it brings.
        config = config.override({"optim.compile": False})
    return measure_steps(
        config,
        study.search.corner_steps,
        name=corner.name,
        params=corner.params,
        workers=study.search.workers_per_trial,
        init_from=study.search.init_from,
        cpus=cpus,
        # The search trains the config itself in any case.
        guards=study.search.guards if corner.params else None,
    )


def measure_steps(
    config: ExperimentConfig,
    num_steps: int,
    *,
    name: str,
    params: Mapping[str, Any],
    workers: int = 1,
    init_from: str | None = None,
    cpus: float | None = None,
    guards: GuardsConfig | None = None,
) -> StepCosts:
    """Take `num_steps` optimiser steps of a config and validate a few batches, in this process.

    With several `workers` per trial, this process takes the part of one of them, and exchanges no
    gradients. The files of the training run are written to a temporary folder. An error of a step
    is a verdict and is not raised. `cpus` is the share of the cores, as in `Trainer`. If the
    network has more parameters than `guards` allow, take no step and return no numbers.
    """
    numbers: dict[str, Any] = {}
    ranks = Ranks.join()
    memory = PeakMemory(ranks.device)
    try:
        with TemporaryDirectory(prefix="segtune-steps-") as folder, _few_messages():
            start = time.monotonic()
            trainer = Trainer.start(
                _of_one_worker(config, workers),
                TrialDir(Path(folder)),
                ranks,
                init_from=Path(init_from) if init_from else None,
                cpus=cpus,
            )
            numbers["start_s"] = time.monotonic() - start
            numbers["steps_per_epoch"] = trainer.train_data.num_images // config.schedule.batch_size
            verdict = _measure(trainer, num_steps, numbers, guards)
    except Exception as error:  # each trial of this config would end with it
        verdict = _verdict_of(error)
    peak_bytes = memory.read()
    trainer = None  # its loaders end, and its memory is free
    release_memory()
    known = StepCosts.unmeasured(name, params, verdict)
    if known.breaks_guard:  # the search does not need what was measured until then
        return known
    return replace(known, peak_bytes=peak_bytes, **numbers)


def _broken_guard(trainer: Trainer, guards: GuardsConfig) -> Verdict | None:
    """Return the verdict of a trial whose network has too many parameters; None if it has not."""
    profile = measure_network(trainer, trainer.config, with_latency=False)
    broken = size_outcome(guards, profile).broken
    return Verdict(state="pruned", kind=GUARD, evidence="; ".join(broken)) if broken else None


def _measure(
    trainer: Trainer, num_steps: int, numbers: dict[str, Any], guards: GuardsConfig | None
) -> Verdict | None:
    """Take the steps and the validation, unless a guard is broken; add the costs to `numbers`."""
    numbers["num_val_images"] = trainer.val_data.num_images
    if guards and (broken := _broken_guard(trainer, guards)):
        return broken
    steps = few_steps(trainer, num_steps)
    if steps.seconds:
        numbers["step_s"] = statistics.median(steps.seconds[1:] or steps.seconds)
    numbers["checkpoint_bytes"] = checkpoint_bytes(trainer)
    if not steps.verdict:
        numbers["val_image_s"] = seconds_per_val_image(trainer)
    return steps.verdict


def _of_one_worker(config: ExperimentConfig, workers: int) -> ExperimentConfig:
    """Return the config with which a single rank takes the part of one of `workers` ranks."""
    if workers == 1:
        return config
    return config.override({"schedule.batch_size": config.schedule.batch_size // workers})


@contextlib.contextmanager
def _few_messages() -> Iterator[None]:
    """Log errors only: the trials repeat each message about the data set and the config."""
    log = logging.getLogger("segtune")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _verdict_of(error: Exception) -> Verdict:
    """Return the verdict of an error outside a training step."""
    text = str(error).strip()
    if isinstance(error, SegtuneError):
        kind = "weights" if isinstance(error, WeightsError) else "config"
        return Verdict(state="failed", kind=kind, evidence=text[:500])
    lines = text.splitlines() or [""]
    evidence = f"{type(error).__name__}: {lines[-1]}"[:500]
    if is_out_of_memory(error):
        # In a training step the trainer finds out what fits.
        advice = (
            "it did not happen in a training step: try a smaller val.window, data.resize or "
            "model.encoder"
        )
        return Verdict(state="unhealthy", kind="out-of-memory", evidence=evidence, advice=advice)
    return Verdict(state="failed", kind="exception", evidence=evidence)
