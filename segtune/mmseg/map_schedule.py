"""mmsegmentation's batch size, loops and intervals to the settings in `schedule`."""

from __future__ import annotations

from segtune.mmseg.clock import NO_CLOCK, Clock, carry_interval, carry_steps
from segtune.mmseg.ledger import Fixed, Left, Ref, Rule, Same, apply, is_number
from segtune.mmseg.map_data import DataFacts
from segtune.mmseg.map_rate import map_lr_scaling, map_rate

VAL_ITERATIONS = 1000  # of mmengine's IterBasedTrainLoop
CHECKPOINTS: dict[str, Rule] = {
    "type": Same("segtune keeps the best and the last checkpoint"),
    "save_best": Fixed(("mIoU", "auto"), "segtune keeps the best mIoU", changes_numbers=False),
    "rule": Same("segtune keeps the best and the last checkpoint"),
    "max_keep_ckpts": Same("segtune keeps the best and the last checkpoint"),
    "save_last": Same("segtune keeps the best and the last checkpoint"),
    "meta": Same("segtune's checkpoints have the config and the classes"),
}


def map_schedule(root: Ref, data: DataFacts, gpus: int, images: int | None) -> None:
    """Map batch size, length, validation interval, checkpoints and learning rate."""
    settings = root.ledger.settings
    accumulate = settings.get("schedule.accumulate", 1)
    batch = _map_batch(root, gpus, accumulate)
    num_images = images or data.num_images
    per_epoch = num_images / batch if num_images else None
    clock = _map_length(root, per_epoch, accumulate, data.times)
    _map_checkpoints(root, clock)
    map_rate(root, clock)
    map_lr_scaling(root.get("auto_scale_lr"), batch)


def _map_batch(root: Ref, gpus: int, accumulate: int) -> int:
    """Set schedule.batch_size; return the images of one iteration on all GPUs."""
    loader = root.get("train_dataloader") or root.get("data")
    size = loader.first("batch_size", "samples_per_gpu") if loader else None
    per_gpu = max(1, _whole(size) or 1)
    batch = per_gpu * gpus
    if size and (_whole(size) or 0) < 1:
        size.leave(
            "expected a whole number from 1; schedule.batch_size counts the images of a step"
        )
    elif size:
        times = f" x {accumulate} backward passes" if accumulate > 1 else ""
        hint = "; --gpus N for more" if gpus == 1 else ""
        remark = f"{per_gpu} per GPU x {gpus} GPU{'s' if gpus > 1 else ''}{times}{hint}"
        size.carry({"schedule.batch_size": batch * accumulate}, remark)
    elif root.get("train_dataloader"):
        root.ledger.settings["schedule.batch_size"] = batch * accumulate
        text = f"train_dataloader has no batch_size: mmengine has 1 per GPU then, here {batch}"
        root.ledger.note(text)
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
        carry_steps(iterations, "schedule.steps", clock)
    _map_interval(root, clock)
    return clock


def _whole(ref: Ref | None) -> int | None:
    return ref.plain if ref and isinstance(ref.plain, int) and is_number(ref.plain) else None


def _map_interval(root: Ref, clock: Clock) -> None:
    """Set the validation interval."""
    evaluation, loop = root.get("evaluation"), root.get("train_cfg")
    interval = loop.get("val_interval") if loop else None
    if evaluation:
        interval = evaluation.get("interval")
    in_epochs = clock.iterations is None
    if evaluation:
        in_epochs = evaluation.value("by_epoch", in_epochs)
    if interval is None and loop and evaluation is None and clock.iterations is not None:
        _set_default_interval(root, clock)
    elif interval is None:
        root.ledger.settings["schedule.val_every"] = clock.times
    elif in_epochs:
        value = interval.plain
        value = value * clock.times if isinstance(value, int) else value
        interval.carry({"schedule.val_every": value})
    else:
        carry_interval(interval, "schedule.val_every", clock)


def _set_default_interval(root: Ref, clock: Clock) -> None:
    """Set the interval of mmengine's IterBasedTrainLoop, which has no val_interval."""
    text = f"val_interval is not set: mmengine validates every {VAL_ITERATIONS} iterations"
    epochs = max(1, round(VAL_ITERATIONS / clock.per_epoch)) if clock.per_epoch else 1
    root.ledger.settings["schedule.val_every"] = epochs
    reason = f"here schedule.val_every is {epochs}"
    reason += "" if clock.per_epoch else f"; {NO_CLOCK}"
    root.ledger.note(f"{text}; {reason}", changes_numbers=clock.per_epoch is None)


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
        carry_interval(interval, "checkpoint.every", clock, changes_numbers=False)
