"""A Tune searcher that draws trials with Optuna and tells Optuna how they ended.

The run folder is the truth. Optuna's study is rebuilt from it whenever a search starts, so a torn
journal, or a crash between two writes, cannot make the two disagree.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from typing import Any

from ray.tune.search import Searcher

from segtune.cluster.messages import DrawnTrial
from segtune.data.layouts import known_class_names
from segtune.errors import ConfigError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import BAD_ENDS, miou_by_epoch, read_params, validated_epochs
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import DISK, UNFIT_NODE, Verdict
from segtune.tuning import warm_start
from segtune.tuning.measured import Measured, outcome_of, with_costs
from segtune.tuning.optuna_study import OptunaStudyLog, recreate_study, to_frozen_trial
from segtune.tuning.samplers import make_sampler, random_sampler
from segtune.tuning.stopping import PausingRule, StoppingRule, stopped_state
from segtune.tuning.study import Study
from segtune.tuning.trial_history import BoundedHistory, history_for
from segtune.tuning.warm_start import KnownTrial

log = logging.getLogger(__name__)

# How often a point that the config refuses is drawn again, at random.
REDRAWS = 100


def is_unfinished(trial: TrialDir) -> bool:
    """Whether a resumed search continues this trial."""
    verdict = trial.read_verdict()
    return verdict is None or not verdict.is_final


class StudySearcher(Searcher):
    """Draws trials for Tune and tells Optuna how they ended.

    A trial whose values lie outside the space is trained, but Optuna is not told about it. Such a
    trial is the config itself, if the space does not contain it.

    If the rule pauses trials, the searcher also starts paused trials again. Optuna lets no ended
    trial change, so a paused trial stays RUNNING in its study until the session ends; the sampler
    learns from it as from a pruned one.
    """

    def __init__(
        self,
        study: Study,
        run: SearchDir,
        study_log: OptunaStudyLog,
        rule: StoppingRule | None = None,
    ) -> None:
        """Use `from_run` to get a searcher that knows the trials of the run folder."""
        super().__init__(metric="miou", mode="max")
        self.study = study
        self.run = run
        self.study_log = study_log
        self.rule = rule if isinstance(rule, PausingRule) else None
        self.paused: set[int] = set()  # trial numbers
        # What the sampler draws from; None: it draws from `study_log`.
        self.history = history_for(study.search, study.space)
        # Trials that ended before trial 0. They are told to Optuna when trial 0 has ended, because
        # Optuna lets no ended trial change.
        self.waiting: dict[int, Verdict] = {}
        # For trials whose network was not measured.
        self.classes = known_class_names(study.config.data)
        self.points = study.points()  # of the first trials, by trial number
        self.stopping = False
        self.disk_problem = ""  # why no trial can write its files, with the way out
        self.num_started = 0  # trials that have a number
        self.room: int | None = None  # how many trials may run at the same time; None: any number
        self.numbers: dict[str, int] = {}  # trial numbers of the running trials, by Tune's trial id
        self.unfinished: list[int] = []  # trials to be started again
        self.num_faults: Counter[int] = Counter()  # machine faults in this session, by trial number

    @classmethod
    def from_run(
        cls, study: Study, run: SearchDir, rule: StoppingRule | None = None
    ) -> StudySearcher:
        """Rebuild the Optuna study from the run folder; return a searcher for the trials to come.

        `rule` is the one that the scheduler asks, and knows the trials of the run folder. The
        earlier Optuna study of the search run is deleted. Raise ClusterError if the database of
        `search.storage` cannot be used.
        """
        objectives = study.search.objectives
        optuna_study = recreate_study(run, study.search.storage, objectives)
        study_log = OptunaStudyLog(optuna_study, study.space, objectives)
        searcher = cls(study, run, study_log, rule)
        earlier = warm_start.read(run)
        searcher.points += earlier.points
        searcher._add_known(earlier.trials)
        for trial in run.trial_dirs():
            if trial.params.exists():
                searcher._replay(trial)
        if searcher.rule:
            # A crash may have come between a pause and what follows from it.
            searcher._prune_given_up(searcher.rule)
        # The samplers random and grid learn from no trial.
        if study.baseline_note and study.search.sampler not in ("random", "grid"):
            log.info("%s", study.baseline_note)
        return searcher

    @property
    def remaining(self) -> int:
        """How many trials this session has yet to start, without the paused ones."""
        return self.study.num_trials - self.num_started + len(self.unfinished)

    @property
    def _is_full(self) -> bool:
        return self.room is not None and len(self.numbers) >= self.room

    @property
    def has_work(self) -> bool:
        """Whether this session has a trial to start, new or not."""
        if self.remaining > 0:
            return True
        return self.rule is not None and self.rule.next_paused(can_draw=False) is not None

    def suggest(self, trial_id: str) -> Any:
        """Return {number, params, attempt} of the next trial.

        None means that there is no trial now, but perhaps later. FINISHED means that there will be
        no other trial.
        """
        number = None if self.stopping or self._is_full else self._next_number()
        if number is None:
            # A running trial may still be lost, and must then be started again. Or the scores to
            # come let a paused trial go on.
            return None if self.numbers and not self.stopping else Searcher.FINISHED
        self.numbers[trial_id] = number
        trial = self.run.trial(number)
        return DrawnTrial(number, read_params(trial), trial.begin_attempt()).to_config()

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Report an intermediate mIoU to Optuna."""
        number = self.numbers[trial_id]
        for study_log in self._logs_of(number):
            study_log.report(number, result["epoch"], result["miou"])
        if self.study.search.guards.limits:
            self._judge(self.run.trial(number))

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """End a trial, or put it back in the queue after a machine fault.

        The trial's own verdict counts. Without one, Tune has stopped the trial or has lost it.
        """
        number = self.numbers.pop(trial_id)
        trial = self.run.trial(number)
        verdict = trial.read_verdict()
        if verdict is None:
            verdict = self._verdict(trial, result, error)
            if not trial.write_verdict(verdict):
                # The trial's own process was faster, and its verdict stands.
                verdict = trial.read_verdict() or verdict
        if verdict.kind == DISK:
            self.disk_problem = verdict.evidence
            self.stop()
        may_restart = self.num_faults[number] < self.study.search.retries and not self.stopping
        if verdict.is_machine_fault and may_restart:
            # It is not the trial's fault, and the node gets no other trial.
            self.num_faults[number] += verdict.kind != UNFIT_NODE
            self.unfinished.append(number)
            log.info(
                "trial %s: %s; it is started again from its last checkpoint",
                trial.id,
                verdict.evidence,
            )
        elif verdict.state == "paused" and self.rule:
            self._pause(trial, verdict, self.rule)
        else:
            self._end(trial, verdict)

    def stop(self) -> None:
        """Start no other trial; the running ones will end as interrupted and can be resumed."""
        self.stopping = True

    def settle(self) -> None:
        """End the trials that are still running as interrupted, so that a resume continues them.

        Tell Optuna that the paused ones are pruned; a resume begins them anew in its study.
        """
        self.stop()
        for trial_id in list(self.numbers):
            self.on_trial_complete(trial_id)
        for number in sorted(self.paused):
            self._prune_in_log(number)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the run folder is the state."""

    def _next_number(self) -> int | None:
        """Return the trial that a free slot starts: an unfinished, a paused or a new one.

        None if there is none now.
        """
        if self.unfinished:
            return self.unfinished.pop(0)
        can_draw = self.num_started < self.study.num_trials
        paused = self.rule.next_paused(can_draw=can_draw) if self.rule else None
        if self.rule and paused is not None:
            self._resume(paused, self.rule)
            return paused
        return self._draw_next() if can_draw else None

    def _draw_next(self) -> int:
        """Begin the next new trial and return its number; its values are on disk by then."""
        number = self.num_started
        params = self._begin(self.points[number]) if number < len(self.points) else self._ask()
        trial = self.run.trial(number)
        is_logged = number in self.study_log.running
        # Written before anything acts on the values: after a crash, a resume finds the trial.
        if is_logged and (state := self.study_log.read_sampler_state(number)):
            write_atomic(trial.sampler_state, json.dumps(state) + "\n")
        write_atomic(trial.params, json.dumps(params, indent=1) + "\n")
        if self.rule:
            self.rule.begin(number, params)
        return number

    def _pause(self, trial: TrialDir, verdict: Verdict, rule: PausingRule) -> None:
        """Let a trial wait."""
        rule.pause(int(trial.id))
        self._show_paused(trial, verdict)
        self._prune_given_up(rule)

    def _prune_given_up(self, rule: PausingRule) -> None:
        """Prune the paused trials that the rule gives up now."""
        for number in rule.given_up():
            other = self.run.trial(number)
            if waiting := other.read_verdict():
                other.give_up(waiting)
            self._prune_in_log(number)
            self.paused.discard(number)
            rule.end(number, is_healthy=True)

    def _show_paused(self, trial: TrialDir, verdict: Verdict) -> None:
        """Let the sampler learn from a paused trial, which stays RUNNING in Optuna's study."""
        number, mious = int(trial.id), _mious(trial)
        self.paused.add(number)
        measured = self._judge(trial)
        if number not in self.study_log.running:
            return
        for epoch, miou in mious.items():
            self.study_log.report(number, epoch, miou)
        if self.history:
            self.history.tell(number, verdict, mious, measured)

    def _resume(self, number: int, rule: PausingRule) -> None:
        """Take a paused trial from those that wait."""
        rule.resume(number)
        self.paused.discard(number)
        if self.history and number in self.study_log.running:
            self.history.resume(number, read_params(self.run.trial(number)))

    def _prune_in_log(self, number: int) -> None:
        """End a paused trial in Optuna's study."""
        trial = self.run.trial(number)
        verdict = trial.read_verdict()
        if verdict and number in self.study_log.running:
            self.study_log.tell(number, verdict, _mious(trial), self._judge(trial))

    def _begin(self, point: dict[str, Any]) -> dict[str, Any]:
        """Begin the next trial with the values of a point, and return its values.

        A point from before the space was widened lacks the new settings: there it had the config's
        own value.
        """
        number = self.num_started
        self.num_started += 1
        params = self.study.space.complete(point)
        if not self.study.space.outside(params):
            for study_log in self._logs:
                study_log.begin(number, params)
        return params

    def _ask(self) -> dict[str, Any]:
        """Begin the next trial with values that the sampler draws, and return them."""
        number = self.num_started
        self.num_started += 1
        drawn_from = self.history or self.study_log
        search, space = self.study.search, self.study.space
        sampler = make_sampler(search, space, number, self.study.curve_epochs())
        params = drawn_from.ask(number, sampler)
        for attempt in range(REDRAWS):
            if self._is_possible(params):
                break
            drawn_from.withdraw(number)
            params = drawn_from.ask(number, random_sampler(self.study.search, number, attempt))
        if self.history:
            self.study_log.begin(number, params)
        return params

    def _is_possible(self, params: dict[str, Any]) -> bool:
        """Whether the config accepts these values together.

        It accepts each of them alone, but all loss weights may be 0 in a corner of the space.
        """
        try:
            self.study.trial_config(params)
        except ConfigError:
            return False
        return True

    @property
    def _logs(self) -> list[OptunaStudyLog | BoundedHistory]:
        return [self.study_log, self.history] if self.history else [self.study_log]

    def _logs_of(self, number: int) -> list[OptunaStudyLog | BoundedHistory]:
        """Return where a running trial is recorded: nowhere if its values lie outside the space."""
        return self._logs if number in self.study_log.running else []

    def _verdict(self, trial: TrialDir, result: dict | None, error: bool) -> Verdict:
        """Return the verdict of a trial that has written none; `result` is its last one in Tune."""
        epoch, step = trial.progress(result["epoch"] if result and not error else math.inf)
        if error:
            evidence = (
                "the trial's process died, as it does when it is killed, runs out of memory "
                "or loses its node"
            )
            return Verdict(state="failed", kind="lost", epoch=epoch, step=step, evidence=evidence)
        state = "interrupted" if self.stopping else stopped_state(self.rule)
        return Verdict(state=state, epoch=epoch, step=step)

    def _end(self, trial: TrialDir, verdict: Verdict) -> None:
        """Tell Optuna and the rule how a trial ended."""
        self._tell(trial, verdict)
        # A lost trial without another retry, too: only a resume starts it again, with a new rule.
        if self.rule and verdict.state != "interrupted":
            self.rule.end(int(trial.id), is_healthy=verdict.state not in BAD_ENDS)

    def _tell(self, trial: TrialDir, verdict: Verdict) -> None:
        """Tell Optuna how a trial ended."""
        number = int(trial.id)
        numbers = self._judge(trial)
        for study_log in self._logs_of(number):
            if study_log is self.study_log and self._waits_for_baseline(number, verdict):
                self.waiting[number] = verdict
            else:
                study_log.tell(number, verdict, _mious(trial), numbers)
        if number == 0 and verdict.is_final and self.study.search.guards.class_iou_drop is not None:
            self._judge_again()

    def _judge(self, trial: TrialDir) -> Measured:
        """Write which guards a trial breaks by now, and return what samplers learn from it."""
        outcome = outcome_of(self.study.search, self.run, trial, self.classes)
        # An extended search may have no guards any more.
        if self.study.search.guards.limits or trial.guards.exists():
            trial.write_guards(outcome)
        return with_costs(self.study.search, trial, outcome)

    def _waits_for_baseline(self, number: int, verdict: Verdict) -> bool:
        """Whether a trial is told only when trial 0 has ended: Optuna lets no ended trial change.

        Only a completed trial is compared with trial 0. The history is told at once, because it can
        be corrected.
        """
        if self.study.search.guards.class_iou_drop is None or verdict.state != "completed":
            return False
        return number > 0 and is_unfinished(self.run.trial(0))

    def _judge_again(self) -> None:
        """Judge the other trials by the final scores of trial 0."""
        others = [trial for trial in self.run.trial_dirs() if int(trial.id)]
        judged = {int(trial.id): self._judge(trial) for trial in others}
        if self.history and self.waiting:
            self.history.judge_again({number: judged[number] for number in self.waiting})
        for number, verdict in self.waiting.items():
            self.study_log.tell(number, verdict, _mious(self.run.trial(number)), judged[number])
        self.waiting.clear()

    def _add_known(self, trials: tuple[KnownTrial, ...]) -> None:
        """Tell Optuna about the trials of earlier search runs that count as results."""
        objectives = self.study.search.objectives
        for known in trials:
            self.study_log.study.add_trial(to_frozen_trial(known, self.study.space, objectives))
        if self.history:
            self.history.add_known(trials)

    def _replay(self, trial: TrialDir) -> None:
        """Tell Optuna about a trial of the run folder. Trials must come in the order of numbers."""
        number = self.num_started
        expected = self.run.trial(number)
        assert trial.id == expected.id, f"trial {expected.id} is missing in {self.run.trials}"
        self._begin(read_params(trial))
        if trial.sampler_state.exists() and number in self.study_log.running:
            state = json.loads(trial.sampler_state.read_text())
            self.study_log.restore_sampler_state(number, state)
        verdict = trial.read_verdict()
        if verdict is None or not verdict.is_final:
            self.unfinished.append(number)
        elif verdict.state == "paused" and self.rule:
            self._show_paused(trial, verdict)
        else:
            self._tell(trial, verdict)


def _mious(trial: TrialDir) -> dict[int, float]:
    return miou_by_epoch(validated_epochs(trial, trial.read_verdict()))
