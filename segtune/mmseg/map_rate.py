"""mmsegmentation's learning rate schedules to the settings in `schedule`."""

from __future__ import annotations

from typing import Any

from segtune.mmseg.clock import NO_CLOCK, Clock, carry_steps
from segtune.mmseg.ledger import Fixed, Ref, Row, Same, apply


def map_rate(root: Ref, clock: Clock) -> None:
    """Map the schedule of mmseg 1.x (`param_scheduler`) or 0.x (`lr_config`)."""
    root.ledger.settings |= {
        "schedule.warmup_epochs": 0.0,
        "schedule.poly_power": 0.0,
        "schedule.eta_min": 0.0,
    }
    items = root.get("param_scheduler")
    for item in items.items() if items else ():
        _map_scheduler(item, clock, items.items() if items else [])
    _map_old_policy(root.get("lr_config"), clock)
    _change_rate_by_steps(root)


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
        carry_steps(end, "schedule.warmup_steps", clock)
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
        carry_steps(length, "schedule.warmup_steps", clock)
        policy.ledger.note(f"{policy.key}: {remark}")
    apply(policy, {"warmup_by_epoch": Same("the unit of warmup_iters")})


def map_lr_scaling(scaling: Ref | None, batch: int) -> None:
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
