"""Laws of an epoch on disk: nothing is lost, and the keys are those that other programs read."""

import json
from dataclasses import replace

import pytest

from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir

RECORD = EpochRecord(
    epoch=3,
    step=30,
    seconds=12.5,
    ended=1000.25,
    lr=1e-4,
    losses={"loss": 0.5, "focal": 0.1, "dice": 0.4},
    grad_norm=0.7,
    gradient_left=0.9,
    weight_growth=1.1,
    validation=ValidationScores(
        miou=0.3,
        constant_miou=0.1,
        aacc=0.8,
        macc=0.4,
        mdice=0.45,
        class_iou=(0.6, 0.0, None),
        top_class="sky",
        top_share=0.5,
    ),
)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, init_miou=0.2),
        replace(RECORD, weight_growth=None),
        replace(RECORD, validation=None),
        EpochRecord(epoch=1),
    ],
)
def test_a_record_is_the_same_after_a_round_trip_through_json(record: EpochRecord) -> None:
    assert EpochRecord.from_row(json.loads(json.dumps(record.to_row()))) == record


def test_the_keys_on_disk_stay_and_the_row_is_flat(search_run: SearchDir) -> None:
    trial = search_run.trial(0)
    trial.append_epoch(RECORD)
    assert json.loads(trial.epochs.read_text()) == {
        "epoch": 3,
        "step": 30,
        "seconds": 12.5,
        "ended": 1000.25,
        "loss": 0.5,
        "focal": 0.1,
        "dice": 0.4,
        "lr": 1e-4,
        "grad_norm": 0.7,
        "gradient_left": 0.9,
        "weight_growth": 1.1,
        "miou": 0.3,
        "aacc": 0.8,
        "macc": 0.4,
        "mdice": 0.45,
        "constant_miou": 0.1,
        "top_class": "sky",
        "top_share": 0.5,
        "class_iou": [0.6, 0.0, None],
    }


def test_an_epoch_without_a_validation_has_no_scores_on_disk() -> None:
    row = replace(RECORD, validation=None).to_row()
    assert not {"miou", "constant_miou", "class_iou"} & row.keys()
    assert EpochRecord.from_row(row).miou is None


def test_a_row_of_an_early_version_with_few_keys_is_read() -> None:
    record = EpochRecord.from_row({"epoch": 1, "step": 20, "loss": 0.5, "miou": 0.1})
    assert record == EpochRecord(
        epoch=1,
        step=20,
        losses={"loss": 0.5},
        validation=ValidationScores(miou=0.1, constant_miou=0.0),
    )
