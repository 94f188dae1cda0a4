"""mmsegmentation's optimiser, gradient clipping and precision to the settings in `optim`."""

from __future__ import annotations

from typing import Any

from segtune.mmseg.ledger import Fixed, Left, Ref, Row, Rule, Same, apply, is_number

# torch's defaults by type: name in segtune, weight decay, learning rate.
OPTIMISERS = {
    "AdamW": ("adamw", 0.01, 1e-3),
    "Adam": ("adamw", 0.0, 1e-3),
    "SGD": ("sgd", 0.0, 1e-3),
}
OPTIMISER_RULES: dict[str, Rule] = {
    "eps": Fixed((1e-8,)),
    "amsgrad": Fixed((False,)),
    "nesterov": Fixed((False,)),
    "dampening": Fixed((0,)),
    "foreach": Same("speed only"),
    "fused": Same("speed only"),
}
# Parts of the names of parameters that segtune never decays.
UNDECAYED = ("norm", "bn", "ln", "gn", "pos", "relative_position_bias", "cls_token", "bias")
HEADS = ("decode_head", "head")
UNDECAYED_REASON = "segtune never decays norms, biases and position embeddings"
WRAPPERS = {"OptimWrapper": "fp32", "AmpOptimWrapper": "fp16"}
LAYER_DECAY = (
    "LearningRateDecayOptimizerConstructor",
    "LayerDecayOptimizerConstructor",
)
PARAMWISE: dict[str, Rule] = {
    "norm_decay_mult": Fixed((0,), UNDECAYED_REASON),
    "bias_decay_mult": Fixed((0,), UNDECAYED_REASON),
    "bias_lr_mult": Fixed((1,)),
    "dwconv_decay_mult": Fixed((1,)),
    "flat_decay_mult": Fixed((1,)),
    "bypass_duplicate": Same("a parameter has one place in segtune"),
    "num_layers": Same("segtune counts the layers of the encoder"),
    "decay_type": Fixed(("layer_wise",)),
    "decay_rate": Row("optim.layer_decay"),
    "layer_decay_rate": Row("optim.layer_decay"),
}


def map_optimiser(root: Ref) -> None:
    """Map the optimiser of mmseg 1.x (`optim_wrapper`) or 0.x (`optimizer`)."""
    settings = root.ledger.settings
    settings |= {"optim.head_lr_mult": 1.0, "optim.precision": "fp32"}
    wrapper = root.get("optim_wrapper")
    if wrapper:
        _map_wrapper(wrapper)
    else:
        _map_old_wrapper(root)
    owner = wrapper or root
    optimiser = owner.get("optimizer")
    if optimiser is None or not optimiser.is_dict:
        root.ledger.note(
            "the config has no optimiser: set optim.name and optim.lr", changes_numbers=True
        )
        return
    _map_type(optimiser)
    apply(optimiser, OPTIMISER_RULES)
    if wrapper is None:
        _map_constructor(optimiser)
    paramwise = owner.get("paramwise_cfg") or optimiser.get("paramwise_cfg")
    _map_paramwise(paramwise, wrapper or optimiser, root)


def _map_wrapper(wrapper: Ref) -> None:
    kind = wrapper.get("type")
    dtype = wrapper.get("dtype")
    precision = WRAPPERS.get(wrapper.type or "OptimWrapper")
    if kind and precision:
        kind.carry({"optim.precision": precision})
    elif kind:
        kind.leave("segtune has one optimiser")
    if dtype and precision != "fp32":
        by_name = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
        value = by_name.get(str(dtype.plain), dtype.plain)
        dtype.carry({"optim.precision": value}, replace=True)
    apply(
        wrapper,
        {
            "loss_scale": Left("segtune's loss scale is dynamic", changes_numbers=False)
            if wrapper.value("loss_scale", "dynamic") != "dynamic"
            else Same("segtune's loss scale is dynamic"),
            "accumulative_counts": Row("schedule.accumulate"),
        },
    )
    _map_constructor(wrapper)
    _map_clipping(wrapper.get("clip_grad"))


def _map_constructor(owner: Ref) -> None:
    kind = owner.get("constructor")
    if kind is None:
        return
    if kind.plain in LAYER_DECAY or kind.plain == "DefaultOptimWrapperConstructor":
        kind.same("groups of parameters; see optim.layer_decay")
    else:
        kind.leave("segtune has its own groups of parameters: head, and layers of the encoder")


def _map_old_wrapper(root: Ref) -> None:
    """Map `optimizer_config` and `fp16` of mmseg 0.x."""
    hook = root.get("optimizer_config")
    if hook:
        kind = hook.get("type")
        if kind and hook.type == "Fp16OptimizerHook":
            kind.carry({"optim.precision": "fp16"})
        elif kind:
            kind.same("segtune's optimiser step")
        _map_clipping(hook.get("grad_clip"))
        apply(
            hook,
            {
                "cumulative_iters": Row("schedule.accumulate"),
                "loss_scale": Left("segtune's loss scale is dynamic", changes_numbers=False),
            },
        )
        if not hook.node.value:
            hook.same("empty")
    fp16 = root.get("fp16")
    if fp16:
        fp16.carry({"optim.precision": "fp16"})


def _map_clipping(clipping: Ref | None) -> None:
    apply(clipping, {"max_norm": Row("optim.clip_norm", float), "norm_type": Fixed((2,))})


def _map_type(optimiser: Ref) -> None:
    """Map type, lr, betas or momentum, and weight decay."""
    settings = optimiser.ledger.settings
    kind = optimiser.get("type")
    if kind is None or optimiser.type not in OPTIMISERS:
        if kind:
            kind.leave(f"segtune has {', '.join(OPTIMISERS)}")
        return
    name, decay, lr = OPTIMISERS[optimiser.type]
    kind.carry({"optim.name": name})
    settings |= {"optim.weight_decay": decay, "optim.lr": lr}
    if name == "sgd":
        settings["optim.betas"] = [0.0, 0.999]
    apply(
        optimiser,
        {
            "lr": Row("optim.lr", float),
            "weight_decay": Row("optim.weight_decay", float),
            "betas": Row("optim.betas", lambda betas: [float(beta) for beta in betas]),
            "momentum": Row("optim.betas", lambda momentum: [float(momentum), 0.999]),
        },
    )
    if optimiser.type == "Adam" and settings["optim.weight_decay"]:
        kind.leave("segtune decays weights as AdamW does, apart from the gradient")


def _map_paramwise(paramwise: Ref | None, groups: Ref, root: Ref) -> None:
    """Map `paramwise_cfg`; `groups` also has its constructor.

    mmengine takes the longest custom key that is a part of a parameter's name.
    """
    apply(paramwise, PARAMWISE)
    keys = paramwise.get("custom_keys") if paramwise else None
    parts = keys.parts() if keys else {}
    heads = [name for name in sorted(parts, key=len, reverse=True) if name in HEADS]
    for name, rule in parts.items():
        if not rule.is_dict:
            rule.leave("expected dict(lr_mult=…, decay_mult=…)")
        elif name in HEADS and name != heads[0]:
            rule.leave(f"the longer key {heads[0]} is in force for the decode head")
        elif name in HEADS:
            _map_head_rule(rule)
        elif name == "backbone":
            _map_backbone_rule(rule)
        else:
            _map_custom_rule(name, rule)
    constructor = groups.get("constructor")
    is_by_layer = constructor is not None and constructor.plain in LAYER_DECAY
    # mmseg's constructors with layer decay never decay norms and biases, as segtune.
    if root.ledger.settings.get("optim.weight_decay") and not is_by_layer:
        _note_what_is_decayed(root, list(parts), paramwise)


def _note_what_is_decayed(root: Ref, keys: list[str], paramwise: Ref | None) -> None:
    """Note if mmseg decays parameters that segtune does not: it decays all by default."""
    has_norm_rule = any(name.startswith(("norm", "bn")) for name in keys)
    if not has_norm_rule and not (paramwise and paramwise.get("norm_decay_mult")):
        root.ledger.note(f"{UNDECAYED_REASON}; mmseg decays them here")
    elif not (paramwise and paramwise.get("bias_decay_mult")):
        root.ledger.note("segtune never decays biases; mmseg decays them here, except in norms")


def _map_head_rule(rule: Ref) -> None:
    lr_mult = rule.get("lr_mult")
    settings = rule.ledger.settings
    if lr_mult and is_number(lr_mult.plain):
        value = settings["optim.head_lr_mult"] * lr_mult.plain
        lr_mult.carry({"optim.head_lr_mult": value}, replace=True)
    apply(rule, {"decay_mult": Fixed((1,), "segtune decays the head like the encoder")})


def _map_backbone_rule(rule: Ref) -> None:
    """Map a factor of the backbone: optim.lr is the encoder's, and the head's is a multiple."""
    settings: dict[str, Any] = rule.ledger.settings
    lr_mult = rule.get("lr_mult")
    if lr_mult and is_number(lr_mult.plain) and lr_mult.plain > 0:
        factor = float(lr_mult.plain)
        lr_mult.carry(
            {
                "optim.lr": settings["optim.lr"] * factor,
                "optim.head_lr_mult": settings["optim.head_lr_mult"] / factor,
            },
            replace=True,
        )
    elif lr_mult:
        lr_mult.leave("segtune trains all parameters of the encoder")
    apply(rule, {"decay_mult": Fixed((1,), "segtune decays the head like the encoder")})


def _map_custom_rule(name: str, rule: Ref) -> None:
    """Map a rule for parameters with `name` in their names."""
    is_undecayed = any(part in name for part in UNDECAYED)
    reason = f"segtune has no rule for the parameters with {name!r} in their names"
    allowed = (0,) if is_undecayed else (1,)
    apply(
        rule,
        {
            "decay_mult": Fixed(allowed, UNDECAYED_REASON if is_undecayed else reason),
            "lr_mult": Fixed((1,), reason),
        },
    )
