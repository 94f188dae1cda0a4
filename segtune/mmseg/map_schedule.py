"""mmsegmentation's loops and learning rate schedules to the settings in `schedule`.

Knows two clocks: epochs, and iterations of the training loop. An optimiser step has `accumulate`
iterations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segtune.mmseg.ledger import Fixed, Left, Ref, Row, Rule, Same, apply, is_number
from segtune.mmseg.map_data import DataFacts

WAY_OUT = "to convert it to epochs, pass --images with the number of training images"
NO_CLOCK = f"in iterations, and the number of training images is not known; {WAY_OUT}"
CHECKPOINTS: dict[str, Rule] = {
    "type": Same("segtune keeps the best and the last checkpoint"),
    "save_best": Fixed(("mIoU", "auto"), "segtune keeps the best mIoU", changes_numbers=False),
    "rule": Same("segtune keeps the best and the last checkpoint"),
    "max_keep_ckpts": Same("segtune keeps the best and the last checkpoint"),
    "save_last": Same("segtune keeps the best and the last checkpoint"),
    "meta": Same("segtune's checkpoints have the config and the classes"),
}


@dataclass(frozen=True)
class Clock:
    """The length of a training run, and how to convert iterations."""

    epochs: int | None  # of an epoch-based loop
    iterations: int | None  # of an iteration-based loop
    per_epoch: float | None  # iterations in an epoch of segtune; None if it is not known
    accumulate: int
    times: int  # epochs of segtune in one of the config

    @property
    def total_iterations(self) -> float | None:
        """The length in iterations, if it is known."""
        if self.iterations is not None:
            return self.iterations
        known = self.epochs is not None and self.per_epoch is not None
        return self.epochs * self.times * self.per_epoch if known else None  # type: ignore[operator]


def map_schedule(root: Ref, data: DataFacts, gpus: int, images: int | None) -> None:
    """Map batch size, length, validation interval, checkpoints and learning rate."""
    settings = root.ledger.settings
    settings |= {
        "schedule.warmup_epochs": 0.0,
        "schedule.poly_power": 0.0,
        "schedule.eta_min": 0.0,
    }
    accumulate = settings.get("schedule.accumulate", 1)
    batch = _map_batch(root, gpus, accumulate)
    num_images = images or data.num_images
    per_epoch = num_images / batch if num_images else None
    clock = _map_length(root, per_epoch, accumulate, data.times)
    _map_checkpoints(root, clock)
    items = root.get("param_scheduler")
    for item in items.items() if items else ():
        _map_scheduler(item, clock, items.items() if items else [])
    _map_old_policy(root.get("lr_config"), clock)
    _change_rate_by_steps(root)
    _map_lr_scaling(root.get("auto_scale_lr"), batch)


def _change_rate_by_steps(root: Ref) -> None:
    """Change the learning rate at every step if the warmup counts steps: segtune has one clock."""
    settings = root.ledger.settings
    if settings.get("schedule.by") == "epoch" and "schedule.warmup_steps" in settings:
        settings["schedule.by"] = "step"
        root.ledger.note(
            "the warmup counts steps, so the learning rate changes at every step (schedule.by); in "
            "mmseg it changes once per epoch after the warmup",
            changes_numbers=True,
        )


def _map_batch(root: Ref, gpus: int, accumulate: int) -> int:
    """Set schedule.batch_size; return the images of one iteration on all GPUs."""
    loader = root.get("train_dataloader") or root.get("data")
    size = loader.first("batch_size", "samples_per_gpu") if loader else None
    per_gpu = size.plain if size and isinstance(size.plain, int) and size.plain > 0 else 1
    batch = per_gpu * gpus
    if size:
        times = f" x {accumulate} backward passes" if accumulate > 1 else ""
        hint = "; --gpus N for more" if gpus == 1 else ""
        remark = f"{per_gpu} per GPU x {gpus} GPU{'s' if gpus > 1 else ''}{times}{hint}"
        size.carry({"schedule.batch_size": batch * accumulate}, remark)
    validation = root.get("val_dataloader")
    val_size = validation.get("batch_size") if validation else None
    if val_size:
        val_size.same("the result of a validation does not depend on it")
    return batch


def _map_length(root: Ref, per_epoch: float | None, accumulate: int, times: int) -> Clock:
    """Set the length and the validation interval."""
    loop = root.first("train_cfg", "runner")
    total = root.first("total_epochs", "total_iters")
    epochs = (loop.get("max_epochs") if loop else None) or root.get("total_epochs")
    iterations = (loop.get("max_iters") if loop else None) or root.get("total_iters")
    clock = Clock(_whole(epochs), _whole(iterations), per_epoch, accumulate, times)
    if loop:
        apply(
            loop,
            {
                "type": Same("schedule.epochs or schedule.steps says it"),
                "by_epoch": Same("schedule.epochs or schedule.steps says it"),
                "val_begin": Fixed((1, 0), "segtune validates from the beginning on", False),
                "dynamic_intervals": Left("segtune has one interval", False),
            },
        )
    if total and loop:
        total.same("the loop says the length")
    if epochs:
        epochs.carry({"schedule.epochs": epochs.plain * times if clock.epochs else epochs.plain})
    elif iterations:
        _carry_steps(iterations, "schedule.steps", clock)
    _map_interval(root, clock)
    return clock


def _whole(ref: Ref | None) -> int | None:
    return ref.plain if ref and isinstance(ref.plain, int) else None


def _map_interval(root: Ref, clock: Clock) -> None:
    """Set the validation interval. Without one, mmengine validates after every epoch."""
    evaluation, loop = root.get("evaluation"), root.get("train_cfg")
    interval = loop.get("val_interval") if loop else None
    if evaluation:
        interval = evaluation.get("interval")
    in_epochs = clock.iterations is None
    if evaluation:
        in_epochs = evaluation.value("by_epoch", in_epochs)
    if interval is None:
        root.ledger.settings["schedule.val_every"] = clock.times
    elif in_epochs:
        value = interval.plain
        value = value * clock.times if isinstance(value, int) else value
        interval.carry({"schedule.val_every": value})
    else:
        _carry_interval(interval, "schedule.val_every", clock)


def _carry_steps(ref: Ref, setting: str, clock: Clock) -> None:
    """Set a number of optimiser steps from one of iterations."""
    if is_number(ref.plain):
        ref.carry({setting: int(ref.plain / clock.accumulate)})
    else:
        ref.leave("expected a number of iterations")


def _carry_interval(ref: Ref, setting: str, clock: Clock, changes_numbers: bool = True) -> None:
    """Set a number of epochs, at least 1, from one of iterations."""
    if not is_number(ref.plain):
        ref.leave("expected a number of iterations", changes_numbers)
    elif clock.per_epoch is None:
        ref.leave(NO_CLOCK, changes_numbers)
    else:
        epochs = ref.plain / clock.per_epoch
        ends = f"{clock.per_epoch:.4g} in an epoch are {epochs:.4g} epochs"
        ref.carry({setting: max(1, round(epochs))}, f"{ref.plain} iterations of {ends}")


def _map_checkpoints(root: Ref, clock: Clock) -> None:
    hooks = root.get("default_hooks")
    hook = (hooks.get("checkpoint") if hooks else None) or root.get("checkpoint_config")
    if hook is None or not hook.is_dict:
        return
    apply(hook, CHECKPOINTS)
    by_epoch = hook.get("by_epoch")
    if by_epoch:
        by_epoch.same("checkpoint.every counts epochs")
    interval = hook.get("interval")
    in_epochs = hook.value("by_epoch", True)
    if interval is None or not isinstance(interval.plain, int):
        return
    if interval.plain <= 0:
        interval.leave("segtune always writes the last checkpoint", changes_numbers=False)
    elif in_epochs:
        interval.carry({"checkpoint.every": interval.plain * clock.times})
    else:
        _carry_interval(interval, "checkpoint.every", clock, changes_numbers=False)


def _map_scheduler(ref: Ref, clock: Clock, every: list[Ref]) -> None:
    """Map LinearLR or PolyLR of mmengine."""
    kind = ref.get("type")
    if kind is None:
        return
    if ref.type == "LinearLR" and ref.value("end_factor", 1.0) == 1.0:
        _map_warmup(ref, clock)
    elif ref.type == "PolyLR":
        _map_poly(ref, clock, every)
    else:
        ref.leave("segtune has a linear warmup (LinearLR) followed by PolyLR")
        return
    kind.same("the schedule of segtune: a linear warmup, then poly")
    apply(ref, {"last_step": Fixed((-1,)), "verbose": Same("log only")})


def _counts_epochs(ref: Ref, clock: Clock) -> bool:
    """Whether begin and end of a scheduler are epochs. mmengine's default is by_epoch=True."""
    return bool(ref.value("by_epoch", True)) and clock.iterations is None


def _map_warmup(ref: Ref, clock: Clock) -> None:
    settings = ref.ledger.settings
    settings["schedule.warmup_start"] = 1 / 3  # mmengine's default
    apply(
        ref,
        {
            "start_factor": Row("schedule.warmup_start", float),
            "end_factor": Fixed((1,)),
            "begin": Fixed((0,), "segtune's warmup begins at the first step"),
        },
    )
    end = ref.get("end")
    if end and _counts_epochs(ref, clock):
        value = end.plain * clock.times if isinstance(end.plain, int | float) else end.plain
        end.carry({"schedule.warmup_epochs": value})
    elif end:
        _carry_steps(end, "schedule.warmup_steps", clock)
    _report_clock(ref, {})


def _map_poly(ref: Ref, clock: Clock, every: list[Ref]) -> None:
    settings = ref.ledger.settings
    settings["schedule.poly_power"] = 1.0  # mmengine's default
    apply(
        ref,
        {
            "power": Row("schedule.poly_power", float),
            "eta_min": Row("schedule.eta_min", float),
        },
    )
    if settings.get("optim.head_lr_mult", 1.0) != 1 and settings.get("schedule.eta_min"):
        eta_min = ref.get("eta_min")
        if eta_min:
            eta_min.leave("segtune's head ends at optim.head_lr_mult times schedule.eta_min")
    _map_begin(ref, every)
    _map_end(ref, clock)
    is_by_epoch = _counts_epochs(ref, clock) and not ref.value("convert_to_iter_based", False)
    _report_clock(ref, {"schedule.by": "epoch" if is_by_epoch else "step"})


def _map_begin(ref: Ref, every: list[Ref]) -> None:
    """Compare the begin of PolyLR with the end of the warmup."""
    begin = ref.get("begin")
    value = ref.value("begin", 0)
    warmup = next((item for item in every if item.type == "LinearLR"), None)
    end = warmup.value("end", None) if warmup else 0
    same_clock = warmup is None or warmup.value("by_epoch", True) == ref.value("by_epoch", True)
    if begin and same_clock and value == end:
        begin.same("segtune's poly schedule begins after the warmup")
    elif begin or (warmup and value != end):
        text = f"segtune's poly schedule begins after the warmup ({end}), not at {value}"
        (begin or ref).leave(text) if begin else ref.ledger.note(f"{ref.key}: {text}")


def _map_end(ref: Ref, clock: Clock) -> None:
    """Compare the end of PolyLR with the end of training."""
    end = ref.get("end")
    if end is None:
        return
    if _counts_epochs(ref, clock):
        total: float | None = clock.epochs
    else:
        total = clock.total_iterations
    if total is None:
        end.leave(f"segtune's poly schedule ends with the training; {NO_CLOCK}")
    elif isinstance(end.plain, int | float) and abs(end.plain - total) <= 0.01 * total:
        end.same("segtune's poly schedule ends with the training")
    else:
        end.leave(f"segtune's poly schedule ends with the training, at {total:g}")


def _report_clock(ref: Ref, settings: dict[str, Any]) -> None:
    """Report by_epoch and convert_to_iter_based, which say when the learning rate changes."""
    refs = [r for name in ("convert_to_iter_based", "by_epoch") if (r := ref.get(name))]
    refs = refs or ([r] if settings and (r := ref.get("type")) else [])
    for part in refs:
        if settings:
            part.carry(settings)
        else:
            part.same("the unit of begin and end")


def _map_old_policy(policy: Ref | None, clock: Clock) -> None:
    """Map `lr_config` of mmseg 0.x."""
    if policy is None:
        return
    kind = policy.get("policy")
    settings = policy.ledger.settings
    if kind is None or kind.plain not in ("poly", "fixed"):
        policy.leave("segtune has a linear warmup followed by poly")
        return
    kind.same("the schedule of segtune: a linear warmup, then poly")
    if kind.plain == "poly":
        settings["schedule.poly_power"] = 1.0
        is_by_epoch = policy.value("by_epoch", True)
        _report_clock(policy, {"schedule.by": "epoch" if is_by_epoch else "step"})
    apply(
        policy,
        {
            "power": Row("schedule.poly_power", float),
            "min_lr": Row("schedule.eta_min", float),
            "by_epoch": Same("no schedule"),
        }
        if kind.plain == "poly" and not policy.get("by_epoch")
        else {
            "power": Row("schedule.poly_power", float),
            "min_lr": Row("schedule.eta_min", float),
        },
    )
    _map_old_warmup(policy, clock)


def _map_old_warmup(policy: Ref, clock: Clock) -> None:
    warmup = policy.get("warmup")
    if warmup is None:
        return
    if warmup.plain != "linear":
        for part in policy.parts().values():
            if ".warmup" in part.key:
                part.leave("segtune's warmup is linear")
        return
    warmup.same("segtune's warmup is linear")
    policy.ledger.settings["schedule.warmup_start"] = 0.1  # mmcv's default
    apply(policy, {"warmup_ratio": Row("schedule.warmup_start", float)})
    length = policy.get("warmup_iters")
    in_epochs = policy.value("warmup_by_epoch", False)
    remark = (
        "mmseg 0.x multiplies the warmup with a poly schedule that begins at step 0; segtune's "
        "begins after the warmup"
    )
    if length and in_epochs:
        length.carry({"schedule.warmup_epochs": length.plain}, remark)
    elif length:
        _carry_steps(length, "schedule.warmup_steps", clock)
        policy.ledger.note(f"{policy.key}: {remark}")
    apply(policy, {"warmup_by_epoch": Same("the unit of warmup_iters")})


def _map_lr_scaling(scaling: Ref | None, batch: int) -> None:
    """Map `auto_scale_lr`: if it is enabled, lr is meant for base_batch_size images."""
    if scaling is None:
        return
    base = scaling.value("base_batch_size", None)
    lr = scaling.ledger.settings.get("optim.lr")
    if scaling.value("enable", False) is True and isinstance(base, int) and lr:
        remark = f"lr x {batch} images / {base}"
        scaling.carry({"optim.lr": lr * batch / base}, remark, replace=True)
    else:
        scaling.same("not enabled")
