"""Search runs as files, without a training: a single trial, or hundreds of them."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.timeline import Session
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study

# IoU of each class, relative to the mIoU of an epoch.
CLASSES = [0.8, 0.4, 0.0, None, 0.1, 0.2, 0.3]
SLOTS = 8
MISCHIEF = "loss <b>9e9</b> & <script>document.title = 'run'</script>"


def write_trial(
    trial: TrialDir, drawn: float, mious: Sequence[float], verdict: Verdict, **params: Any
) -> None:
    """Write a trial that is drawn at a time in seconds.

    Its first step comes two seconds later, and an epoch takes two.
    """
    write_atomic(trial.params, json.dumps(params))
    write_atomic(trial.attempts, json.dumps({"started": drawn}) + "\n")
    lines = []
    for epoch, miou in enumerate(mious, 1):
        iou = tuple(None if share is None else share * miou for share in CLASSES)
        record = EpochRecord(
            epoch=epoch,
            step=epoch,
            seconds=2.0 * epoch,
            ended=drawn + 2.0 + 2.0 * epoch,
            losses={"loss": 1.0},
            validation=ValidationScores(miou=miou, constant_miou=0.1, class_iou=iou),
        )
        lines.append(json.dumps(record.to_row()) + "\n")
    if lines:
        write_atomic(trial.epochs, "".join(lines))
    changes = {"epoch": len(mious), "ended": drawn + 2.0 + 2.0 * len(mious)}
    write_atomic(trial.verdict, json.dumps(verdict.override(changes).dump()))


def write_search(study: Study, run: SearchDir, num_trials: int, seed: int = 0) -> None:
    """Write a search run: higher learning rates are better, and above 0.03 many diverge.

    Trials run in SLOTS slots. At the rungs, two of three are stopped.
    """
    prepare_study(run, study)
    chance = random.Random(seed)
    free = [1000.0] * SLOTS
    for number in range(num_trials):
        point = study.space.complete({}) if number == 0 else _draw(study, chance)
        mious, verdict = _outcome(study, point, chance, is_baseline=number == 0)
        slot = min(range(SLOTS), key=free.__getitem__)
        write_trial(run.trial(number), free[slot], mious, verdict, **point)
        free[slot] += 2.1 + 2.0 * len(mious)
    session = Session(1000.0, max(free), SLOTS, 1)
    write_atomic(run.sessions, json.dumps(asdict(session)) + "\n")


def _draw(study: Study, chance: random.Random) -> dict[str, Any]:
    return {d.name: d.quantile(chance.random()) for d in study.space.dimensions}


def _outcome(
    study: Study, point: dict[str, Any], chance: random.Random, *, is_baseline: bool
) -> tuple[list[float], Verdict]:
    lr = point["optim.lr"]
    if not is_baseline and lr > 0.03 and chance.random() < 0.7:
        advice = {"evidence": MISCHIEF, "advice": "optim.lr: 0.01"}
        return [], Verdict(state="unhealthy", kind="diverged", **advice)
    last = study.epochs
    for rung in () if is_baseline else study.rungs():
        if chance.random() < 0.67:
            last = rung
            break
    top = 0.3 + 0.08 * (5 + min(-1.5, chance.gauss(0, 0.3) + math.log10(lr)))
    curve = [top * (1 - 0.6**epoch) + chance.gauss(0, 0.01) for epoch in range(1, last + 1)]
    state = "completed" if last == study.epochs else "pruned"
    return [max(0.01, miou) for miou in curve], Verdict(state=state)
