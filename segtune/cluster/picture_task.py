"""Predicts the validation images at the end of a search, on a worker, for the report's pictures."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from segtune.cluster.placement import Placement
from segtune.runs.rundir import SearchDir, search_of
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

# Two validations and the start of a process. Pictures of larger data sets are the user's decision.
TIMEOUT_S = 900.0


def draw_pictures(study: Study, run: SearchDir, placement: Placement) -> None:
    """Write the pictures of the best trial and the config itself, unless they are up to date.

    The search is complete without them: if the worker fails, a line says how to write them later.
    Ray has to be running.
    """
    if not study.search.pictures or run.confirms:
        return
    resources: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus}
    task = ray.remote(_draw).options(max_retries=0, **resources)
    reference = task.remote(str(run.path), study.search.pictures, placement.cpus)
    try:
        ray.get(reference, timeout=TIMEOUT_S)
    except (RayError, KeyboardInterrupt) as error:  # of TIMEOUT_S, too
        ray.cancel(reference, force=True)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        whole = search_of(run.path) or run  # its report has the pictures of a part, too
        later = shlex.join(["segtune", "report", str(whole.path), "--pictures"])
        log.warning("no pictures in the report (%s); draw them: %s", reason, later)


def _draw(run: str, num_pictures: int, cpus: float) -> None:
    import torch

    from segtune.training.comparison import comparison_is_due, write_comparison

    folder = SearchDir(Path(run))
    if comparison_is_due(folder):
        torch.set_num_threads(max(1, int(cpus)))
        write_comparison(folder, num_pictures, cpus)
