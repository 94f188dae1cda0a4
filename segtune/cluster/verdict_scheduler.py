"""Stops trials by their verdict, on versions of Ray on which a trial has a worker group of its own.

Not needed if groups are kept (see `worker_group`): the ranks of a stopped trial then serve the
next trial.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from segtune.cluster.messages import DrawnTrial
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.stopping import StoppingRule, stopped_state


class VerdictScheduler(StoppingRuleScheduler):
    """Writes the verdict of a trial that the rule stops or pauses, and lets Tune continue it.

    The ranks of the trial read the verdict and leave, so that Ray Train ends the group and the
    trial ends by itself. If Tune stopped the trial, it would kill the process that waits for the
    group, and Ray's own cleaner would have to release the group's resources. On Ray 2.56 they were
    still reserved after 30 s.
    """

    def __init__(self, rule: StoppingRule, run: SearchDir) -> None:
        super().__init__(rule)
        self._run = run
        self._state: State = stopped_state(rule)
        self._stopped: set[tuple[int, int]] = set()  # number and attempt of trials

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return CONTINUE, also for a trial that has to stop."""
        drawn = DrawnTrial.from_config(trial.config)
        attempt = (drawn.number, drawn.attempt)
        # The ranks may report another epoch before they read the verdict.
        if attempt not in self._stopped:
            decision = super().on_trial_result(tune_controller, trial, result)
            if decision == TrialScheduler.STOP:
                self._stopped.add(attempt)
                trial_dir = self._run.trial(*attempt)
                epoch, step = trial_dir.progress(result["epoch"])
                trial_dir.write_verdict(Verdict(state=self._state, epoch=epoch, step=step))
        return TrialScheduler.CONTINUE
