"""What a search would do, in words, for --dry-run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segtune.errors import ConfigError
from segtune.tuning.study import Study

if TYPE_CHECKING:
    pass


def search_plan(study: Study) -> str:
    """Returns in words what a search would do: trials, rungs, epochs and steps, resources on this machine, first points.

    Reads the lists of the data set. Raises DataError where it is incomplete, ConfigError where batches cannot be formed.
    """
    import os

    from segtune.data.layouts import class_names, open_split

    config, search = study.trial_config({}), study.search
    train, val = open_split(config.data, "train"), open_split(config.data, "val")
    classes = class_names(config.data)
    steps = len(train) // config.schedule.batch_size
    if not steps:
        raise ConfigError(
            [
                f"schedule.batch_size: {config.schedule.batch_size} is more than the {len(train)} training images"
            ]
        )
    rungs = ", ".join(map(str, study.rungs())) or "none"
    lines = [
        f"data:      {len(train)} training and {len(val)} validation images, {len(classes)} classes, in {config.data.root}",
        f"model:     {config.model.name} with {config.model.encoder}",
        f"trials:    {study.num_trials}, drawn by {search.sampler} (seed {search.seed}); trial 0 is the config itself",
        *([f"note:      {study.baseline_note}"] if study.baseline_note else []),
        f"epochs:    {config.schedule.epochs} of {steps} steps; validation every {config.schedule.val_every}; rungs at {rungs}",
        *(
            [
                f"proxy:     {search.proxy.carry} trials and the config go on to {study.config.schedule.epochs} epochs"
            ]
            if search.proxy
            else []
        ),
        f"resources: {search.workers_per_trial} worker(s) per trial; this machine has {len(os.sched_getaffinity(0))} cores",
        "space:",
        *(f"  {name}: {body}" for name, body in study.space.dump().items()),
        "first points:",
        *(f"  {number}: {point}" for number, point in enumerate(study.points())),
    ]
    return "\n".join(lines)
