"""Ends a trial before it is trained if its network is larger or slower than the guards allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segtune.cluster.messages import Measurement
from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.guards import GUARD, check_guard_classes, size_outcome
from segtune.tuning.guards_config import GuardsConfig

if TYPE_CHECKING:
    from segtune.training.trainer import Trainer


def breaks_guard(trainer: Trainer, trial: TrialDir, measurement: Measurement) -> bool:
    """Measure the network, and return on all ranks whether the trial has ended for it.

    Rank 0 measures, and writes the profile and the verdict. A trial that goes on has its profile
    already: the time of another pass would differ a little. Raise ConfigError if a guard names a
    class that the data set does not have.
    """
    import torch

    guards = GuardsConfig.parse(measurement.guards)
    check_guard_classes(guards, trainer.classes)
    has_ended = False
    if trainer.ranks.is_first:
        has_ended = _judge(trainer, trial, measurement, guards)
    on_any = trainer.ranks.sum(torch.tensor(float(has_ended), device=trainer.ranks.device))
    return on_any.item() > 0


def _judge(
    trainer: Trainer, trial: TrialDir, measurement: Measurement, guards: GuardsConfig
) -> bool:
    from segtune.training.network_profile import measure_network

    profile = trial.read_profile()
    if profile is None:
        config = ExperimentConfig.parse(measurement.config)
        profile = measure_network(trainer, config, with_latency=measurement.with_latency)
        trial.write_profile(profile)
    broken = size_outcome(guards, profile).broken
    if not (broken and measurement.may_end_trial):
        return False
    evidence = "; ".join(broken)
    trial.write_verdict(
        Verdict(
            state="pruned", kind=GUARD, epoch=trainer.epoch, step=trainer.step, evidence=evidence
        )
    )
    return True
