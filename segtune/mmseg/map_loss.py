"""mmsegmentation's losses and samplers to the settings in `loss`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segtune.mmseg.ledger import Fixed, Ref, Row, Rule, Same, apply, is_number

AUXILIARY_WEIGHT = 0.4  # of segtune's auxiliary heads
# The settings of the weights, with 0 for terms that a config of mmseg does not have.
NO_TERMS = {"loss.focal.weight": 0.0, "loss.dice.weight": 0.0, "loss.ce.weight": 0.0}
# What is not exactly the same, by type.
REMARKS = {
    "CrossEntropyLoss": "mmseg's mean counts ignored pixels as 0; segtune's leaves them out",
    "DiceLoss": "segtune leaves ignored pixels out; early versions of mmseg have a softmax loss",
}
COMMON: dict[str, Rule] = {
    "reduction": Fixed(("mean",)),
    "loss_name": Same("a name of the log"),
    "ignore_index": Row("data.ignore_index"),
}
WEIGHTED = ("CrossEntropyLoss", "FocalLoss")  # the terms with segtune's class weights
CLASS_WEIGHTS = (
    "mmseg 1.x divides cross-entropy by the sum of the weights, segtune by the number of pixels"
)
RULES: dict[str, dict[str, Rule]] = {
    "CrossEntropyLoss": {
        "use_mask": Fixed((False,)),
        "avg_non_ignore": Same("segtune's mean is over the pixels that are not ignored"),
    },
    "FocalLoss": {
        "use_sigmoid": Fixed((True,), "see loss.focal.form: softmax"),
        "gamma": Row("loss.focal.gamma", float),
        "alpha": Row("loss.focal.alpha", float),
    },
    "DiceLoss": {
        "use_sigmoid": Fixed((True,), "segtune's Dice loss has one sigmoid per class"),
        "activate": Fixed((True,)),
        "naive_dice": Fixed((False,), "segtune's Dice loss has squares in the denominator"),
        "eps": Fixed((1e-3,)),
        "smooth": Fixed((), "the Dice loss of mmseg 0.x is a softmax one; see loss.dice"),
        "exponent": Fixed((2,)),
    },
    "LovaszLoss": {
        "loss_type": Fixed(("multi_class",)),
        "classes": Fixed(("present",)),
        "per_image": Row("loss.lovasz.per_image"),
    },
    "TverskyLoss": {
        "alpha": Row("loss.tversky.alpha", float),
        "beta": Row("loss.tversky.beta", float),
        "smooth": Fixed((1,)),
    },
}
TERMS = {
    "CrossEntropyLoss": "loss.ce.weight",
    "FocalLoss": "loss.focal.weight",
    "DiceLoss": "loss.dice.weight",
    "LovaszLoss": "loss.lovasz.weight",
    "TverskyLoss": "loss.tversky.weight",
}
# mmseg's values of keys that a config leaves out, if segtune's default differs or may change.
DEFAULTS: dict[str, dict[str, object]] = {
    "FocalLoss": {"loss.focal.gamma": 2.0, "loss.focal.alpha": 0.5, "loss.focal.form": "sigmoid"},
    "DiceLoss": {"loss.dice.per_class": False},
}


def map_losses(head: Ref) -> None:
    """Map the losses of the decode head; without any, mmseg's cross-entropy."""
    loss = head.get("loss_decode")
    if loss is None:
        head.ledger.settings["loss.ce.weight"] = 1.0
    weights: dict[str, float] = {}
    terms = loss.items() if loss else []
    for term in terms:
        _map_term(term, weights)
    _map_class_weights(terms)
    _map_sampler(head)


def _map_class_weights(terms: Sequence[Ref]) -> None:
    """Map `class_weight`: segtune has one list, for cross-entropy and focal loss together."""
    weighted = [term for term in terms if term.type in WEIGHTED]
    refs = [term.get("class_weight") for term in weighted]
    lists = [ref.plain if ref else None for ref in refs]
    for ref in filter(None, refs):
        if any(weights != lists[0] for weights in lists):
            ref.leave(
                "segtune has one loss.class_weights for cross-entropy and focal loss; the terms "
                "of the config differ in theirs"
            )
        else:
            value = ref.plain
            value = [float(v) for v in value] if _are_numbers(value) else value
            ref.carry({"loss.class_weights": value}, CLASS_WEIGHTS)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def fill_loss(root: Ref) -> None:
    """Take cross-entropy if no loss of the config is one of segtune's; report it."""
    settings = root.ledger.settings
    if not any(settings.get(name) for name in TERMS.values()):
        settings["loss.ce.weight"] = 1.0
        text = "the config has none of the losses of segtune: loss.ce.weight is 1 in their place"
        root.ledger.note(text, changes_numbers=True)


def map_auxiliary_losses(head: Ref, decode_head: Ref) -> None:
    """Compare the losses of an auxiliary head with 0.4 of those of the decode head."""
    main = _weights(decode_head.get("loss_decode"))
    loss = head.get("loss_decode")
    own = _weights(loss)
    fits = main.keys() == own.keys() and all(
        math.isclose(own[kind], AUXILIARY_WEIGHT * main[kind]) for kind in main
    )
    if loss is None:
        head.ledger.note(f"{head.key}: mmseg's weight is 1 here; segtune's is {AUXILIARY_WEIGHT}")
    elif fits:
        loss.same(f"the terms of the decode head with weight {AUXILIARY_WEIGHT}")
    else:
        loss.leave(
            f"segtune's auxiliary head has the terms of the decode head with weight "
            f"{AUXILIARY_WEIGHT}"
        )


def _weights(loss: Ref | None) -> Mapping[str, float]:
    """Return {kind of loss: weight}."""
    if loss is None:
        return {"CrossEntropyLoss": 1.0}
    return {term.type: term.value("loss_weight", 1.0) for term in loss.items()}


def _map_term(ref: Ref, weights: dict[str, float]) -> None:
    """Map one term; `weights` has the weights so far, because two terms of a kind are added."""
    kind = ref.type
    if kind not in TERMS:
        ref.leave(f"segtune has no loss {kind or '(without a type)'}; see loss in docs/config.md")
        return
    rules = {**COMMON, **RULES[kind]}
    setting, factor = TERMS[kind], 1.0
    type_ref = ref.get("type")
    assert type_ref is not None
    if kind == "CrossEntropyLoss" and ref.value("use_sigmoid", False) is True:
        # Focal loss with gamma 0 and alpha 0.5 is half the binary cross-entropy.
        setting, factor = "loss.focal.weight", 2.0
        use_sigmoid = ref.get("use_sigmoid")
        assert use_sigmoid is not None
        form = {"loss.focal.gamma": 0.0, "loss.focal.alpha": 0.5, "loss.focal.form": "sigmoid"}
        use_sigmoid.carry(form)
    else:
        rules.setdefault("use_sigmoid", Fixed((False,)))
        ref.ledger.settings |= DEFAULTS.get(kind, {})
    if kind == "LovaszLoss" and ref.value("per_image", False) is False:
        # mmseg allows no other value then: the batch has one loss, and there is nothing to average.
        rules["reduction"] = Fixed(("none", "mean"))
    weight = ref.get("loss_weight")
    value = weight.plain if weight else 1.0
    if is_number(value):
        weights[setting] = weights.get(setting, 0.0) + factor * value
        remark = "" if ref.value("avg_non_ignore", False) is True else REMARKS.get(kind, "")
        type_ref.carry({setting: weights[setting]}, remark, replace=True)
    if weight:
        weight.carry({setting: weights.get(setting, weight.plain)}, replace=True)
    apply(ref, rules)


def _map_sampler(head: Ref) -> None:
    """Map OHEMPixelSampler: it counts pixels, or takes a threshold; segtune takes a fraction."""
    sampler = head.get("sampler")
    if sampler is None:
        return
    crop: Sequence[int] = head.ledger.settings.get("data.crop", (0, 0))
    min_kept = sampler.value("min_kept", 100_000)
    pixels = crop[0] * crop[1]
    share = min(1.0, min_kept / pixels) if pixels and isinstance(min_kept, int) else None
    if sampler.type != "OHEMPixelSampler" or share is None:
        sampler.leave("segtune has loss.ohem.keep, a fraction of the pixels")
    elif sampler.value("thresh", None) is None:
        remark = f"{min_kept} of {pixels} pixels of a crop; without ignored pixels, it is the same"
        sampler.carry({"loss.ohem.keep": share}, remark)
    else:
        sampler.leave(
            "segtune keeps a fraction of the pixels and has no threshold; the fewest pixels that "
            f"mmseg keeps here are loss.ohem.keep: {share:.3g}"
        )
