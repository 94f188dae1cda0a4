"""What a search would do, as text for `segtune search --dry-run`. Starts nothing."""

from __future__ import annotations

import os

from segtune.errors import ConfigError
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
        f"trials:     {study.num_trials}, drawn by {search.sampler} (seed {search.seed}); trial 0 "
        "is the config itself",
        f"rungs:      epochs {rungs}; a validation every {config.schedule.val_every} epoch(s)",
    ]
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
