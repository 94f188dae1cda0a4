"""What a search would do and take, as text for `segtune search --dry-run`. Starts no search."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from segtune.checks.disk_need import free_bytes
from segtune.checks.forecast import Measured, Slots, forecast
from segtune.errors import ClusterError, ConfigError
from segtune.reporting.forecast_lines import forecast_lines
from segtune.tuning.search_config import BudgetConfig
from segtune.tuning.study import Study


def search_plan(study: Study) -> str:
    """Return the plan of a search: data, model, trials, epochs, resources, space, first points.

    Read the file lists of the data set, but no image. Raise DataError if the data set is
    incomplete, and ConfigError if it has too few images for one batch.
    """
    config, search = study.trial_config({}), study.search
    rungs = ", ".join(map(str, study.rungs())) or "none"
    lines = _data_lines(study)
    lines += [
        f"model:      {config.model.name} with {config.model.encoder}",
        f"trials:     {study.num_trials}, drawn by {search.chosen_sampler} (seed {search.seed}); "
        "trial 0 is the config itself",
        f"rungs:      epochs {rungs}; a validation every {config.schedule.val_every} epoch(s)",
    ]
    if limits := budget_limits(search.budget):
        lines.append(f"budget:     {limits}; the search ends when one of its limits is reached")
    if search.has_front:
        lines.append(f"objectives: {', '.join(search.objectives)}; the result is a Pareto front")
    if search.guards.limits:
        limits = ", ".join(f"{name} {value:g}" for name, value in search.guards.limits.items())
        lines.append(f"guards:     {limits}; a trial that breaks one cannot win")
    if search.init_from:
        lines.append(f"weights:    each trial starts from {search.init_from}")
    if study.baseline_note:
        lines.append(f"note:       {study.baseline_note}")
    if search.proxy:
        lines.append(
            f"proxy:      then {search.proxy.carry} trials and the config itself are trained for "
            f"{study.config.schedule.epochs} epochs"
        )
    lines += [
        f"resources:  {search.workers_per_trial} worker(s) per trial; this machine has "
        f"{len(os.sched_getaffinity(0))} cores",
        "space:",
        *(f"  {name}: {dimension}" for name, dimension in study.space.dump().items()),
        "first points:",
        *(f"  {number}: {point}" for number, point in enumerate(study.points())),
    ]
    return "\n".join(lines)


def budget_limits(budget: BudgetConfig) -> str:
    """Return the limits of a budget in words; empty if there is none."""
    limits = {"hours": budget.hours, "epochs": budget.epochs}
    return " and ".join(f"{limit} {name}" for name, limit in limits.items() if limit)


def plan_forecast(study: Study, out: Path) -> Iterator[str]:
    """Take a few real steps on this machine; yield the forecast of a search here, line by line.

    `out` is the folder of the search runs, whose free space is shown. A study without corner steps
    has no forecast.
    """
    from segtune.checks.data_sizes import data_sizes
    from segtune.checks.dry_run_costs import measured_costs

    if not study.search.corner_steps:
        yield "forecast:   none, because search.corner_steps is 0"
        return
    try:
        slots, cpus = _slots_here(study)
    except ClusterError:
        yield "time:       not known: a trial does not fit on this machine"
        return
    # On GPUs, trials do not compete for what takes most of a step: the steps of one process are as
    # slow as those of the search.
    num_processes = 1 if slots.gpus else slots.concurrent * slots.workers
    measured = Measured(
        costs=measured_costs(study, num_processes=num_processes, cpus=cpus),
        num_classes=data_sizes(study.config).num_classes or 0,
    )
    yield from forecast_lines(forecast(study, slots, measured), free_bytes(out.absolute()))


def _slots_here(study: Study) -> tuple[Slots, float]:
    """Return how many trials run at the same time on a local Ray, and the CPUs of a worker."""
    from segtune.checks.dry_run_costs import num_gpus_here
    from segtune.cluster.placement import place_trials  # imports ray

    node = {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(num_gpus_here())}
    placement = place_trials(study.search, [node])
    return Slots(placement.concurrent, placement.workers, placement.gpus), placement.cpus


def _data_lines(study: Study) -> list[str]:
    """Return the lines about the data set and the steps that follow from its size."""
    from segtune.data.layouts import class_names, open_split

    config = study.trial_config({})
    num_train = len(open_split(config.data, "train"))
    num_val = len(open_split(config.data, "val"))
    num_classes = len(class_names(config.data))
    batch_size = config.schedule.batch_size
    steps = num_train // batch_size
    if not steps:
        raise ConfigError(
            [f"schedule.batch_size: {batch_size} is more than the {num_train} training images"]
        )
    _check_drawn_batches(study, num_train)
    return [
        f"data:       {num_train} training and {num_val} validation images, {num_classes} classes, "
        f"in {config.data.root}",
        f"epochs:     {config.schedule.epochs} of {steps} steps",
    ]


def _check_drawn_batches(study: Study, num_train: int) -> None:
    """Raise ConfigError if the space draws a batch larger than the training set."""
    dimensions = {dimension.name: dimension for dimension in study.space.dimensions}
    sizes = dimensions.get("schedule.batch_size")
    limits = dimensions.get("data.num_images")
    largest = sizes.whole_values()[-1] if sizes else study.config.schedule.batch_size
    fewest = min(num_train, *limits.whole_values()[:1]) if limits else num_train
    if largest > fewest:
        name = "schedule.batch_size" if sizes else "data.num_images"
        raise ConfigError(
            [
                f"space.{name}: batches of {largest} are drawn, and training sets of {fewest} "
                "images: a trial with both would fail; leave such values out"
            ]
        )
