"""Ways to search, each through the real parts of its library: ours, Ray's, Optuna's. The event loop is search.py's."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.tasks import CONFIG, SPACE, Recorded
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.space import Space
from segtune.tuning.stopping import stopping_rule
from segtune.tuning.study import SearchConfig, Study, load_study

REDUCTION = 3
MANY = 1_000_000  # trials; the budget of epochs ends a search


class OptunaMethod:
    """Optuna's own loop: ask, report, should_prune, tell, as its tutorial writes it."""

    def __init__(
        self,
        task: Recorded,
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
    ) -> None:
        self.space, self.trials = task.space, dict[int, optuna.Trial]()
        self.last: dict[int, float] = {}
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self.study.enqueue_trial(task.space.complete({}))

    def suggest(self, number: int) -> dict[str, Any]:
        self.trials[number] = self.study.ask()
        return self.space(self.trials[number])

    def report(self, number: int, epoch: int, miou: float) -> bool:
        self.trials[number].report(miou, epoch)
        self.last[number] = miou
        return not self.trials[number].should_prune()

    def end(self, number: int, state: str) -> None:
        trial = self.trials.pop(number)
        if state == "pruned":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif number in self.last:
            self.study.tell(trial, self.last[number])
        else:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def close(self) -> None:
        """Nothing is left behind."""


class RayMethod:
    """OptunaSearch with ASHA, as Ray's documentation sets them up."""

    def __init__(self, task: Recorded, seed: int) -> None:
        space: Space = task.space

        def define(trial: optuna.Trial) -> None:
            space(trial)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.searcher = OptunaSearch(
                space=define,
                metric="miou",
                mode="max",
                seed=seed,
                points_to_evaluate=[space.complete({})],
            )
        self.scheduler = AsyncHyperBandScheduler(
            time_attr="training_iteration",
            metric="miou",
            mode="max",
            max_t=task.epochs,
            grace_period=task.grace,
            reduction_factor=REDUCTION,
        )
        self.last: dict[int, dict] = {}

    def suggest(self, number: int) -> dict[str, Any]:
        params = self.searcher.suggest(str(number))
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number)))  # pyright: ignore[reportArgumentType]
        assert params
        return params

    def report(self, number: int, epoch: int, miou: float) -> bool:
        self.last[number] = {"training_iteration": epoch, "miou": miou}
        self.searcher.on_trial_result(str(number), self.last[number])
        trial: Any = SimpleNamespace(trial_id=str(number))
        return self.scheduler.on_trial_result(None, trial, self.last[number]) != TrialScheduler.STOP  # pyright: ignore[reportArgumentType]

    def end(self, number: int, state: str) -> None:
        if state != "pruned" and number in self.last:
            trial: Any = SimpleNamespace(trial_id=str(number))
            self.scheduler.on_trial_complete(None, trial, self.last[number])  # pyright: ignore[reportArgumentType]
        self.searcher.on_trial_complete(
            str(number), self.last.get(number), error=number not in self.last
        )

    def close(self) -> None:
        """Nothing is left behind."""


class OurMethod:
    """segtune's sampler and scheduler, with its run folder, wired as cluster/search.py does."""

    def __init__(self, task: Recorded, seed: int, changes: Mapping[str, Any]) -> None:
        base = load_study(SPACE, CONFIG)
        validations = 10 if task.epochs > 12 else 1
        config = base.config.override(
            {
                "schedule.epochs": task.epochs,
                "schedule.val_every": validations,
                "data.num_loaders": 0,
            }
        )
        asha = {"asha": {"grace_epochs": task.grace, "reduction": REDUCTION}}
        search = SearchConfig.parse({"trials": MANY, "seed": seed, "scheduler": asha, **changes})
        study = Study(config, base.space, search)
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.run = SearchDir(self.folder / "run")
        self.sampler = StudySearcher.from_run(study, self.run)
        self.scheduler = StoppingRuleScheduler(stopping_rule(study))
        self.numbers: dict[int, dict] = {}

    def suggest(self, number: int) -> dict[str, Any]:
        self.numbers[number] = self.sampler.suggest(str(number))
        return self.numbers[number]["params"]

    def report(self, number: int, epoch: int, miou: float) -> bool:
        row = {"epoch": epoch, "step": epoch, "miou": miou, "seconds": float(epoch)}
        self.run.trial(self.numbers[number]["number"]).append_epoch(row)
        self.sampler.on_trial_result(str(number), row)
        trial: Any = SimpleNamespace(config=self.numbers[number])
        return self.scheduler.on_trial_result(None, trial, row) != TrialScheduler.STOP

    def end(self, number: int, state: str) -> None:
        trial = self.run.trial(self.numbers[number]["number"])
        rows = trial.read_epochs()
        epoch = rows[-1]["epoch"] if rows else 0
        if state != "pruned":
            trial.write_verdict(
                Verdict(state=state, kind="diverged" if state == "unhealthy" else "", epoch=epoch)
            )  # pyright: ignore[reportArgumentType]
        self.sampler.on_trial_complete(str(number), {"epoch": epoch})

    def close(self) -> None:
        shutil.rmtree(self.folder)


def make_method(name: str, task: Recorded, seed: int) -> OptunaMethod | RayMethod | OurMethod:
    """Returns a fresh search of that name. Every one of them tries the config itself first."""
    tpe, pruners = optuna.samplers.TPESampler(seed=seed), optuna.pruners
    match name:
        case "random":
            return OptunaMethod(task, optuna.samplers.RandomSampler(seed=seed), pruners.NopPruner())
        case "Ray OptunaSearch + ASHA":
            return RayMethod(task, seed)
        case "Optuna TPE + SuccessiveHalving":
            return OptunaMethod(
                task,
                tpe,
                pruners.SuccessiveHalvingPruner(
                    min_resource=task.grace, reduction_factor=REDUCTION
                ),
            )
        case "Optuna univariate TPE + SuccessiveHalving":
            tpe = optuna.samplers.TPESampler(seed=seed, multivariate=False)
            return OptunaMethod(
                task,
                tpe,
                pruners.SuccessiveHalvingPruner(
                    min_resource=task.grace, reduction_factor=REDUCTION
                ),
            )
        case "Optuna TPE + Hyperband":
            return OptunaMethod(
                task, tpe, pruners.HyperbandPruner(task.grace, task.epochs, REDUCTION)
            )
        case "segtune gp":
            return OurMethod(task, seed, {"sampler": "gp"})
        case "segtune tpe":
            return OurMethod(task, seed, {"sampler": "tpe"})
        case "segtune tpe multivariate":
            return OurMethod(task, seed, {"sampler": "tpe", "multivariate": True})
        case "segtune tpe constant liar":
            return OurMethod(task, seed, {"sampler": "tpe", "constant_liar": True})
    raise ValueError(name)


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
