"""What the rungs of a search are worth: how the order of trials there agrees with their ends.

Reads the files of a search run and writes none.
"""

from __future__ import annotations

from collections.abc import Sequence

from segtune.runs.results import (
    BAD_ENDS,
    RUNNING,
    miou_by_epoch,
    read_params,
    validated_epochs,
)
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tuning.curves.encoding import Encoding
from segtune.tuning.curves.model import CurveModel, Observed
from segtune.tuning.curves.sight import SeenTrial, Sight
from segtune.tuning.curves.worth import MIN_TRIALS, RungWorth, rung_worth
from segtune.tuning.space import Space
from segtune.tuning.study import Study

# Of more trials, the latest count. The time of a prediction grows with the cube of their number.
MAX_TRIALS = 500
# The parameters of the model are fitted to so many trials at most; that takes most of the time.
MAX_FITTED = 200


def rung_worths(study: Study, run: SearchDir) -> list[RungWorth]:
    """Return the worth of each rung beyond which MIN_TRIALS trials have gone, in ascending order.

    Empty if the stopping rule of the study has no rungs. `ExpectedHalving` chooses between its
    orders by the same numbers, but judges a rung only when another trial has gone beyond it. The
    search may be running.
    """
    rungs = study.rungs()
    observed = _observed(study, run)
    if not rungs or sum(max(trial.scores) > rungs[0] for trial in observed) < MIN_TRIALS:
        return []
    model = _model(study.curve_epochs(), observed)
    ends = dict(enumerate(model.predict_trials().mean.tolist()))
    trials = dict(enumerate(observed))
    worths = [rung_worth(model, trials, rung, ends) for rung in rungs]
    return [worth for worth in worths if worth]


def _observed(study: Study, run: SearchDir) -> list[Observed]:
    """Return the latest healthy trials with a score, by number."""
    trials = [_seen(trial, study.space) for trial in run.trial_dirs()]
    sight = Sight.of(trials, Encoding(study.space), study.curve_epochs())
    return sight.observed[-MAX_TRIALS:]


def _seen(trial: TrialDir, space: Space) -> SeenTrial:
    verdict = trial.read_verdict()
    state = verdict.state if verdict else RUNNING
    return SeenTrial(
        params=space.complete(read_params(trial)),
        scores=miou_by_epoch(validated_epochs(trial, verdict)),
        is_running=state == RUNNING,
        is_healthy=state not in BAD_ENDS,
    )


def _model(epochs: Sequence[int], trials: Sequence[Observed]) -> CurveModel:
    """Return a model of `trials`, fitted to every n-th of them, ordered by how long they are."""
    by_length = sorted(trials, key=lambda trial: len(trial.scores), reverse=True)
    step = -(-len(trials) // MAX_FITTED)
    return CurveModel(epochs, by_length[::step]).on(trials)
