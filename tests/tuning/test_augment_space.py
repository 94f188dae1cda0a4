"""Lists can vary in a space: the transforms of albumentations, and the scales, as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune.cluster.tune_searcher import StudySearcher
from segtune.errors import ConfigError
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

NOISE = [{"name": "GaussNoise", "p": 0.2}]
BLUR = [{"name": "GaussianBlur", "p": 0.2}, {"name": "ImageCompression", "p": 0.2}]
SPACE = {
    "optim.lr": {"loguniform": [1e-5, 1e-1]},
    "augment.extra": {"choice": [[], NOISE, BLUR]},
    "augment.scales": {"choice": [None, [0.5, 1.0], [1.0]]},
    "augment.erase.prob": {"uniform": [0.0, 0.8]},
    "augment.mix.kind": {"choice": ["none", "cutmix", "mixup"]},
    "augment.mix.alpha": {"loguniform": [0.1, 2.0], "when": {"augment.mix.kind": "mixup"}},
}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_transforms_and_scales_vary_as_a_whole(
    make_study: Callable[..., Study],
    play: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    sampler: str,
) -> None:
    study = make_study(SPACE, trials=16, sampler=sampler)
    drawn = play(StudySearcher.from_run(study, SearchDir(tmp_path / "run")))
    assert {str(params["augment.extra"]) for params in drawn} == {"[]", str(NOISE), str(BLUR)}
    assert {str(params["augment.scales"]) for params in drawn} == {"None", "[0.5, 1.0]", "[1.0]"}
    assert all(
        ("augment.mix.alpha" in params) == (params["augment.mix.kind"] == "mixup")
        for params in drawn
    )
    for params in drawn:
        augment = study.trial_config(params).augment
        assert list(augment.extra) == params["augment.extra"]


def test_a_choice_with_a_wrong_transform_is_refused(make_study: Callable[..., Study]) -> None:
    wrong = {"choice": [[], [{"name": "GaussNoise", "sigma": 3}]]}
    with pytest.raises(ConfigError, match=r"augment.extra.0.sigma: GaussNoise has no such"):
        make_study({**SPACE, "augment.extra": wrong})
