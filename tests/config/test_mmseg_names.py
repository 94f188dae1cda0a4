"""A name of mmsegmentation in a config is answered with the name of the setting."""

import pytest

from segtune.config.mmseg_names import NAMES
from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_mmseg_is_translated_to_a_setting_that_exists(name: str) -> None:
    setting, _ = NAMES[name]
    assert setting in ExperimentConfig.names()
    section = setting.partition(".")[0]
    with pytest.raises(ConfigError, match=rf"no such setting; here this is '{setting}'"):
        ExperimentConfig.parse({section: {name: 0.9}})


def test_momentum_is_the_first_of_the_betas() -> None:
    with pytest.raises(ConfigError, match=r"'optim\.betas': with optim\.name sgd, the first"):
        ExperimentConfig().override({"optim.momentum": 0.9})
