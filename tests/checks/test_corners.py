"""The corners of a space, and the halving that finds where a failed one begins to work."""

from collections.abc import Callable
from typing import Any

import pytest

from segtune.checks.corners import MAX_CORNERS, Corner, corners_of
from segtune.checks.safe_range import NUM_HALVINGS, narrowed, safe_range, space_line
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
LR = Dimension("optim.lr", "loguniform", (1e-4, 1e6))
GAMMA = {"loss.focal.gamma": {"uniform": [0.0, 4.0]}}


def points(study: Study) -> dict[str, dict[str, Any]]:
    return {corner.name: dict(corner.params) for corner in corners_of(study).chosen}


def test_the_corners_are_the_extremes_of_memory_learning_rate_gamma_precision_and_model(
    make_study: MakeStudy,
) -> None:
    study = make_study(
        {
            "schedule.batch_size": {"choice": [4, 16, 8]},
            "data.crop": {"choice": [[96, 64], [64, 64]]},
            "optim.lr": {"loguniform": [1e-4, 1e-2]},
            "optim.head_lr_mult": {"choice": [1.0, 10.0]},
            "optim.precision": {"choice": ["fp32", "bf16"]},
            "model.encoder": {"choice": ["mit_nano", "mit_b0"]},
            "loss.dice.weight": {"uniform": [0.0, 4.0]},
            **GAMMA,
        }
    )
    large = {"schedule.batch_size": 16, "data.crop": [96, 64]}
    assert points(study) == {
        "the config itself": {},
        "largest step": large,
        "largest learning rate": {"optim.lr": 1e-2, "optim.head_lr_mult": 10.0},
        "smallest focal gamma": {"loss.focal.gamma": 0.0},
        "largest focal gamma": {"loss.focal.gamma": 4.0},
        "optim.precision fp32, largest step": {"optim.precision": "fp32", **large},
        "optim.precision bf16, largest step": {"optim.precision": "bf16", **large},
        # mit_nano is the config's own: that is the largest step.
        "model.encoder mit_b0, largest step": {"model.encoder": "mit_b0", **large},
    }


def test_a_corner_that_is_the_config_itself_is_tried_once(make_study: MakeStudy) -> None:
    study = make_study({"schedule.batch_size": {"choice": [4, 8]}})
    assert points(study) == {"the config itself": {}}


def test_a_corner_fulfils_the_conditions_and_opens_the_gate_of_its_setting(
    make_study: MakeStudy,
) -> None:
    study = make_study(
        {
            "loss.focal.weight": {"choice": [0.0, 2.0]},
            "loss.focal.form": {"choice": ["sigmoid", "softmax"]},
            "loss.focal.gamma": {
                "uniform": [0.0, 4.0],
                "when": {"loss.focal.form": "softmax"},
            },
        },
        {"loss.focal.weight": 0.0, "loss.ce.weight": 1.0},
    )
    assert points(study)["largest focal gamma"] == {
        "loss.focal.weight": 2.0,
        "loss.focal.form": "softmax",
        "loss.focal.gamma": 4.0,
    }


def test_corners_beyond_the_limit_are_named(make_study: MakeStudy) -> None:
    encoders = [f"mit_b{number}" for number in range(6)]
    study = make_study(
        {
            "model.encoder": {"choice": encoders},
            "model.decoder_channels": {"choice": [32, 64, 96, 128, 160, 192, 224, 320]},
        }
    )
    corners = corners_of(study)
    assert len(corners.chosen) == MAX_CORNERS
    left_out = [f"model.decoder_channels {n}" for n in (192, 224, 320)]
    reason = f"(only {MAX_CORNERS} corners are tried)"
    assert list(corners.left_out) == [f"{name} {reason}" for name in left_out]


def space_of(*dimensions: Dimension, **base: Any) -> Space:
    return Space(dimensions, {name.replace("__", "."): value for name, value in base.items()})


def find(space: Space, corner: Corner, limit: Callable[[dict[str, Any]], bool]) -> Any:
    """Return the safe range if a point is healthy for `limit`, and how many were tried."""
    tried: list[dict[str, Any]] = []

    def is_healthy(moved: Corner) -> bool:
        tried.append({**space.base, **moved.params})
        return limit(tried[-1])

    return safe_range(space, corner, is_healthy), len(tried)


def test_a_learning_rate_is_halved_in_the_logarithm() -> None:
    space = space_of(LR, optim__lr=1e-2)
    corner = Corner("largest learning rate", {"optim.lr": 1e6}, "optim.lr", ("optim.lr",))
    found, number = find(space, corner, lambda point: point["optim.lr"] <= 1.0)
    # Eight intervals of one decade each.
    assert (found.healthy, found.failed) == ({"optim.lr": 1.0}, {"optim.lr": 10.0})
    assert number == 1 + NUM_HALVINGS
    line = space_line(narrowed(LR, 1.0, 1e6))
    assert line == "optim.lr: {loguniform: [0.0001, 1.0]}"


def test_a_choice_of_batch_sizes_is_cut_at_the_largest_that_works() -> None:
    batch = Dimension("schedule.batch_size", "choice", (32, 4, 8, 16))
    space = space_of(batch, schedule__batch_size=4)
    corner = Corner("largest step", {batch.name: 32}, batch.name, (batch.name,))
    found, _ = find(space, corner, lambda point: point[batch.name] <= 8)
    assert (found.healthy, found.failed) == ({batch.name: 8}, {batch.name: 16})
    assert narrowed(batch, 8, 32).values == (4, 8)


def test_settings_of_a_corner_are_moved_together() -> None:
    mult = Dimension("optim.head_lr_mult", "uniform", (1.0, 9.0))
    space = space_of(LR, mult, optim__lr=1e-2, optim__head_lr_mult=1.0)
    params = {"optim.lr": 1e6, "optim.head_lr_mult": 9.0}
    corner = Corner("largest learning rate", params, "optim.lr", tuple(params))
    found, _ = find(space, corner, lambda p: p["optim.lr"] * p["optim.head_lr_mult"] < 20)
    assert found.healthy == {"optim.lr": 1.0, "optim.head_lr_mult": 3.0}


def test_a_small_value_that_fails_is_moved_up() -> None:
    gamma = Dimension("loss.focal.gamma", "uniform", (0.0, 8.0))
    space = space_of(gamma, loss__focal__gamma=8.0)
    corner = Corner("smallest focal gamma", {gamma.name: 0.0}, gamma.name, (gamma.name,))
    found, _ = find(space, corner, lambda point: point[gamma.name] >= 2.5)
    assert found.healthy == {gamma.name: 3.0}
    assert narrowed(gamma, 3.0, 0.0).values == (3.0, 8.0)


def test_the_search_begins_at_the_other_end_if_the_space_lacks_the_own_value() -> None:
    space = space_of(LR, optim__lr=1e-6)
    corner = Corner("largest learning rate", {"optim.lr": 1e6}, "optim.lr", ("optim.lr",))
    assert find(space, corner, lambda point: point["optim.lr"] < 1e-5) == (None, 1)


@pytest.mark.parametrize("own", [None, [32, 32]])
def test_a_choice_without_a_size_is_milder_than_any_size(own: Any) -> None:
    window = Dimension("val.window", "choice", (None, [32, 32], [512, 512]))
    space = space_of(window, val__window=own)
    corner = Corner("largest step", {window.name: [512, 512]}, window.name, (window.name,))
    found, _ = find(space, corner, lambda point: point[window.name] != [512, 512])
    assert found.healthy == {window.name: own}
