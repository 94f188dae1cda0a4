"""Laws of the mapping of schedules and optimisers: the clocks, the defaults, the head's rate."""

from pathlib import Path

import pytest
from changed_config import changed, left, whole

from segtune.mmseg.convert import as_yaml, changes_numbers
from segtune.mmseg.ledger import Ledger

OLD = """
data = dict(samples_per_gpu=4, train=dict(type='RepeatDataset', times=50, dataset=dict(
    type='PascalVOCDataset', data_root='voc', split='ImageSets/Segmentation/train.txt')))
runner = dict(type='EpochBasedRunner', max_epochs=100)
optimizer = dict(type='SGD', lr=0.01{optimizer})
lr_config = dict(policy='poly', power=0.9{policy})
"""


def old(tmp_path: Path, policy: str, optimizer: str = "") -> Ledger:
    """Convert a config of mmseg 0.x with a data set that is repeated 50 times."""
    return whole(tmp_path, OLD.format(policy=policy, optimizer=optimizer))


def schedule(tmp_path: Path, *items: str, more: str = "") -> Ledger:
    """Convert a config of 200 epochs with these schedulers."""
    text = ", ".join(f"dict({item})" for item in items)
    return changed(tmp_path, "segformer_b2_v1_ce", f"param_scheduler = [{text}]\n{more}")


def test_a_warmup_in_epochs_of_a_repeated_data_set_is_longer_in_epochs_of_segtune(
    tmp_path: Path,
) -> None:
    text = ", by_epoch=False, warmup='linear', warmup_iters=5, warmup_by_epoch=True"
    settings = old(tmp_path, text).settings
    assert (settings["schedule.epochs"], settings["schedule.warmup_epochs"]) == (5000, 250)


def test_the_warmup_of_mmcv_counts_steps_even_if_the_schedule_counts_epochs(
    tmp_path: Path,
) -> None:
    text = ", by_epoch=True, warmup='linear', warmup_iters=5, warmup_by_epoch=True"
    ledger = old(tmp_path, text)
    assert ledger.settings["schedule.by"] == "step"
    assert any("once per epoch after the warmup" in note for note in ledger.notes)
    assert ledger.notes_change_numbers


def test_without_a_warmup_the_schedule_of_mmcv_counts_epochs(tmp_path: Path) -> None:
    ledger = old(tmp_path, ", by_epoch=True")
    assert ledger.settings["schedule.by"] == "epoch"
    assert not any("changes at every step" in note for note in ledger.notes)


def test_a_constant_rate_of_mmcv_with_by_epoch_changes_nothing(tmp_path: Path) -> None:
    text = OLD.replace("policy='poly', power=0.9{policy}", "policy='fixed', by_epoch=False")
    ledger = whole(tmp_path, text.format(optimizer=""))
    assert ledger.entries["lr_config.by_epoch"].group == "same"


@pytest.mark.parametrize("size", ["'many'", "0", "-1", "2.5"])
def test_a_batch_size_that_is_no_number_is_not_carried_over(tmp_path: Path, size: str) -> None:
    text = f"train_dataloader = dict(batch_size={size})"
    ledger = changed(tmp_path, "segformer_b2_v1_ce", text)
    assert "whole number from 1" in left(ledger, "train_dataloader.batch_size")


MULTIPLIED = ", paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.)})"


def test_min_lr_with_a_multiple_for_the_head_is_reported(tmp_path: Path) -> None:
    ledger = old(tmp_path, ", min_lr=1e-4, by_epoch=False", MULTIPLIED)
    assert "optim.head_lr_mult times" in left(ledger, "lr_config.min_lr")
    assert ledger.settings["schedule.eta_min"] == 1e-4


@pytest.mark.parametrize("min_lr, optimizer", [("1e-4", ""), ("0", MULTIPLIED)])
def test_min_lr_without_a_multiple_or_0_is_carried_over(
    tmp_path: Path, min_lr: str, optimizer: str
) -> None:
    ledger = old(tmp_path, f", min_lr={min_lr}, by_epoch=False", optimizer)
    assert ledger.entries["lr_config.min_lr"].group == "carried"


WARMUP = "type='LinearLR', by_epoch=True, begin=0, end=5"
CONVERTED = f"{WARMUP}, convert_to_iter_based=True"
POLY = "type='PolyLR', by_epoch=True, begin=5, end=200"


@pytest.mark.parametrize(
    "warmup, poly, by, where",
    [
        (WARMUP, POLY, "epoch", None),
        (CONVERTED, f"{POLY}, convert_to_iter_based=True", "step", None),
        (CONVERTED, POLY, "step", "after the warmup"),
        (WARMUP, f"{POLY}, convert_to_iter_based=True", "step", "in the warmup"),
    ],
)
def test_warmup_and_schedule_share_one_clock_and_another_one_is_reported(
    tmp_path: Path, warmup: str, poly: str, by: str, where: str | None
) -> None:
    ledger = schedule(tmp_path, warmup, poly)
    assert ledger.settings["schedule.by"] == by
    assert ledger.settings["schedule.warmup_epochs"] == 5
    assert [note for note in ledger.notes if "changes at every step" in note] == [
        note for note in ledger.notes if where and note.endswith(f"once per epoch {where}")
    ]
    assert ledger.notes_change_numbers == (where is not None)


@pytest.mark.parametrize("warmup, by", [(WARMUP, "epoch"), (CONVERTED, "step")])
def test_a_warmup_alone_has_its_own_clock(tmp_path: Path, warmup: str, by: str) -> None:
    settings = schedule(tmp_path, warmup).settings
    assert (settings["schedule.by"], settings["schedule.poly_power"]) == (by, 0.0)


def test_a_warmup_without_an_end_is_not_carried_over(tmp_path: Path) -> None:
    ledger = schedule(tmp_path, "type='LinearLR', start_factor=0.1", "type='PolyLR', end=200")
    assert "without an `end`" in left(ledger, "param_scheduler[0]")
    assert not any("None" in note for note in ledger.notes)
    assert "schedule.warmup_start" not in ledger.settings
    assert changes_numbers(ledger)


def test_a_loader_without_a_batch_size_has_one_image_per_gpu(tmp_path: Path) -> None:
    text = "train_dataloader = dict(dataset=dict(type='PascalVOCDataset', data_root='voc'))"
    ledger = whole(tmp_path, text, gpus=2)
    assert ledger.settings["schedule.batch_size"] == 2
    assert any("has no batch_size" in note for note in ledger.notes)


LOOP = "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=20000)"


def test_a_loop_of_iterations_without_val_interval_validates_every_1000(tmp_path: Path) -> None:
    # 12,046 images of VOC and SBD, 18 in a batch: 669 iterations in an epoch.
    ledger = schedule(tmp_path, "type='PolyLR', by_epoch=False, end=20000", more=LOOP)
    assert ledger.settings["schedule.val_every"] == 2
    assert any("validates every 1000 iterations" in note for note in ledger.notes)
    as_yaml(ledger, "cfg.py")


def test_layer_decay_of_mmseg_spares_norms_as_segtune_does(tmp_path: Path) -> None:
    text = (
        "optim_wrapper = dict(constructor='LearningRateDecayOptimizerConstructor', "
        "paramwise_cfg=dict(_delete_=True, num_layers=12, decay_rate=0.9, "
        "decay_type='layer_wise'))"
    )
    notes = changed(tmp_path, "segformer_b2_v1_ce", text).notes
    assert not any("never decays" in note for note in notes)
    plain = "optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))"
    notes = changed(tmp_path, "segformer_b2_v1_ce", plain).notes
    assert any("never decays norms" in note for note in notes)


@pytest.mark.parametrize("number", ["1" + 400 * "0", "1e999", "-1e999"])
@pytest.mark.parametrize(
    "text",
    [
        "train_cfg = dict(max_epochs={0}, val_interval={0})",
        "train_dataloader = dict(batch_size={0})",
        "optim_wrapper = dict(optimizer=dict(lr={0}), clip_grad=dict(max_norm={0}))",
        "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{'head': dict(lr_mult={0})}}))",
        "param_scheduler = [dict(type='PolyLR', end={0}, eta_min={0})]",
        "model = dict(decode_head=dict(loss_decode=dict(type='DiceLoss', loss_weight={0})))",
        "model = dict(backbone=dict(embed_dims={0}, drop_path_rate={0}))",
    ],
)
def test_a_number_that_a_float_cannot_hold_is_not_carried_over(
    tmp_path: Path, text: str, number: str
) -> None:
    code = text.format(number).replace("loss_decode=dict(", "loss_decode=dict(_delete_=True, ")
    assert changes_numbers(changed(tmp_path, "segformer_b2_v1_ce", code))
