"""Takes the corner steps of a search on its own workers, before its first trial."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from segtune.checks.corner_steps import CornerReport, take_corner_steps
from segtune.checks.corners import Corner
from segtune.checks.findings import errors_of
from segtune.checks.step_costs import StepCosts
from segtune.cluster.placement import Placement, live_nodes, place_trials
from segtune.cluster.ray_session import ray_connection
from segtune.errors import ConfigError
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.study import Study

log = logging.getLogger(__name__)


def check_corners(study: Study, run: SearchDir, placement: Placement) -> None:
    """Take the corner steps of a new search, once, and log a warning for each corner that fails.

    The record is `run.corners`. Raise ConfigError that lists the errors, if there are any; the
    record is then not written. Ray has to be running.
    """
    if not study.search.corner_steps or run.corners.exists() or run.trial_dirs():
        return
    start = time.monotonic()
    report = corner_report(study, placement)
    errors = errors_of(report.findings)
    for finding in report.findings:
        if finding not in errors:
            log.warning("note: %s", finding)
    if errors:
        skip = "no trial was started; --no-check starts the search in spite of this"
        raise ConfigError([*map(str, errors), skip])
    write_atomic(run.corners, json.dumps(report.dump(), indent=1) + "\n")
    seconds = time.monotonic() - start
    log.info("corner steps: %s; %.1f s, see %s", report.about(), seconds, run.corners)


def corner_report_on(study: Study, address: str | None) -> CornerReport:
    """Join a cluster or start a local Ray, and take the corner steps of a study on its workers."""
    with ray_connection(address):
        return corner_report(study, place_trials(study.search, live_nodes()))


def corner_report(study: Study, placement: Placement) -> CornerReport:
    """Take the corner steps of a study on workers of its trials' size, as many as fit at a time."""

    def measure(corners: Sequence[Corner]) -> list[StepCosts]:
        # Ray itself would repeat a task without end if the machine's memory is full.
        options: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus}
        task = ray.remote(_measure_on_worker).options(max_retries=0, **options)
        arguments = (ray.put(study), placement.cpus)
        started = [task.remote(corner, *arguments) for corner in corners]
        return [
            _costs(corner, reference, partial(task.remote, corner, *arguments))
            for corner, reference in zip(corners, started, strict=True)
        ]

    return take_corner_steps(study, measure)


def _costs(corner: Corner, reference: Any, start_again: Callable[[], Any]) -> StepCosts:
    """Wait for a corner and return its costs; a process that has died twice is a verdict.

    Once, the machine may be at fault. Twice, the corner probably takes too much of its memory.
    """
    with contextlib.suppress(RayError):
        return _result(reference)
    try:
        return _result(start_again())
    except RayError as error:
        lines = str(error).strip().splitlines() or [""]
        evidence = f"its process died twice ({type(error).__name__}: {lines[0]})"
        advice = "check whether the machine ran out of memory, and try a smaller batch"
        verdict = Verdict(state="failed", kind="lost", evidence=evidence[:500], advice=advice)
        return StepCosts.unmeasured(corner.name, corner.params, verdict)


def _result(reference: Any) -> StepCosts:
    """Return the result of a task. Raise RayError if its process has died."""
    try:
        return ray.get(reference)
    except RayTaskError as error:  # a bug: errors of a step are verdicts
        raise RuntimeError("the corner steps have failed") from error


def _measure_on_worker(corner: Corner, study: Study, cpus: float) -> StepCosts:
    from segtune.checks.measured_steps import measure_as_rank

    return measure_as_rank(study, corner, cpus)
