"""The `search:` block of a study: the budget, and how trials are drawn, stopped and placed."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from segtune.config.settings import PathText, Settings
from segtune.tuning.guards_config import GuardsConfig
from segtune.tuning.notify_config import NotifyConfig
from segtune.tuning.proxy import ProxyConfig

# Changes to the search block of a study whose trials are those of a list, and all of them count.
NO_LIMITS: dict[str, Any] = {
    "budget.hours": None,
    "budget.epochs": None,
    "stop_when.regret": None,
}

Objective = Literal["miou", "latency_ms", "params_m"]
Sampler = Literal["curves", "tpe", "random", "grid", "cmaes", "gp", "nsga2"]

# The sampler curves takes 0.1 s for a draw after 100 trials; it sees no more than 160 of them.
MOST_FOR_CURVES = 500
# A report with six rows of pictures stays small.
DEFAULT_PICTURES = 6


def _with_home(url: str) -> str:
    """Return a database URL with the home folder for `~` in a path of sqlite."""
    scheme, slashes, path = url.partition(":///")
    return f"{scheme}{slashes}{os.path.expanduser(path)}" if path.startswith("~") else url


class AshaConfig(Settings):
    """Asynchronous successive halving (Li et al. 2018), measured in epochs.

    The stopping form, or the promotion form if `pause` is set.
    """

    grace_epochs: int | None = Field(
        default=None,
        ge=1,
        description="Epoch of the first rung. No trial is stopped before it. null: the first "
        "validation at epoch 3 or later.",
    )
    reduction: int = Field(
        default=3,
        ge=2,
        description="At each rung, only the best 1/reduction of the trials that have reached it "
        "continue. Rungs are at the epochs grace_epochs * reduction^k; each of them must have a "
        "validation.",
    )
    brackets: int = Field(
        default=1,
        ge=1,
        description="Number of halvings side by side, each starting one rung later than the one "
        "before. Every trial belongs to one of them. More than 1 helps if learning curves cross "
        "late.",
    )
    pause: bool | None = Field(
        default=None,
        description="Pause a trial that is not among the best of a rung, instead of stopping it. "
        "It goes on from its checkpoint once it is among the best 1/reduction of a rung that more "
        "trials have reached. Needs brackets 1, and another sampler than cmaes. null: wherever "
        "that is possible.",
    )
    order: Literal["expected", "score"] = Field(
        default="expected",
        description="With pause, what the best trials of a rung are. expected: those whose "
        "learning curves are expected to end highest, by a Gaussian process over the settings and "
        "epochs of all trials. score: those with the highest mIoU so far; also with more than "
        f"{MOST_FOR_CURVES} trials.",
    )
    max_paused: int = Field(
        default=8,
        ge=1,
        description="With pause, how many trials wait at each rung with their checkpoints. The "
        "best do; the others are pruned, and their checkpoints are deleted.",
    )

    @model_validator(mode="after")
    def _pause_in_one_bracket(self) -> Self:
        if self.pause and self.brackets > 1:
            raise ValueError(
                f"pause works with a single halving, got brackets {self.brackets}; "
                "set brackets: 1, or pause: false"
            )
        return self


class HyperbandConfig(Settings):
    """Hyperband (Li et al. 2017), asynchronous.

    Halving in as many brackets as there are rungs, and one more bracket that stops no trial.
    """

    grace_epochs: int | None = Field(
        default=None,
        ge=1,
        description="Epoch of the first rung. No trial is stopped before it. null: the first "
        "validation at epoch 3 or later.",
    )
    reduction: int = Field(
        default=3,
        ge=2,
        description="At each rung of a bracket, only the best 1/reduction of the trials that have "
        "reached it continue. Rungs are at the epochs grace_epochs * reduction^k; each of them "
        "must have a validation.",
    )


class MedianConfig(Settings):
    """Median rule (Golovin et al. 2017).

    A trial stops if its best mIoU so far is below the median of the others at the same epoch.
    """

    grace_epochs: int | None = Field(
        default=None,
        ge=1,
        description="No trial is stopped before this epoch. null: the first validation at epoch 3 "
        "or later.",
    )
    min_trials: int = Field(
        default=4,
        ge=1,
        description="How many other trials must have reached an epoch before a trial can be "
        "stopped there.",
    )


class SchedulerConfig(Settings):
    """The rule that stops trials early: exactly one of these."""

    asha: AshaConfig | None = Field(
        default=None,
        description="Asynchronous successive halving: at each rung, only the best trials continue.",
    )
    hyperband: HyperbandConfig | None = Field(
        default=None,
        description="Hyperband: halving in several brackets, one of which stops no trial.",
    )
    median: MedianConfig | None = Field(
        default=None,
        description="Median rule: stop a trial whose best mIoU so far is below the median of the "
        "others at the same epoch.",
    )

    @model_validator(mode="after")
    def _check_one_rule(self) -> Self:
        rules = [name for name, rule in self if rule is not None]
        if len(rules) != 1:
            raise ValueError(
                "allowed is exactly one of asha, hyperband and median, or the word none, "
                f"got {' and '.join(rules) or 'no rule'}; "
                "for example scheduler: {asha: {grace_epochs: 3}}"
            )
        return self

    @property
    def chosen(self) -> AshaConfig | HyperbandConfig | MedianConfig:
        """The settings of the chosen rule."""
        chosen = self.asha or self.hyperband or self.median
        assert chosen
        return chosen


class BreakerConfig(Settings):
    """When a search pauses because trial after trial ends for one cause."""

    first: int | None = Field(
        default=5,
        ge=2,
        description="Pause if this many trials, the first ones of the search, all end for one "
        "cause. null: never.",
    )
    recent: int | None = Field(
        default=10,
        ge=3,
        description="Pause if most of this many latest trials end for one cause. null: never.",
    )
    share: float = Field(
        default=0.8,
        gt=0.5,
        le=1,
        description="What most of the latest trials means, as a fraction of them.",
    )


class BudgetConfig(Settings):
    """What a search may use up, besides its trials. The first limit that is reached ends it."""

    hours: float | None = Field(
        default=None,
        gt=0,
        description="Hours that the search may run, over all its sessions: from the start of the "
        "first trial to the end of the session, without the time between sessions. null: no limit.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Epochs that all trials together may train. null: no limit.",
    )


class StopWhenConfig(Settings):
    """When a search has nothing left to gain."""

    regret: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="End the search if as many trials again as have ended would raise the best "
        "mIoU by less than this, in 0..1, as far as the trials show: 0.003 is 0.3 points. Looked "
        "at whenever a trial has ended, from 30 trials with a score on. Not below the noise of "
        "a training run (noise_floor), which a search cannot gain anything from. null: never.",
    )


def _check_objectives(objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
    """Return the objectives. Raise ValueError if miou is missing or one is repeated."""
    if "miou" not in objectives:
        raise ValueError("miou must be among the objectives; for example [miou, latency_ms]")
    if len(set(objectives)) < len(objectives):
        raise ValueError("an objective is repeated; name each once")
    return objectives


class SearchConfig(Settings):
    """The budget of a study, and how its trials are drawn, stopped and placed."""

    trials: int = Field(
        default=16,
        ge=1,
        description="Number of trials in all. Trial 0 is the config itself and counts too.",
    )
    budget: BudgetConfig = Field(
        default_factory=BudgetConfig,
        description="Limits that end the search before its last trial. Running trials are then "
        "interrupted, and --resume with a larger budget continues them. Without the training runs "
        "of noise_floor and those at full length after a search on a proxy.",
    )
    stop_when: StopWhenConfig = Field(
        default_factory=StopWhenConfig,
        description="When the search ends because it has nothing left to gain.",
    )
    objectives: Annotated[tuple[Objective, ...], AfterValidator(_check_objectives)] = Field(
        default=("miou",),
        description="What is searched for: the highest miou and, with several objectives, also "
        "the lowest latency_ms (forward pass of one validation image) or params_m (millions of "
        "parameters). Several objectives give a Pareto front, and no trial is stopped early.",
    )
    guards: GuardsConfig = Field(
        default_factory=GuardsConfig,
        description="Limits that a trial must keep to be able to win.",
    )
    sampler: Literal["auto", Sampler] = Field(
        default="auto",
        description="How trials are drawn. auto: curves, but gp if there are several objectives, "
        f"and tpe with more than {MOST_FOR_CURVES} trials. curves: a Gaussian process over the "
        "settings and epochs of all trials, which learns from running and paused trials too. gp: "
        "a Gaussian process over the settings. tpe: a tree-structured Parzen estimator; the time "
        "per draw does not grow, so it suits thousands of trials. random: at random. grid: all "
        "combinations, in random order. cmaes: CMA-ES, for two or more numbers, no choices and no "
        "conditional settings. nsga2: the genetic algorithm NSGA-II; it learns from trials of full "
        "length only. All but random and grid draw at random until 10 trials have ended, curves "
        "until 10 have a score. benchmarks/README.md compares curves, gp and tpe.",
    )
    constant_liar: bool = Field(
        default=False,
        description="tpe only: count running trials as bad ones, so that trials drawn at the same "
        "time differ.",
    )
    multivariate: bool = Field(
        default=False,
        description="tpe only: draw all settings from one joint density instead of each from its "
        "own. In benchmarks/README.md, Optuna's TPE then ends with more regret.",
    )
    grid_points: int = Field(
        default=3,
        ge=2,
        description="grid only: number of values for each range. Of a choice, all values are used.",
    )
    scheduler: Literal["none"] | SchedulerConfig = Field(
        default_factory=lambda: SchedulerConfig(asha=AshaConfig()),
        description="The rule that stops trials early: exactly one of asha, hyperband and median "
        "with its settings. none: every trial is trained to its end; the default with several "
        "objectives. Trial 0 is never stopped.",
    )
    workers_per_trial: int = Field(
        default=1,
        ge=1,
        description="Worker processes (ranks) of a trial. Two or more train with "
        "DistributedDataParallel.",
    )
    cpus_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="CPUs reserved for each worker. null: 1 if workers have no GPU, otherwise "
        "their share of the cores of a node, in proportion to its GPUs.",
    )
    gpus_per_worker: float | None = Field(
        default=None,
        ge=0,
        description="GPUs of each worker. A fraction lets several trials share a GPU and needs "
        "workers_per_trial 1. null: 1 if the cluster has GPUs, otherwise 0.",
    )
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of trials at the same time. null: as many as fit on the "
        "cluster.",
    )
    wait_for_nodes_s: float = Field(
        default=0.0,
        ge=0,
        description="With --address, on a cluster that starts nodes by itself: request room for "
        "max_concurrent trials, and wait so many seconds until the first one fits. Needs "
        "gpus_per_worker. 0: use the nodes that are there.",
    )
    retries: int = Field(
        default=2,
        ge=0,
        description="How often a trial is started again from its last checkpoint if its process "
        "hangs or dies, or its node dies. --resume starts counting from 0 again.",
    )
    breaker: BreakerConfig = Field(
        default_factory=BreakerConfig,
        description="When the search pauses because trials end for one cause.",
    )
    notify: NotifyConfig = Field(
        default_factory=NotifyConfig,
        description="Whom the search tells that it has ended or needs attention.",
    )
    storage: Annotated[str, AfterValidator(_with_home)] | None = Field(
        default=None,
        description="Where Optuna stores the study: a database URL such as sqlite:///study.db or "
        "postgresql://USER@HOST/DATABASE. null: the journal file study.log in the run folder.",
    )
    init_from: PathText | None = Field(
        default=None,
        description="Checkpoint from which each trial is fine-tuned: a checkpoint, or the folder "
        "of a training run or a search run, which stands for its best checkpoint. null: each trial "
        "starts from model.weights.",
    )
    corner_steps: int = Field(
        default=4,
        ge=0,
        description="Optimiser steps that are taken at each corner of the space before the first "
        "trial, on a worker of the search: with the largest batch, the largest learning rate, both "
        "ends of focal gamma, each precision and each model. They find what does not fit into "
        "memory or becomes non-finite. 0: none.",
    )
    pictures: int = Field(
        default=DEFAULT_PICTURES,
        ge=0,
        description="Validation images in the report on which the best trial and the config itself "
        "differ most, and the confusion matrix of the best trial. At the end of the search, a "
        "worker predicts all validation images with both, which takes as long as two validations. "
        "0: none.",
    )
    noise_floor: int = Field(
        default=0,
        ge=0,
        description="How often the config itself is trained first, with seeds that the search does "
        "not use. The standard deviation of their mIoU is the noise below which a difference means "
        "nothing. `segtune confirm` uses the same training runs. 0: not trained; 3 or more is "
        "useful.",
    )
    known_good: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Points to try after trial 0, each as {name: value}. Settings that a point "
        "leaves out have the config's value.",
    )
    proxy: ProxyConfig | None = Field(
        default=None,
        description="Search on a cheaper version of the config, then train the best trials and "
        "some others at full length. null: search on the config itself.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Seed of the sampler: decides which points it draws."
    )

    @model_validator(mode="after")
    def _stop_no_trial_by_one_score(self) -> Self:
        """Turn off the default stopping rule if there are several objectives; refuse any other."""
        if self.has_front and self.scheduler != "none":
            if "scheduler" not in self.model_fields_set:
                # The class is frozen; only this validator may set the field.
                vars(self)["scheduler"] = "none"
                return self
            raise ValueError(
                "scheduler stops trials by their mIoU alone, which would cut off the small and "
                f"fast ones that the objectives {', '.join(self.objectives)} ask for; remove "
                "scheduler, or set scheduler: none"
            )
        return self

    @model_validator(mode="after")
    def _pause_no_trial_of_cmaes(self) -> Self:
        asha = None if self.scheduler == "none" else self.scheduler.asha
        if asha and asha.pause and self.sampler == "cmaes":
            raise ValueError(
                "sampler cmaes learns only from trials that have ended, and with "
                "scheduler.asha.pause most trials wait until the end of the search; "
                "use sampler curves or tpe, or remove scheduler.asha.pause"
            )
        return self

    @property
    def pauses(self) -> bool:
        """Whether the scheduler pauses trials, which may go on later."""
        if self.scheduler == "none" or self.scheduler.asha is None:
            return False
        asha = self.scheduler.asha
        return asha.brackets == 1 and self.sampler != "cmaes" if asha.pause is None else asha.pause

    @property
    def orders_by_expected_end(self) -> bool:
        """Whether the trials with the highest expected ends go on, unless their scores say more."""
        if not self.pauses or self.scheduler == "none" or self.scheduler.asha is None:
            return False
        return self.scheduler.asha.order == "expected" and self.trials <= MOST_FOR_CURVES

    @property
    def chosen_sampler(self) -> Sampler:
        """The sampler that draws the trials: `auto` is replaced by its choice."""
        if self.sampler != "auto":
            return self.sampler
        if self.has_front:
            return "gp"
        return "curves" if self.trials <= MOST_FOR_CURVES else "tpe"

    @property
    def guards_of_trials(self) -> GuardsConfig:
        """The guards that the trials are judged by.

        On a proxy, without the least IoUs: those are meant for a trial of full length.
        """
        return self.guards.override({"class": {}}) if self.proxy else self.guards

    @property
    def has_front(self) -> bool:
        """Whether the result is a Pareto front, because there are several objectives."""
        return len(self.objectives) > 1

    @property
    def measures_network(self) -> bool:
        """Whether each trial's network is measured: guards or other objectives than mIoU ask."""
        return self.has_front or bool(self.guards.limits)

    @property
    def measures_latency(self) -> bool:
        """Whether the time of a forward pass is measured, too."""
        return "latency_ms" in self.objectives or self.guards.latency_ms is not None
