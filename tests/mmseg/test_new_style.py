"""Laws of configs with `read_base` and imported classes, in the form of mmsegmentation's own."""

from pathlib import Path

import pytest

from segtune.mmseg.convert import changes_numbers, convert, report
from segtune.mmseg.nodes import Unresolved, reachable
from segtune.mmseg.reader import read_mmseg_config

CONFIG = Path(__file__).parent / "configs/new_style/segformer/segformer_mit_b0_ade20k.py"


def test_imported_classes_at_the_key_type_are_their_names() -> None:
    config = read_mmseg_config(CONFIG)
    plain = config.root.plain
    assert plain["model"]["type"] == "EncoderDecoder"
    assert plain["model"]["backbone"]["type"] == "MixVisionTransformer"
    assert plain["model"]["decode_head"]["norm_cfg"]["type"] == "SyncBN"  # mmcv's name
    assert plain["optim_wrapper"]["optimizer"]["type"] == "AdamW"
    assert plain["train_dataloader"]["dataset"]["type"] == "ADE20KDataset"
    unknown = [node.value for node in reachable(config.root) if node.unresolved]
    assert [value.text for value in unknown] == ["ADE20KDataset"]  # dataset_type, on its own


def test_update_keeps_what_the_base_files_say() -> None:
    model = read_mmseg_config(CONFIG).root.plain["model"]
    assert model["backbone"]["embed_dims"] == 32
    assert model["backbone"]["init_cfg"]["type"] == "Pretrained"
    assert (model["decode_head"]["num_classes"], model["decode_head"]["channels"]) == (150, 256)
    assert model["data_preprocessor"]["size"] == [512, 512]


def test_the_config_is_imported_as_a_whole() -> None:
    ledger = convert(read_mmseg_config(CONFIG), gpus=8)
    expected = {
        "data.classes": "ade20k",
        "data.layout": "ade20k",
        "model.name": "segformer",
        "model.encoder": "mit_b0",
        "model.weights": "nvidia/mit-b0",
        "model.decoder_channels": 256,
        "model.sync_norms": True,
        "loss.ce.weight": 1.0,
        "augment.photometric": True,
        "optim.name": "adamw",
        "optim.lr": 6e-5,
        "optim.head_lr_mult": 10.0,
        "schedule.steps": 160_000,
        "schedule.batch_size": 16,
        "schedule.warmup_steps": 1500,
    }
    assert {name: ledger.settings.get(name) for name in expected} == expected
    assert not changes_numbers(ledger), "\n".join(report(ledger))


@pytest.mark.parametrize(
    "imports, kind, name",
    [
        ("from mmseg.models import UPerHead", "UPerHead", "UPerHead"),
        ("from mmseg.models import UPerHead as Head", "Head", "UPerHead"),
        ("import torch.optim", "torch.optim.SGD", "SGD"),
        ("from torch import optim", "optim.SGD", "SGD"),
        ("import torch.optim as o\nkind = o.SGD", "kind", "SGD"),
    ],
)
def test_a_class_has_its_own_name_however_it_is_imported(
    tmp_path: Path, imports: str, kind: str, name: str
) -> None:
    (tmp_path / "cfg.py").write_text(f"{imports}\na = [dict(type={kind})]")
    assert read_mmseg_config(tmp_path / "cfg.py").root.plain["a"] == [{"type": name}]


@pytest.mark.parametrize("setup", ["class Head: pass", "Head = load()", "Head = load().Head"])
def test_a_class_of_the_file_itself_or_of_a_call_is_not_taken_for_one_of_mmseg(
    tmp_path: Path, setup: str
) -> None:
    (tmp_path / "cfg.py").write_text(f"{setup}\na = dict(type=Head, b=1)")
    plain = read_mmseg_config(tmp_path / "cfg.py").root.plain["a"]
    assert isinstance(plain["type"], Unresolved)
    assert plain["type"].name is None
