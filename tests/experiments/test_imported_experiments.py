"""A shipped config and the config of mmsegmentation that it repeats say the same."""

import pytest
from shipped import ROOT

from segtune.config.schema import ExperimentConfig, load_config
from segtune.mmseg.convert import convert, nested
from segtune.mmseg.reader import read_mmseg_config

# By the config in tests/mmseg/configs: the shipped one, and the GPUs that it was written for.
PAIRS = {
    "upernet_r50_voc12": ("voc12_upernet_r50", 1),
    "upernet_r50_voc12_sbd": ("voc12aug_upernet_r50", 2),
    "segformer_b2_v1_ce": ("voc12aug_segformer_b2_v1", 1),
    "segformer_b2_v2_first": ("voc12aug_segformer_b2_v2_first", 1),
    "segformer_b2_v2_final": ("voc12aug_segformer_b2_v2_final", 1),
    "segformer_b2_v3": ("voc12aug_segformer_b2_v3", 1),
    "segformer_b2_ade_v1": ("ade20k_segformer_b2_v1", 2),
    "segformer_b2_ade_v1_1": ("ade20k_segformer_b2_v1_1", 2),
    "segformer_b2_ade_v1_2": ("ade20k_segformer_b2_v1_2", 2),
    "segformer_b2_ade_v1_3": ("ade20k_segformer_b2_v1_3", 2),
}
# `segtune data sbd` makes one folder and one list of VOC and SBD; mmseg's config has two lists.
PLACES = {"data.root", "data.masks", "data.train", "data.reduce_zero_label"}
# auto is bf16 on a GPU that has it; mmseg's configs without AMP are fp32.
FASTER = {"optim.precision"}
# Without decoder_channels, upernet has 512; one GPU has nothing to synchronise.
OTHERS = {
    "upernet_r50_voc12": {"augment.photometric", "model.decoder_channels", "model.sync_norms"},
    "upernet_r50_voc12_sbd": {"augment.photometric", "model.decoder_channels"},
    "segformer_b2_v3": {"seed"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_shipped_config_is_the_imported_one(name: str) -> None:
    shipped_name, gpus = PAIRS[name]
    shipped = load_config(ROOT / "configs" / f"{shipped_name}.yaml")
    source = read_mmseg_config(ROOT / "tests" / "mmseg" / "configs" / f"{name}.py")
    imported = ExperimentConfig.parse(nested(convert(source, gpus).settings))
    unlike = {
        setting
        for setting in ExperimentConfig.names()
        if not isinstance(shipped.get(setting), dict)  # of a whole section
        and shipped.get(setting) != imported.get(setting)
    }
    assert unlike - PLACES - FASTER == OTHERS.get(name, set())
