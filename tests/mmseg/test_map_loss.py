"""Laws of the mapping of losses: class weights of several terms, and Lovasz over the batch."""

from pathlib import Path

import pytest
from changed_config import changed, left

from segtune.mmseg.convert import changes_numbers
from segtune.mmseg.ledger import Ledger

KEY = "model.decode_head.loss_decode"


def loss(tmp_path: Path, text: str) -> Ledger:
    """Convert the experiment with these terms as its loss."""
    code = f"loss = {text}\nmodel = dict(decode_head=dict(loss_decode=loss))"
    return changed(tmp_path, "segformer_b2_v2_final", code)


@pytest.mark.parametrize("other", ["", ", class_weight=[3.0] * 21", ", class_weight=None"])
def test_class_weights_that_differ_between_terms_are_not_carried_over(
    tmp_path: Path, other: str
) -> None:
    text = f"[dict(type='FocalLoss'{other}), dict(type='CrossEntropyLoss', class_weight=[1, 2])]"
    ledger = loss(tmp_path, text)
    assert "the terms of the config differ" in left(ledger, f"{KEY}[1].class_weight")
    assert "loss.class_weights" not in ledger.settings
    assert changes_numbers(ledger)


@pytest.mark.parametrize(
    "other", ["DiceLoss", "LovaszLoss", "FocalLoss', class_weight=[1, 2.0], r='"]
)
def test_class_weights_of_all_terms_that_have_them_are_carried_over(
    tmp_path: Path, other: str
) -> None:
    text = f"[dict(type='CrossEntropyLoss', class_weight=[1, 2]), dict(type='{other}')]"
    ledger = loss(tmp_path, text)
    assert ledger.settings["loss.class_weights"] == [1.0, 2.0]
    assert ledger.entries[f"{KEY}[0].class_weight"].group == "carried"


def test_class_weights_that_are_a_file_are_not_carried_over(tmp_path: Path) -> None:
    ledger = loss(tmp_path, "[dict(type='CrossEntropyLoss', class_weight='weights.npy')]")
    assert "weights.npy" in left(ledger, f"{KEY}[0].class_weight")


def test_class_weights_that_are_not_known_are_not_carried_over(tmp_path: Path) -> None:
    ledger = loss(tmp_path, "[dict(type='CrossEntropyLoss', class_weight=weights())]")
    assert left(ledger, f"{KEY}[0].class_weight").count("weights()") == 1


@pytest.mark.parametrize(
    "keys, group",
    [
        ("per_image=False, reduction='none'", "same"),
        ("reduction='none'", "same"),
        ("per_image=True, reduction='none'", "left"),
        ("per_image=True, reduction='mean'", "same"),
        ("per_image=False, reduction='sum'", "left"),
    ],
)
def test_lovasz_over_the_batch_needs_no_reduction(tmp_path: Path, keys: str, group: str) -> None:
    ledger = loss(tmp_path, f"[dict(type='CrossEntropyLoss'), dict(type='LovaszLoss', {keys})]")
    assert ledger.entries[f"{KEY}[1].reduction"].group == group
