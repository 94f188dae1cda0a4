"""The other keys of a config: hooks, seed, checkpoints to start from, environment, variables."""

from __future__ import annotations

import difflib

from segtune.mmseg.ledger import Fixed, Left, Ref, Row, Rule, Same, apply

ENVIRONMENT = Same("mmseg's own processes, logs and files")
ONE_METRIC = "segtune reports mIoU, aAcc, mAcc and mDice"
VARIABLE = "variables of the file; their values count where the config uses them"
# Keys that mmengine's runner reads and that do not change what segtune does.
TOP: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("default_scope", "env_cfg", "vis_backends", "visualizer", "log_processor"),
            *("log_level", "launcher", "cudnn_benchmark", "dist_params", "log_config", "workflow"),
            *("find_unused_parameters", "device", "gpu_ids", "auto_resume", "experiment_name"),
            *("opencv_num_threads", "mp_start_method", "checkpoint_config", "local_rank"),
        ),
        ENVIRONMENT,
    ),
    "work_dir": Same("segtune train --out says it"),
    "val_cfg": Same("segtune validates with one loop"),
    "tta_model": Same("segtune evaluate --flip --scales does this"),
    "tta_pipeline": Same("segtune evaluate --flip --scales does this"),
    "resume": Fixed((False,), "pass --resume to segtune train", changes_numbers=False),
    "custom_imports": Left(
        "segtune does not import modules of a config; see the types below", changes_numbers=False
    ),
    "seed": Row("seed"),
}
# Keys with mappings of their own, whose parts are reported one by one.
MAPPED = (
    *("model", "data", "train_dataloader", "val_dataloader", "test_dataloader", "optim_wrapper"),
    *("optimizer", "optimizer_config", "fp16", "param_scheduler", "lr_config", "train_cfg"),
    *("runner", "total_epochs", "total_iters", "evaluation", "default_hooks", "custom_hooks"),
    *("load_from", "resume_from", "randomness", "auto_scale_lr", "val_evaluator", "test_cfg"),
    *("test_evaluator", "data_preprocessor", "checkpoint_config", "momentum_config"),
)
RANDOMNESS: dict[str, Rule] = {
    "seed": Row("seed"),
    "deterministic": Same("a training run of segtune follows from its seed"),
    "diff_rank_seed": Same("a training run of segtune follows from its seed"),
}
EVALUATION: dict[str, Rule] = {
    **dict.fromkeys(("pre_eval", "by_epoch", "save_best", "start", "classwise"), ENVIRONMENT),
    "metric": Fixed(("mIoU", ["mIoU"], ["mIoU", "mDice"], "mDice"), ONE_METRIC, False),
    "efficient_test": ENVIRONMENT,
}
AVERAGES = ("ExponentialMovingAverage",)


def map_rest(root: Ref) -> None:
    """Map what no other mapping knows."""
    rules = dict(TOP)
    if root.get("default_hooks") is None and root.get("checkpoint_config"):
        rules.pop("checkpoint_config")  # its parts are reported one by one
    apply(root, rules)
    _map_start(root)
    apply(root.get("randomness"), RANDOMNESS)
    apply(root.get("evaluation"), EVALUATION)
    hooks = root.get("default_hooks")
    for name, hook in hooks.parts().items() if hooks else ():
        if name != "checkpoint":
            hook.same("segtune logs and draws by itself")
    custom = root.get("custom_hooks")
    for hook in custom.items() if custom else ():
        _map_hook(hook)
    _map_evaluators(root)
    _map_loops(root)
    _map_variables(root)


def _map_start(root: Ref) -> None:
    """Map the checkpoint to start from: it is an option of `segtune train`, not a setting."""
    start = root.get("load_from")
    if start:
        start.leave(
            f"pass --init-from to segtune train, with a checkpoint of segtune, or set "
            f"model.weights to {start.plain}, which takes the encoder's weights"
        )
    resume = root.get("resume_from")
    if resume:
        resume.leave("segtune cannot resume a training run of mmseg; see load_from")


def _map_hook(hook: Ref) -> None:
    kind = hook.get("type")
    if kind is None or hook.type != "EMAHook":
        hook.leave("segtune has no such hook")
        return
    momentum = hook.value("momentum", 2e-4)
    kind.carry({"optim.ema": round(1 - momentum, 12)})
    apply(
        hook,
        {
            "momentum": Same("optim.ema is 1 - momentum"),
            "ema_type": Fixed(AVERAGES, "segtune's average is exponential"),
            "update_buffers": Fixed((False,)),
            "begin_iter": Fixed((0,)),
            "begin_epoch": Fixed((0,)),
            "strict_load": ENVIRONMENT,
            "priority": ENVIRONMENT,
        },
    )


def _map_evaluators(root: Ref) -> None:
    for name in ("val_evaluator", "test_evaluator"):
        evaluator = root.get(name)
        for metric in evaluator.items() if evaluator else ():
            if metric.type == "IoUMetric":
                metric.same(ONE_METRIC)
            else:
                metric.leave(ONE_METRIC, changes_numbers=False)


def _map_loops(root: Ref) -> None:
    """Report test_cfg and train_cfg if they hold no more than a type."""
    test = root.get("test_cfg")
    if test and test.get("mode") is None:
        test.same("segtune validates with one loop")
    train = root.get("train_cfg")
    if train and train.is_dict and not train.node.value:
        train.same("empty")


def _map_variables(root: Ref) -> None:
    """Report the variables of the file, which mmengine's runner does not read.

    A name that nearly is a key of the runner is reported as not carried over: the runner ignores
    it.
    """
    known = (*TOP, *MAPPED)
    is_new = root.get("optim_wrapper") is not None or root.get("train_dataloader") is not None
    for name, ref in root.parts().items():
        is_variable = name not in known or (
            is_new and name in ("optimizer", "optimizer_config", "data", "lr_config", "runner")
        )
        if not is_variable:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if near and name not in known and not name.endswith("_pipeline"):
            ref.leave(f"mmengine reads no {name} either; did you mean {near[0]!r}?")
        else:
            ref.same(VARIABLE)
