"""No check finds an error in a study or a space that we ship."""

from pathlib import Path

import pytest
from shipped import CONFIGS, ROOT, STUDIES

from segtune.checks.data_sizes import DataSizes, data_sizes
from segtune.checks.findings import errors_of
from segtune.checks.liveness import liveness, liveness_findings
from segtune.checks.space_rules import space_findings
from segtune.tuning.study_reader import load_study

# The values of the others are those of one experiment.
SPACES = [
    ROOT / "search_spaces" / f"{name}.yaml" for name in ("augment", "full", "loss_weights", "optim")
]
USUAL = DataSizes(num_images=1464, num_classes=21)


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", STUDIES, ids=stem)
def test_the_rules_find_nothing_in_a_shipped_study(path: Path) -> None:
    study = load_study(path)
    findings = space_findings(study, data_sizes(study.config))
    # Precision is what this study varies: gamma 2 in fp16 is one of its corners.
    known = {"gamma-fp16"} if path.stem == "ade20k_stability" else set()
    assert {finding.rule for finding in findings} == known


@pytest.mark.parametrize("config", CONFIGS, ids=stem)
@pytest.mark.parametrize("space", SPACES, ids=stem)
def test_the_rules_find_no_error_in_a_space_with_a_shipped_config(
    space: Path, config: Path
) -> None:
    assert errors_of(space_findings(load_study(space, config), USUAL)) == []


@pytest.mark.parametrize("path", [*STUDIES, *SPACES], ids=stem)
def test_every_setting_of_a_shipped_study_is_live(path: Path) -> None:
    study = load_study(path)
    results = liveness(study, data_sizes(study.config))
    assert {result.key: result.status for result in results} == dict.fromkeys(
        study.space.names, "live"
    )
    assert liveness_findings(results) == []
