"""Laws of the mapping: the values of real experiments, mmseg's traps, every key in one group."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from changed_config import CONFIGS, changed

from segtune.config.schema import ExperimentConfig
from segtune.mmseg.convert import as_yaml, changes_numbers, convert, nested, report
from segtune.mmseg.ledger import Ledger
from segtune.mmseg.nodes import leaves
from segtune.mmseg.reader import read_mmseg_config

EXPERIMENTS = sorted(path.stem for path in CONFIGS.glob("*.py"))

SGD = {
    "optim.name": "sgd",
    "optim.betas": [0.9, 0.999],
    "optim.weight_decay": 5e-4,
    "optim.head_lr_mult": 1.0,
    "schedule.epochs": 200,
    "schedule.warmup_epochs": 0.0,
    "schedule.poly_power": 0.9,
    "schedule.eta_min": 1e-4,
    "schedule.by": "epoch",
    "data.resize": [2048, 512],
    "data.crop": [512, 512],
    "augment.photometric": False,
    "loss.ce.weight": 1.0,
    "loss.focal.weight": 0.0,
    "loss.dice.weight": 0.0,
}
UPERNET = {
    **SGD,
    "model.name": "upernet",
    "model.encoder": "resnet50c",
    "model.weights": "timm",
    "model.decoder_channels": 512,
    "model.drop_path": 0.0,
    "model.sync_norms": True,
}
SEGFORMER = {
    "data.layout": "voc",
    "data.train": ["train", "aug"],
    "data.classes": "voc",
    "data.crop": [512, 512],
    "model.name": "segformer",
    "model.encoder": "mit_b2",
    "model.weights": "nvidia/mit-b2",
    "model.decoder_channels": 256,
    "model.drop_path": 0.1,
    "optim.name": "adamw",
    "optim.lr": 6e-5,
    "optim.weight_decay": 0.01,
    "optim.head_lr_mult": 10.0,
    "optim.precision": "fp32",
    "schedule.epochs": 200,
    "schedule.batch_size": 18,
    "schedule.warmup_epochs": 15,
    "schedule.warmup_start": 1e-6,
    "schedule.poly_power": 1.0,
    "schedule.eta_min": 0.0,
    "schedule.by": "step",
    "schedule.val_every": 10,
}
FOCAL = {"loss.focal.weight": 1.0, "loss.focal.gamma": 2.0, "loss.focal.alpha": 0.5}
V2 = {**SEGFORMER, **FOCAL, "augment.photometric": True, "loss.ce.weight": 0.0}
ADE = {
    **V2,
    "data.layout": "ade20k",
    "data.train": ["train"],
    "data.classes": "ade20k",
    "data.reduce_zero_label": True,
    "optim.lr": 6e-6,
    "schedule.batch_size": 6,
    "loss.focal.weight": 0.7,
    "loss.dice.weight": 1.3,
    "augment.cutout.prob": 0.5,
    "augment.cutout.holes": [1, 3],
    "augment.cutout.size": [0.02, 0.2],
}
ADE_12 = {
    **ADE,
    "loss.focal.weight": 0.5,
    "loss.dice.weight": 1.0,
    "optim.precision": "fp16",
    "optim.clip_norm": 10.0,
    "optim.lr": 3e-5,
}
CELLS = {"data.classes": ["_background_", "cell"], "data.masks": "SegmentationClassPNG"}
# Number of GPUs, and what the experiment has.
EXPECTED: dict[str, tuple[int, dict[str, Any]]] = {
    "upernet_r50_voc12": (
        1,
        {**UPERNET, "optim.lr": 0.01, "schedule.batch_size": 16, "schedule.val_every": 10},
    ),
    "upernet_r50_voc12_sbd": (
        2,
        {
            **UPERNET,
            "optim.lr": 0.005,
            "schedule.batch_size": 8,
            "schedule.val_every": 1,
            "data.train": ["train", "aug"],
            "data.masks": "SegmentationClassAug",
        },
    ),
    "segformer_b2_v1_ce": (
        1,
        {
            **SEGFORMER,
            "loss.ce.weight": 1.0,
            "loss.focal.weight": 0.0,
            "augment.photometric": False,
        },
    ),
    "segformer_b2_v2_first": (1, {**V2, "loss.dice.weight": 0.0}),
    "segformer_b2_v2_final": (1, {**V2, "loss.dice.weight": 1.0}),
    "segformer_b2_v3": (
        1,
        {
            **V2,
            "loss.dice.weight": 1.0,
            "optim.lr": 6e-6,
            "schedule.warmup_epochs": 20,
            "schedule.warmup_start": 1e-7,
            "seed": 42,
        },
    ),
    "segformer_b2_ade_v1": (2, ADE),
    "segformer_b2_ade_v1_1": (2, {**ADE, "data.crop": [480, 480], "optim.lr": 6e-5}),
    "segformer_b2_ade_v1_2": (2, ADE_12),
    "segformer_b2_ade_v1_3": (
        2,
        {
            **ADE_12,
            "optim.clip_norm": 2.0,
            "optim.lr": 2e-5,
            "optim.head_lr_mult": 3.0,
            "schedule.warmup_start": 5e-7,
        },
    ),
    "upernet_r50_cells": (
        1,
        {
            **CELLS,
            "data.layout": "voc",
            "data.crop": [480, 480],
            "schedule.steps": 20000,
            "val.mode": "slide",
            "val.window": [480, 480],
            "val.stride": [320, 320],
        },
    ),
    "deeplabv3plus_r50_voc12": (
        1,
        {**SGD, "optim.lr": 0.004, "data.crop": [480, 480], "augment.photometric": True},
    ),
    "fcn_unet_s5_cells_old": (
        1,
        {
            "data.layout": "folder",
            "data.images": "images",
            "data.masks": "annotations",
            "data.train": ["training"],
            "data.val": "validation",
            "data.mask_suffix": "_manual.png",
            "data.classes": ["background", "cell"],
            "data.resize": [700, 605],
            "data.crop": [128, 128],
            "optim.lr": 0.01,
            "schedule.batch_size": 4,
            "schedule.poly_power": 0.9,
            "schedule.eta_min": 1e-4,
            "schedule.warmup_start": 1e-6,
            "schedule.steps": 40000,
            "schedule.warmup_steps": 1500,
            "val.window": [128, 128],
            "val.stride": [85, 85],
        },
    ),
    "vit_fpn_cells": (
        1,
        {
            **CELLS,
            **FOCAL,
            "loss.ce.weight": 0.0,
            "optim.name": "adamw",
            "optim.lr": 0.01,
            "optim.weight_decay": 0.0,
            "schedule.epochs": 100,
            "schedule.val_every": 5,
            "val.window": [96, 96],
            "val.stride": [42, 42],
        },
    ),
}


def imported(name: str, gpus: int = 1, images: int | None = None) -> Ledger:
    return convert(read_mmseg_config(CONFIGS / f"{name}.py"), gpus, images)


def test_every_experiment_has_expected_values() -> None:
    assert set(EXPECTED) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_has_the_values_of_its_config(name: str) -> None:
    gpus, expected = EXPECTED[name]
    text = as_yaml(imported(name, gpus), name)
    config = ExperimentConfig.parse(yaml.safe_load(text))
    assert {setting: config.get(setting) for setting in expected} == expected


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_leaf_of_the_source_is_in_one_group(name: str) -> None:
    source = read_mmseg_config(CONFIGS / f"{name}.py")
    entries = convert(source).entries
    keys = [key for key, _ in leaves(source.root)]
    for key in keys:
        parents = {key[: match.start()] for match in re.finditer(r"[.\[]", key)} | {key}
        groups = {entries[parent].group for parent in parents if parent in entries}
        assert len(groups) == 1, (key, groups)
    assert len(keys) > 80
    phantoms = {k for k in entries if not any(f"{leaf}.".startswith(k) for leaf in keys)}
    assert phantoms == set()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_report_has_the_place_of_each_key_that_is_not_carried_over(name: str) -> None:
    ledger = imported(name)
    lines = [line for line in report(ledger) if line.startswith("not carried over: ")]
    assert len(lines) == len(ledger.of_group("left"))
    for line in lines:
        found = re.match(r"not carried over: (\S+) \((.+):(\d+)\): .", line)
        assert found
        assert Path(found[2]).is_file()


def test_an_unknown_key_is_reported_and_changes_the_numbers(tmp_path: Path) -> None:
    ledger = changed(
        tmp_path,
        "segformer_b2_v2_final",
        "model = dict(backbone=dict(new_thing=3))\noptim_wraper = dict(lr=1)",
    )
    assert ledger.entries["model.backbone.new_thing"].group == "left"
    assert "did you mean 'optim_wrapper'?" in ledger.entries["optim_wraper"].text
    assert changes_numbers(ledger)


def test_keys_of_an_unknown_encoder_have_its_reason_and_the_weights_are_kept(
    tmp_path: Path,
) -> None:
    text = (
        "model = dict(pretrained=None, backbone=dict(_delete_=True, type='MPViT', width=64, "
        "init_cfg=dict(type='Pretrained', checkpoint='mpvit.pth')))"
    )
    ledger = changed(tmp_path, "upernet_r50_voc12", text)
    assert "no such encoder" in ledger.entries["model.backbone.width"].text
    assert ledger.entries["model.backbone.init_cfg.checkpoint"].group == "carried"
    assert ledger.entries["model.decode_head.type"].text == 'model.name: "upernet"'


def test_an_optimiser_beside_the_wrapper_is_a_variable(tmp_path: Path) -> None:
    text = "optimizer = dict(type='SGD', lr=1.0)"
    ledger = changed(tmp_path, "segformer_b2_v1_ce", text)
    assert ledger.entries["optimizer"].group == "same"
    assert ledger.settings["optim.lr"] == 6e-5


def test_without_a_known_loss_cross_entropy_is_taken_and_reported(tmp_path: Path) -> None:
    text = "model = dict(decode_head=[dict(type='FCNHead'), dict(type='OCRHead')])"
    ledger = changed(tmp_path, "upernet_r50_voc12", f"{text}")
    assert ledger.settings["loss.ce.weight"] == 1.0
    assert any("none of the losses" in note for note in ledger.notes)


def test_segformer_v2_is_carried_over_completely() -> None:
    ledger = imported("segformer_b2_v2_final")
    assert ledger.of_group("left") == [] or "schedule.by" in ledger.of_group("left")[0].text
    assert not changes_numbers(ledger)


def test_a_value_that_is_not_known_is_reported_with_its_line(tmp_path: Path) -> None:
    ledger = changed(
        tmp_path, "segformer_b2_v1_ce", "optim_wrapper = dict(optimizer=dict(lr=find_lr()))"
    )
    entry = ledger.entries["optim_wrapper.optimizer.lr"]
    assert (entry.group, entry.place.line) == ("left", 2)
    assert "find_lr()" in entry.text


PIPELINE = """
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    {}
    dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
"""


@pytest.mark.parametrize(
    "transform, expected",
    [
        (
            "dict(type='RandomResize', scale=(512, 2048), ratio_range=(0.5, 2), keep_ratio=True),",
            {"data.resize": [2048, 512], "augment.ratio": [0.5, 2.0], "augment.flip": 0.0},
        ),
        ("dict(type='Resize', scale=512, keep_ratio=True),", {"data.resize": [512, 512]}),
        ("dict(type='RandomCrop', crop_size=(128, 256)),", {"data.crop": [128, 256]}),
        ("dict(type='RandomCrop', crop_size=96),", {"augment.cat_max_ratio": 1.0}),
        ("dict(type='RandomFlip', prob=0.3),", {"augment.flip": 0.3}),
        (
            "dict(type='RandomCutOut', prob=1, n_holes=2, cutout_ratio=(0.1, 0.3)),",
            {"augment.cutout.holes": [2, 2], "augment.cutout.size": [0.1, 0.3]},
        ),
        (
            "dict(type='RandomRotate', prob=0.5, degree=20),",
            {"augment.rotate.prob": 0.5, "augment.rotate.degree": [-20.0, 20.0]},
        ),
        (
            "dict(type='RandomChoiceResize', scales=[512, 1024, 256], max_size=2048, "
            "resize_type='ResizeShortestEdge'),",
            {"augment.scales": [1.0, 2.0, 0.5], "data.resize": [2048, 512]},
        ),
    ],
)
def test_transform_has_these_settings(
    tmp_path: Path, transform: str, expected: dict[str, Any]
) -> None:
    settings = changed(tmp_path, "upernet_r50_voc12", PIPELINE.format(transform)).settings
    known = {name: value for name, value in expected.items() if name in ExperimentConfig.names()}
    assert {name: settings[name] for name in known} == known


@pytest.mark.parametrize(
    "transform, key",
    [
        ("dict(type='RandomResize', scale=(2048, 512)),", "[2].scale"),
        ("dict(type='RandomResize', scale=(2048, 512), keep_ratio=False),", "[2].keep_ratio"),
        ("dict(type='RandomFlip', prob=0.5, direction='vertical'),", "[2].direction"),
        ("dict(type='PhotoMetricDistortion', hue_delta=9),", "[2].hue_delta"),
        ("dict(type='RandomMosaic', prob=0.5),", "[2]"),
        ("dict(type='RandomCutOut', prob=0.5, cutout_shape=(9, 9)),", "[2].cutout_shape"),
    ],
)
def test_what_a_transform_does_otherwise_is_not_carried_over(
    tmp_path: Path, transform: str, key: str
) -> None:
    ledger = changed(tmp_path, "upernet_r50_voc12", PIPELINE.format(transform))
    entry = ledger.entries[f"train_dataloader.dataset.pipeline{key}"]
    assert (entry.group, entry.changes_numbers) == ("left", True)


def test_a_config_without_resize_and_crop_is_reported(tmp_path: Path) -> None:
    ledger = changed(
        tmp_path,
        "segformer_b2_ade_v1",
        PIPELINE.format("")[:-1] + "\nval_dataloader"
        " = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile')]))",
    )
    assert [note[:31] for note in ledger.notes][:2] == [
        "the config does not resize: set",
        "the config does not crop: data.",
    ]
    assert changes_numbers(ledger)


def test_a_second_pipeline_that_differs_is_not_carried_over(tmp_path: Path) -> None:
    text = (
        "first = _base_.dataset_train\nsecond = _base_.dataset_aug.copy()\n"
        "second.pipeline[3].crop_size = (64, 64)\n"
        "train_dataloader = dict(dataset=dict(datasets=[first, second]))"
    )
    ledger = changed(tmp_path, "segformer_b2_v1_ce", text)
    entry = ledger.entries["train_dataloader.dataset.datasets[1].pipeline"]
    assert entry.group == "left"
    assert ledger.settings["data.crop"] == [512, 512]


def test_reduce_zero_label_follows_from_the_type_of_the_data_set(tmp_path: Path) -> None:
    text = "p = _base_.train_pipeline\np[1].pop('reduce_zero_label')\nt = _base_.test_pipeline\n"
    text += "t[2].pop('reduce_zero_label')\n"
    text += "train_dataloader = dict(dataset=dict(pipeline=p))\n"
    text += "val_dataloader = dict(dataset=dict(pipeline=t))\n"
    ledger = changed(tmp_path, "segformer_b2_ade_v1", text)
    assert ledger.settings["data.reduce_zero_label"] is True
    off = text + "train_dataloader = dict(dataset=dict(pipeline=p, reduce_zero_label=False))"
    ledger = changed(tmp_path, "segformer_b2_ade_v1", off)
    assert ledger.settings["data.reduce_zero_label"] is False


def loss(tmp_path: Path, text: str) -> Ledger:
    code = f"loss = {text}\nmodel = dict(decode_head=dict(loss_decode=loss))"
    return changed(tmp_path, "segformer_b2_v2_final", code)


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "[dict(type='CrossEntropyLoss', loss_weight=0.5, class_weight=[1, 2]),"
            " dict(type='FocalLoss', gamma=1, class_weight=[1, 2])]",
            {"loss.ce.weight": 0.5, "loss.class_weights": [1.0, 2.0], "loss.focal.gamma": 1.0},
        ),
        (
            # Binary cross-entropy is twice the focal loss with gamma 0 and alpha 0.5.
            "[dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5)]",
            {"loss.focal.weight": 1.0, "loss.focal.gamma": 0.0, "loss.focal.alpha": 0.5},
        ),
        (
            "[dict(type='DiceLoss'), dict(type='DiceLoss', loss_weight=2)]",
            {"loss.dice.weight": 3.0},
        ),
        (
            "[dict(type='CrossEntropyLoss'), dict(type='LovaszLoss', per_image=False)]",
            {"loss.lovasz.weight": 1.0, "loss.lovasz.per_image": False},
        ),
        (
            "[dict(type='CrossEntropyLoss'), dict(type='TverskyLoss', alpha=0.4, beta=0.6)]",
            {"loss.tversky.weight": 1.0, "loss.tversky.alpha": 0.4, "loss.tversky.beta": 0.6},
        ),
    ],
)
def test_loss_has_these_settings(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    settings = loss(tmp_path, text).settings
    known = {name: value for name, value in expected.items() if name in ExperimentConfig.names()}
    assert {name: settings[name] for name in known} == known


def test_two_focal_losses_with_different_gamma_are_not_carried_over(tmp_path: Path) -> None:
    ledger = loss(tmp_path, "[dict(type='FocalLoss', gamma=2), dict(type='FocalLoss', gamma=1)]")
    assert ledger.entries["model.decode_head.loss_decode[1].gamma"].group == "left"
    assert ledger.settings["loss.focal.gamma"] == 2.0


def test_a_loss_that_segtune_lacks_is_not_carried_over(tmp_path: Path) -> None:
    ledger = loss(tmp_path, "[dict(type='CrossEntropyLoss'), dict(type='BoundaryLoss')]")
    assert ledger.entries["model.decode_head.loss_decode[1]"].group == "left"


def test_auxiliary_loss_with_another_weight_is_not_carried_over(tmp_path: Path) -> None:
    ledger = imported("upernet_r50_voc12")
    assert ledger.entries["model.auxiliary_head.loss_decode"].group == "same"
    text = "model = dict(auxiliary_head=dict(loss_decode=dict(loss_weight=1.0)))"
    ledger = changed(tmp_path, "upernet_r50_voc12", text)
    assert ledger.entries["model.auxiliary_head.loss_decode"].group == "left"


def test_a_wrong_number_of_classes_is_reported_in_both_heads(tmp_path: Path) -> None:
    text = "model = dict(decode_head=dict(num_classes=20), auxiliary_head=dict(num_classes=21))"
    entries = changed(tmp_path, "upernet_r50_voc12", text).entries
    assert entries["model.decode_head.num_classes"].group == "left"
    assert entries["model.auxiliary_head.num_classes"].group == "same"


@pytest.mark.parametrize(
    "keys, expected",
    [
        ("{'backbone': dict(lr_mult=0.1)}", (6e-6, 10.0)),
        ("{'head': dict(lr_mult=5.0)}", (6e-5, 5.0)),
        ("{'head': dict(lr_mult=5.0), 'decode_head': dict(lr_mult=2.0)}", (6e-5, 2.0)),
    ],
)
def test_custom_keys_give_the_rates_of_encoder_and_head(
    tmp_path: Path, keys: str, expected: tuple[float, float]
) -> None:
    text = f"optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys={keys}))"
    settings = changed(tmp_path, "segformer_b2_v1_ce", text).settings
    rates = (settings["optim.lr"], settings["optim.head_lr_mult"])
    assert rates == pytest.approx(expected)


def test_the_longest_custom_key_is_in_force(tmp_path: Path) -> None:
    keys = (
        "{'head': dict(lr_mult=5.0), 'decode_head': dict(lr_mult=2.0), 'linear': dict(lr_mult=2)}"
    )
    text = f"optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys={keys}))"
    entries = changed(tmp_path, "segformer_b2_v1_ce", text).entries
    prefix = "optim_wrapper.paramwise_cfg.custom_keys"
    assert entries[f"{prefix}.head"].group == "left"
    assert entries[f"{prefix}.linear.lr_mult"].group == "left"


def test_accumulated_batches_and_gpus_multiply_the_batch(tmp_path: Path) -> None:
    text = "optim_wrapper = dict(accumulative_counts=4)"
    settings = changed(tmp_path, "segformer_b2_ade_v1", text, gpus=2).settings
    assert (settings["schedule.batch_size"], settings["schedule.accumulate"]) == (3 * 2 * 4, 4)


def test_an_enabled_scaling_multiplies_the_learning_rate(tmp_path: Path) -> None:
    text = "auto_scale_lr = dict(enable=True, base_batch_size=16)"
    settings = changed(tmp_path, "segformer_b2_ade_v1", text, gpus=2).settings
    assert settings["optim.lr"] == pytest.approx(6e-6 * 6 / 16)


ITERATIONS = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=20210, val_interval=2021)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, begin=1500, end=20210, by_epoch=False)]
"""


def test_iterations_are_steps_and_validation_counts_epochs(tmp_path: Path) -> None:
    settings = changed(tmp_path, "segformer_b2_ade_v1", ITERATIONS, gpus=2).settings
    assert (settings["schedule.steps"], settings["schedule.warmup_steps"]) == (20210, 1500)
    assert settings["schedule.val_every"] == 1  # 2,021 x 6 of 20,210 images


def test_a_warmup_in_steps_before_a_schedule_by_epochs_changes_the_rate_by_steps(
    tmp_path: Path,
) -> None:
    text = ITERATIONS.replace("begin=1500, end=20210, by_epoch=False", "end=200, by_epoch=True")
    text = text.replace("train_cfg", "unused")
    ledger = changed(tmp_path, "segformer_b2_ade_v1", text)
    assert ledger.settings["schedule.by"] == "step"
    assert changes_numbers(ledger)
    as_yaml(ledger, "cfg.py")


def test_a_poly_schedule_that_begins_below_the_warmup_is_reported(tmp_path: Path) -> None:
    text = ITERATIONS.replace("begin=1500", "begin=0")
    entries = changed(tmp_path, "segformer_b2_ade_v1", text).entries
    assert entries["param_scheduler[1].begin"].group == "left"


def test_other_schedules_are_not_carried_over(tmp_path: Path) -> None:
    text = "param_scheduler = [dict(type='CosineAnnealingLR', T_max=200)]"
    ledger = changed(tmp_path, "segformer_b2_v1_ce", text)
    assert ledger.entries["param_scheduler[0]"].group == "left"


def test_the_average_of_the_weights_has_one_minus_the_momentum(tmp_path: Path) -> None:
    text = "custom_hooks = [dict(type='EMAHook', momentum=0.001)]"
    ledger = changed(tmp_path, "segformer_b2_v1_ce", text)
    assert ledger.settings["optim.ema"] == 0.999


@pytest.mark.parametrize(
    "width, depths, encoder",
    [
        (32, [2, 2, 2, 2], "mit_b0"),
        (64, [2, 2, 2, 2], "mit_b1"),
        (64, [3, 4, 18, 3], "mit_b3"),
        (64, [3, 8, 27, 3], "mit_b4"),
        (64, [3, 6, 40, 3], "mit_b5"),
    ],
)
def test_mit_follows_from_width_and_depths(
    tmp_path: Path, width: int, depths: list[int], encoder: str
) -> None:
    text = f"model = dict(backbone=dict(embed_dims={width}, num_layers={depths}))"
    settings = changed(tmp_path, "segformer_b2_v1_ce", text).settings
    assert settings["model.encoder"] == encoder


def test_swin_follows_from_width_depths_and_window(tmp_path: Path) -> None:
    text = (
        "model = dict(pretrained=None, backbone=dict(_delete_=True, type='SwinTransformer', "
        "embed_dims=128, depths=[2, 2, 18, 2], window_size=12, drop_path_rate=0.3))"
    )
    settings = changed(tmp_path, "upernet_r50_voc12", text).settings
    assert settings["model.encoder"] == "swin_base_patch4_window12_384"
    assert settings["model.drop_path"] == 0.3


def test_cityscapes_has_its_suffixes_and_folders(tmp_path: Path) -> None:
    dataset = (
        "dict(_delete_=True, type='CityscapesDataset', data_root='data/cityscapes', data_prefix="
        "dict(img_path='leftImg8bit/{0}', seg_map_path='gtFine/{0}'), pipeline=_base_.{1}_pipeline)"
    )
    text = f"train_dataloader = dict(dataset={dataset.format('train', 'train')})\n"
    text += f"val_dataloader = dict(dataset={dataset.format('val', 'test')})\n"
    text += "model = dict(decode_head=dict(num_classes=19))"
    settings = changed(tmp_path, "segformer_b2_v2_first", text).settings
    assert settings["data.classes"] == "cityscapes"
    assert {n: settings[n] for n in ("data.images", "data.masks", "data.train", "data.val")} == {
        "data.images": "leftImg8bit",
        "data.masks": "gtFine",
        "data.train": ["train"],
        "data.val": "val",
    }
    assert settings["data.image_suffix"] == "_leftImg8bit.png"
    assert settings["data.mask_suffix"] == "_gtFine_labelTrainIds.png"


def test_settings_become_sections_in_the_order_of_the_schema() -> None:
    tree = nested({"schedule.epochs": 3, "seed": 1, "loss.ce.weight": 1.0})
    assert list(tree) == ["seed", "loss", "schedule"]
    assert tree["loss"] == {"ce": {"weight": 1.0}}
