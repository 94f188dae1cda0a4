"""What a search says when it pauses, and the narrower space that it proposes."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from segtune.checks.breaker import Break
from segtune.checks.narrower_space import Cut, narrower_space
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import BAD_ENDS, TrialResult
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

log = logging.getLogger(__name__)


def propose(study: Study, run: SearchDir, trials: Sequence[TrialResult], cause: str) -> Cut | None:
    """Write the study with a narrower space into the run folder; return what it cuts off.

    Return None and write nothing if the trials show no cut, or if the space is not valid with it.
    """
    found = narrower_space(study.space, trials, cause)
    if found is None:
        return None
    space, cut = found
    inside = [p for p in study.search.known_good if not space.missed_by(space.complete(p))]
    search = study.search.override({"known_good": inside})
    write_atomic(run.narrower, write_yaml(replace(study, space=space, search=search).dump()))
    try:
        load_study(run.narrower)
    except ConfigError as error:  # for example, a condition that needs the removed choice
        log.debug("no narrower space: %s", error)
        run.narrower.unlink()
        return None
    return cut


def explain(
    study: Study, run: SearchDir, trials: Sequence[TrialResult], reason: Break
) -> Iterator[str]:
    """Yield the lines that say why a search pauses, and how it goes on."""
    yield f"the search pauses: {reason}"
    unhealthy = [
        trial for trial in trials if trial.state in BAD_ENDS and trial.kind == reason.cause
    ]
    if unhealthy:
        yield f"for example trial {unhealthy[-1].id}: {unhealthy[-1].reason}"
    cut = propose(study, run, trials, reason.cause)
    if cut is None:
        yield "no narrower space follows from the trials; change the config, or continue"
        return
    words = ["segtune", "search", "--space", str(run.narrower), "--out", str(run.path.parent)]
    yield f"a narrower space: {cut}"
    yield f"continue with it: {shlex.join([*words, '--name', run.path.name, '--extend'])}"
