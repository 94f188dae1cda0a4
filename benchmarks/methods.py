"""The search methods that the search benchmark compares: segtune's, Ray's and Optuna's.

Each method runs the real parts of its library. The loop that starts trials and receives their
reports is that of `search.py`.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import optuna
from optuna.pruners import HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.tasks import CONFIG, SPACE, RecordedTask
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.stopping import stopping_rule
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

REDUCTION = 3
# More trials than any search starts: the budget of epochs ends a search.
MAX_TRIALS = 1_000_000

End = Literal["completed", "pruned", "unhealthy"]

METHODS = (
    "random",
    "Ray OptunaSearch + ASHA",
    "Optuna TPE + SuccessiveHalving",
    "Optuna univariate TPE + SuccessiveHalving",
    "Optuna TPE + Hyperband",
    "segtune gp",
    "segtune tpe",
    "segtune tpe multivariate",
    "segtune tpe constant liar",
)


class SearchMethod(Protocol):
    """A search in progress. Trials have numbers from 0."""

    def suggest(self, number: int) -> dict[str, Any]:
        """Start a trial, and return its values of the space."""
        ...

    def report(self, number: int, epoch: int, miou: float) -> bool:
        """Receive the mIoU of an epoch; return whether the trial goes on."""
        ...

    def end(self, number: int, state: End) -> None:
        """End a trial."""
        ...

    def close(self) -> None:
        """Remove the files of the search."""
        ...


class OptunaMethod:
    """Optuna's own loop of ask, report, should_prune and tell, as in its tutorial."""

    def __init__(
        self,
        task: RecordedTask,
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
    ) -> None:
        self.space = task.space
        self.trials: dict[int, optuna.Trial] = {}
        self.last_mious: dict[int, float] = {}
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self.study.enqueue_trial(task.space.complete({}))

    def suggest(self, number: int) -> dict[str, Any]:
        self.trials[number] = self.study.ask()
        return self.space(self.trials[number])

    def report(self, number: int, epoch: int, miou: float) -> bool:
        self.trials[number].report(miou, epoch)
        self.last_mious[number] = miou
        return not self.trials[number].should_prune()

    def end(self, number: int, state: End) -> None:
        trial = self.trials.pop(number)
        if state == "pruned":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif number in self.last_mious:
            self.study.tell(trial, self.last_mious[number])
        else:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def close(self) -> None:
        """Do nothing: the study is in memory."""


class RayMethod:
    """OptunaSearch with ASHA, set up as in Ray's documentation."""

    def __init__(self, task: RecordedTask, seed: int) -> None:
        self.space = task.space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.searcher = OptunaSearch(
                space=self._define,
                metric="miou",
                mode="max",
                seed=seed,
                points_to_evaluate=[task.space.complete({})],
            )
        self.scheduler = AsyncHyperBandScheduler(
            time_attr="training_iteration",
            metric="miou",
            mode="max",
            max_t=task.epochs,
            grace_period=task.grace,
            reduction_factor=REDUCTION,
        )
        self.last_results: dict[int, dict[str, Any]] = {}

    def _define(self, trial: optuna.Trial) -> None:
        self.space(trial)

    def suggest(self, number: int) -> dict[str, Any]:
        params = self.searcher.suggest(str(number))
        self.scheduler.on_trial_add(None, _ray_trial(number))  # pyright: ignore[reportArgumentType]
        assert params
        return params

    def report(self, number: int, epoch: int, miou: float) -> bool:
        result = {"training_iteration": epoch, "miou": miou}
        self.last_results[number] = result
        self.searcher.on_trial_result(str(number), result)
        decision = self.scheduler.on_trial_result(None, _ray_trial(number), result)  # pyright: ignore[reportArgumentType]
        return decision != TrialScheduler.STOP

    def end(self, number: int, state: End) -> None:
        result = self.last_results.get(number)
        if state != "pruned" and result is not None:
            self.scheduler.on_trial_complete(None, _ray_trial(number), result)  # pyright: ignore[reportArgumentType]
        self.searcher.on_trial_complete(str(number), result, error=result is None)

    def close(self) -> None:
        """Do nothing: the study is in memory."""


def _ray_trial(number: int) -> Any:
    """Return the part of a Tune trial that its schedulers read."""
    return SimpleNamespace(trial_id=str(number))


class SegtuneMethod:
    """segtune's searcher and scheduler with a run folder, connected as in cluster/run.py."""

    def __init__(self, task: RecordedTask, seed: int, changes: Mapping[str, Any]) -> None:
        """`changes` are settings of the search block."""
        base = load_study(SPACE, CONFIG)
        schedule = {
            "schedule.epochs": task.epochs,
            "schedule.val_every": 10 if task.epochs > 12 else 1,
            "data.num_loaders": 0,
        }
        asha = {"asha": {"grace_epochs": task.grace, "reduction": REDUCTION}}
        search = {"trials": MAX_TRIALS, "seed": seed, "scheduler": asha, **changes}
        study = Study(base.config.override(schedule), base.space, SearchConfig.parse(search))
        # In memory: syncing the files to a disk would take most of the time.
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.run = SearchDir(self.folder / "run")
        self.searcher = StudySearcher.from_run(study, self.run)
        self.scheduler = StoppingRuleScheduler(stopping_rule(study))
        self.drawn: dict[int, dict[str, Any]] = {}

    def suggest(self, number: int) -> dict[str, Any]:
        self.drawn[number] = self.searcher.suggest(str(number))
        return self.drawn[number]["params"]

    def report(self, number: int, epoch: int, miou: float) -> bool:
        drawn = self.drawn[number]
        scores = ValidationScores(miou=miou, constant_miou=0.0)
        record = EpochRecord(epoch=epoch, step=epoch, seconds=float(epoch), validation=scores)
        self.run.trial(drawn["number"]).append_epoch(record)
        result = {"epoch": epoch, "miou": miou}
        self.searcher.on_trial_result(str(number), result)
        trial: Any = SimpleNamespace(config=drawn)
        return self.scheduler.on_trial_result(None, trial, result) != TrialScheduler.STOP

    def end(self, number: int, state: End) -> None:
        trial = self.run.trial(self.drawn[number]["number"])
        epoch, _ = trial.progress()
        # The searcher itself writes the verdict of a pruned trial.
        if state != "pruned":
            kind = "diverged" if state == "unhealthy" else ""
            trial.write_verdict(Verdict(state=state, kind=kind, epoch=epoch))
        self.searcher.on_trial_complete(str(number), {"epoch": epoch})

    def close(self) -> None:
        """Remove the run folder."""
        shutil.rmtree(self.folder)


def make_method(name: str, task: RecordedTask, seed: int) -> SearchMethod:
    """Return a new search by one of METHODS. Each of them tries the config itself first."""
    halving = SuccessiveHalvingPruner(min_resource=task.grace, reduction_factor=REDUCTION)
    match name:
        case "random":
            return OptunaMethod(task, RandomSampler(seed=seed), NopPruner())
        case "Ray OptunaSearch + ASHA":
            return RayMethod(task, seed)
        case "Optuna TPE + SuccessiveHalving":
            return OptunaMethod(task, TPESampler(seed=seed), halving)
        case "Optuna univariate TPE + SuccessiveHalving":
            return OptunaMethod(task, TPESampler(seed=seed, multivariate=False), halving)
        case "Optuna TPE + Hyperband":
            pruner = HyperbandPruner(task.grace, task.epochs, REDUCTION)
            return OptunaMethod(task, TPESampler(seed=seed), pruner)
        case "segtune gp":
            return SegtuneMethod(task, seed, {"sampler": "gp"})
        case "segtune tpe":
            return SegtuneMethod(task, seed, {"sampler": "tpe"})
        case "segtune tpe multivariate":
            return SegtuneMethod(task, seed, {"sampler": "tpe", "multivariate": True})
        case "segtune tpe constant liar":
            return SegtuneMethod(task, seed, {"sampler": "tpe", "constant_liar": True})
    raise SystemExit(f"--methods: {name!r} is no method; the methods are {', '.join(METHODS)}")
