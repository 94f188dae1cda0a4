"""mmsegmentation's learning rate schedules to the settings in `schedule`."""

from __future__ import annotations

from typing import Any, Literal

from segtune.mmseg.clock import NO_CLOCK, Clock, carry_steps
from segtune.mmseg.ledger import Fixed, Ref, Row, Same, apply, is_number

# How often the learning rate changes.
Unit = Literal["epoch", "step"]


def map_rate(root: Ref, clock: Clock) -> None:
    """Map the schedule of mmseg 1.x (`param_scheduler`) or 0.x (`lr_config`)."""
    root.ledger.settings |= {
        "schedule.warmup_epochs": 0.0,
        "schedule.poly_power": 0.0,
        "schedule.eta_min": 0.0,
    }
    found = root.get("param_scheduler")
    items = found.items() if found else []
    for item in items:
        _map_scheduler(item, clock, items)
    warmup: list[Unit] = [_unit(item, clock) for item in items if _is_warmup(item)]
    rest: list[Unit] = [_unit(item, clock) for item in items if item.type == "PolyLR"]
    _choose_clock(root, warmup[0] if warmup else None, rest[0] if rest else None)
    _map_old_policy(root, clock)


def _choose_clock(root: Ref, warmup: Unit | None, rest: Unit | None) -> None:
    """Set schedule.by from the units of the warmup and of what follows; segtune has one."""
    settings = root.ledger.settings
    if rest is None and warmup is not None:
        settings["schedule.by"] = warmup
    elif warmup is not None and warmup != rest:
        settings["schedule.by"] = "step"
        times = "in the warmup" if warmup == "epoch" else "after the warmup"
        root.ledger.note(
            "the learning rate changes at every step (schedule.by: step), because segtune has one "
            f"clock for warmup and schedule; in mmseg it changes once per epoch {times}",
            changes_numbers=True,
        )


def _unit(ref: Ref, clock: Clock) -> Unit:
    """Return how often a scheduler changes the learning rate."""
    is_converted = ref.value("convert_to_iter_based", False)
    return "epoch" if _counts_epochs(ref, clock) and not is_converted else "step"


def _is_warmup(ref: Ref) -> bool:
    """Whether a scheduler is a warmup that ends."""
    end_factor = ref.value("end_factor", 1.0)
    return ref.type == "LinearLR" and end_factor == 1.0 and ref.get("end") is not None


def _map_scheduler(ref: Ref, clock: Clock, every: list[Ref]) -> None:
    """Map LinearLR or PolyLR of mmengine."""
    kind = ref.get("type")
    if kind is None:
        return
    if _is_warmup(ref):
        _map_warmup(ref, clock)
    elif ref.type == "LinearLR" and ref.get("end") is None:
        ref.leave("a warmup without an `end` lasts for the whole training; segtune has none here")
        return
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
        value = end.plain * clock.times if is_number(end.plain) else end.plain
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
    _compare_head(ref.get("eta_min"))
    _map_begin(ref, every)
    _map_end(ref, clock)
    _report_clock(ref, {"schedule.by": _unit(ref, clock)})


def _compare_head(eta_min: Ref | None) -> None:
    """Report the last learning rate of the head: mmseg's is eta_min for all parameters."""
    settings = eta_min.ledger.settings if eta_min else {}
    if eta_min and settings.get("optim.head_lr_mult", 1.0) != 1 and settings["schedule.eta_min"]:
        eta_min.leave("segtune's head ends at optim.head_lr_mult times schedule.eta_min")


def _map_begin(ref: Ref, every: list[Ref]) -> None:
    """Compare the begin of PolyLR with the end of the warmup."""
    begin = ref.get("begin")
    value = ref.value("begin", 0)
    warmup = next((item for item in every if _is_warmup(item)), None)
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
    elif is_number(end.plain) and abs(end.plain - total) <= 0.01 * total:
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


def _map_old_policy(root: Ref, clock: Clock) -> None:
    """Map `lr_config` of mmseg 0.x."""
    policy = root.get("lr_config")
    if policy is None:
        return
    kind = policy.get("policy")
    settings = policy.ledger.settings
    if kind is None or kind.plain not in ("poly", "fixed"):
        policy.leave("segtune has a linear warmup followed by poly")
        return
    kind.same("the schedule of segtune: a linear warmup, then poly")
    unit: Unit | None = None
    if kind.plain == "poly":
        settings["schedule.poly_power"] = 1.0
        unit = "epoch" if policy.value("by_epoch", True) else "step"
        _report_clock(policy, {"schedule.by": unit})
    else:
        apply(policy, {"by_epoch": Same("the learning rate is constant")})
    rules = {
        "power": Row("schedule.poly_power", float),
        "min_lr": Row("schedule.eta_min", float),
    }
    apply(policy, rules)
    _compare_head(policy.get("min_lr"))
    if _map_old_warmup(policy, clock):
        _choose_clock(root, "step", unit)  # mmcv changes the rate at every step of a warmup


def _map_old_warmup(policy: Ref, clock: Clock) -> bool:
    """Map the warmup of `lr_config`; return whether segtune has one then."""
    warmup = policy.get("warmup")
    if warmup is None:
        return False
    if warmup.plain != "linear":
        for part in policy.parts().values():
            if ".warmup" in part.key:
                part.leave("segtune's warmup is linear")
        return False
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
        value = length.plain * clock.times if is_number(length.plain) else length.plain
        length.carry({"schedule.warmup_epochs": value}, remark)
    elif length:
        carry_steps(length, "schedule.warmup_steps", clock)
        policy.ledger.note(f"{policy.key}: {remark}")
    apply(policy, {"warmup_by_epoch": Same("the unit of warmup_iters")})
    return length is not None


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
