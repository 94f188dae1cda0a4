"""Prove for each setting of a space that it changes training, or say why it does not.

Two values of a setting are told apart by what is made of them: see `observations.py`. They are
compared in several configs of the space, because another setting may switch this one off: in trial
0, in configs that open its gates (`gates.py`), and in random ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from segtune.checks.comparison import Comparison
from segtune.checks.data_sizes import DataSizes
from segtune.checks.drawn_trials import accepted, conditions, random_points
from segtune.checks.findings import Finding, shown_value
from segtune.checks.gates import GATES, PROXY_SETS, Gate
from segtune.checks.observations import Observation, Workbench
from segtune.config.log_config import LogConfig
from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError, WeightsError, setting
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study

if TYPE_CHECKING:
    from segtune.checks.own_data import OwnSamples

NUM_RANDOM = 8  # random configs in which the values of a setting are compared
# Settings that change no number of a trial, with what they change.
SPEED_ONLY = {
    "optim.compile": "how fast a step is",
    "data.num_loaders": "how fast images are loaded",
    "data.cache": "how fast images are loaded",
    "data.cache_gb": "how fast images are loaded",
    "checkpoint.every": "how often checkpoints are written",
    "checkpoint.keep_trials": "how many checkpoints are kept",
    **dict.fromkeys(LogConfig.names("log."), "what is shown and recorded of the progress"),
}
# By setting, or by the beginning of its name, the part of training in which it shows; None if it
# does not show in what can be built here, as is assumed of every setting that has no entry. The
# first entry that fits is taken.
PARTS: dict[str, str | None] = {
    "seed": "batch",
    "data.train": "files",
    "data.num_images": "files",
    "data.resize": "batch",
    "data.crop": "batch",
    "augment.": "batch",
    "model.sync_norms": None,
    "model.weights": "weights",
    "model.": "network",
    **dict.fromkeys(("loss.focal.", "loss.dice.", "loss.ce.", "loss.lovasz."), "loss"),
    **dict.fromkeys(("loss.tversky.", "loss.custom.", "loss.ohem."), "loss"),
    **dict.fromkeys(("loss.label_smoothing", "loss.class_weights"), "loss"),
    "optim.precision": "precision",
    "optim.clip_norm": "clipping",
    "optim.ema": "average",
    **dict.fromkeys(("optim.name", "optim.lr", "optim.betas", "optim.weight_decay"), "optimizer"),
    **dict.fromkeys(("optim.head_lr_mult", "optim.layer_decay"), "optimizer"),
    **dict.fromkeys(("schedule.epochs", "schedule.batch_size", "schedule.accumulate"), "schedule"),
    **dict.fromkeys(("schedule.by", "schedule.warmup_", "schedule.poly_power"), "schedule"),
    **dict.fromkeys(("schedule.eta_min", "schedule.val_every"), "schedule"),
    **dict.fromkeys(("val.mode", "val.window", "val.stride"), "windows"),
}
# Parts whose observations are samples or depend on this machine: two equal ones are no proof.
NO_PROOF = ("batch", "precision")
# What two values have in common if they are not told apart.
COMMON = {
    "batch": "the same samples",
    "files": "the same list of images",
    "network": "the same network",
    "weights": "the same weights",
    "loss": "the same loss and gradient",
    "precision": "the same precision",
    "clipping": "the same clipping",
    "average": "the same average of the weights",
    "optimizer": "the same groups of the optimiser",
    "schedule": "the same rate at every step, and the same validations",
    "windows": "the same windows",
}
Status = Literal["live", "dead", "speed only", "unproven"]


@dataclass(frozen=True)
class Liveness:
    """What a setting of the space changes."""

    key: str
    status: Status
    evidence: str  # what changes, with numbers, or why nothing does
    way_out: str = ""  # of a setting that is not live
    alike: tuple[Any, ...] = ()  # two choices of a live setting that do the same
    unbuilt: str = ""  # the first value that cannot be built, and why
    lacks_weights: bool = False  # whether it only lacks weights, which another machine may have
    is_proof: bool = True  # whether two equal observations mean that training is equal

    def dump(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {"setting": self.key, "status": self.status, "what changes": self.evidence}


def liveness(study: Study, sizes: DataSizes) -> list[Liveness]:
    """Return for each setting of the space what it changes, in the order of the space.

    Trains nothing. Builds the network at most a few times for each setting of `model`, and reads
    at most a few images.
    """
    trial = study.trial_config({})
    steps = (sizes.steps_per_epoch(trial) or 100) * trial.schedule.epochs
    with _samples(study, trial) as own:
        bench = Workbench(sizes, own, sizes.classes_of(trial), steps)
        return [_of_dimension(study, bench, dimension) for dimension in study.space.dimensions]


@contextmanager
def _samples(study: Study, config: ExperimentConfig) -> Iterator[OwnSamples | None]:
    """Open the training samples if a setting of the space shows in them, otherwise give None."""
    if not {"batch", "files"} & set(map(_part_of, study.space.names)):
        yield None
        return
    from segtune.checks.own_data import own_samples  # imports albumentations

    with own_samples(config) as own:
        yield own


def liveness_findings(results: Sequence[Liveness]) -> list[Finding]:
    """Return a finding for each setting that is not live, and for choices that do the same."""
    return [finding for result in results for finding in _findings_of(result)]


def _findings_of(result: Liveness) -> Iterator[Finding]:
    key, way_out = result.key, result.way_out
    if result.unbuilt:
        way = f"leave the value out of {key}, or repair this"
        reason = "each trial with this value would end so"
        severity = "warning" if result.lacks_weights else "error"
        yield Finding(severity, "not-built", key, result.unbuilt, reason, way)
    if result.status == "dead":
        problem = "changes nothing in training"
        yield Finding("error", "dead-key", key, problem, result.evidence, way_out)
    elif result.status == "speed only":
        reason = "all its values have the same mIoU, so the sampler learns from noise"
        problem = f"changes only {result.evidence}"
        yield Finding("warning", "speed-only", key, problem, reason, way_out)
    elif result.status == "unproven" and not result.unbuilt:
        yield Finding("warning", "unproven-key", key, "no change seen", result.evidence, way_out)
    if result.alike:
        first, second = map(shown_value, result.alike)
        severity = "error" if result.is_proof else "warning"
        where = "" if result.is_proof else ", in the samples and on the machine of this check"
        problem = f"the choices {first} and {second} do the same{where}"
        reason = "two trials that differ only in them are the same trial"
        yield Finding(severity, "equal-choices", key, problem, reason, way_out)


def _of_dimension(study: Study, bench: Workbench, dimension: Dimension) -> Liveness:
    name = dimension.name
    remove = f"remove {name} from the space"
    if name in SPEED_ONLY:
        return Liveness(name, "speed only", SPEED_ONLY[name], remove)
    if name.startswith("health."):
        why = "when a trial is ended as unhealthy"
        return Liveness(name, "speed only", why, f"{remove}, and set it in the config")
    part = _part_of(name)
    if part is None or (part == "files" and not (bench.own and bench.own.is_own)):
        why = _unseen_reason(name)
        return Liveness(name, "unproven", why, "compare two short trials, or leave it out")
    comparison = Comparison(dimension, study.space.base[name])
    if not comparison.num_pairs:
        return Liveness(name, "live", "one choice, the config's own value")
    for point in _contexts(study, dimension, part):
        _compare_in(study, bench, comparison, point, part)
        if comparison.is_decided:
            break
    return _result(study, bench, dimension, comparison, part)


def _unseen_reason(name: str) -> str:
    """Return why a setting cannot be examined here."""
    if name == "model.sync_norms":
        return "it acts only if a trial has several GPUs, and this check builds one network"
    if name.startswith("data."):
        return "it shows only in the images of the data set, which this check cannot compare here"
    return "it does not show in the parts that this check builds"


def _result(
    study: Study, bench: Workbench, dimension: Dimension, comparison: Comparison, part: str
) -> Liveness:
    return replace(
        _compared(study, bench, dimension, comparison, part),
        unbuilt=comparison.unbuilt,
        lacks_weights=comparison.lacks_weights,
        is_proof=part not in NO_PROOF,
    )


def _compared(
    study: Study, bench: Workbench, dimension: Dimension, comparison: Comparison, part: str
) -> Liveness:
    name = dimension.name
    if comparison.is_live:
        alike = comparison.alike
        way_out = f"remove one of the two choices of {name}" if alike else ""
        return Liveness(name, "live", comparison.evidence, way_out, alike)
    if len(comparison.built) < 2:
        why = "fewer than two of its values can be built on this machine, so none are compared"
        return Liveness(name, "unproven", why, "repair this, then check again")
    if reason := _gate_reason(study, bench, dimension, part):
        return reason
    what = f"its values {', '.join(map(shown_value, comparison.values))} give {COMMON[part]}"
    if part in NO_PROOF:
        why = f"{what}, but other images or another GPU may differ"
        return Liveness(name, "unproven", why, "widen its range, or leave it out of the space")
    why = f"{what}, in every config of the space that was tried"
    return Liveness(name, "dead", why, f"remove {name} from the space, or widen it")


def _contexts(study: Study, dimension: Dimension, part: str) -> Iterator[dict[str, Any]]:
    """Yield points of the space in which the values of a setting are compared.

    Its conditions hold in all of them, and in the second one its gates are open if possible.
    """
    needed = conditions(study.space, dimension)
    yield needed
    opened = dict(needed)
    for gate in GATES.get(dimension.name, ()):
        for name, value in gate.openings(study.space.dimensions)[:1]:
            parents = next(d for d in study.space.dimensions if d.name == name)
            opened = {**conditions(study.space, parents), name: value, **opened}
    yield opened
    for point in study.search.known_good:
        yield {**point, **needed}
    # Each random point has other values of the model, and a network takes a while to build.
    number = 2 if part == "network" else NUM_RANDOM
    for point in random_points(study.space, number):
        yield {**point, **opened}


def _compare_in(
    study: Study, bench: Workbench, comparison: Comparison, point: Mapping[str, Any], part: str
) -> None:
    """Compare the values of a setting at one point of the space."""
    streams: dict[int, Iterator[Observation]] = {}
    for index, value in enumerate(comparison.values):
        config = accepted(study, {**point, comparison.name: value})
        if config is not None:
            streams[index] = bench.observe(part, config)
    while streams and not comparison.is_decided:
        seen: dict[int, Observation] = {}
        for index, stream in list(streams.items()):
            try:
                observation = next(stream, None)
            except (ConfigError, WeightsError) as error:
                comparison.problems.setdefault(index, error)
                observation = None
            if observation is None:
                del streams[index]
            else:
                seen[index] = observation
                comparison.built.add(index)
        comparison.compare(seen)


def _gate_reason(
    study: Study, bench: Workbench, dimension: Dimension, part: str
) -> Liveness | None:
    """Return why a setting is dead, proven by opening its closed gates; None if that fails."""
    name = dimension.name
    proxy_setting = PROXY_SETS.get(name)
    if proxy_setting and _proxy_value(study, proxy_setting) is not None:
        why = f"{proxy_setting} is set, and gives every trial this value of {name}"
        return Liveness(name, "dead", why, f"remove {name} from the space, or {proxy_setting}")
    config = study.trial_config({})
    closed = [
        gate
        for gate in GATES.get(name, ())
        if not gate.is_open(config) and not gate.openings(study.space.dimensions)
    ]
    if not closed:
        return None
    comparison = Comparison(dimension, study.space.base[name])
    if all(gate.can_be_tried for gate in closed):
        opening = {gate.name: gate.opening for gate in closed}
        open_study = replace(study, config=study.config.override(opening))
        _compare_in(open_study, bench, comparison, conditions(study.space, dimension), part)
        if not comparison.is_live:
            return None
    return _dead_by_gates(config, name, closed, comparison)


def _dead_by_gates(
    config: ExperimentConfig, name: str, closed: Sequence[Gate], comparison: Comparison
) -> Liveness:
    states = [f"{n} is {shown_value(config.get(n))}" for gate in closed for n in gate.names]
    why = f"{' and '.join(states)} in the config, and the space does not change that"
    add = f"add {closed[0].name} to the space"
    if not comparison.is_live:
        return Liveness(name, "dead", why, f"set it, or {add}, or remove {name}")
    opened = " ".join(setting(gate.name, shown_value(gate.opening)) for gate in closed)
    why += f"; with {opened} it has an effect ({comparison.evidence})"
    return Liveness(name, "dead", why, f"{opened}, or {add}, or remove {name} from it")


def _proxy_value(study: Study, dotted: str) -> Any:
    proxy = study.search.proxy
    return getattr(proxy, dotted.rsplit(".", 1)[1]) if proxy else None


def _part_of(name: str) -> str | None:
    """Return the part of training in which a setting shows, or None."""
    return next((part for start, part in PARTS.items() if name.startswith(start)), None)
