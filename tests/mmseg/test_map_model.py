"""Laws of the mapping of models: what is not the same is reported, and nothing ends in an error."""

from pathlib import Path

import pytest
import yaml
from changed_config import changed, left, whole

from segtune.config.schema import ExperimentConfig
from segtune.import_config import main
from segtune.mmseg.convert import as_yaml, changes_numbers, report
from segtune.mmseg.ledger import Ledger

DATA = """
train_dataloader = dict(batch_size=4, dataset=dict(type='PascalVOCDataset', data_root='voc',
    ann_file='ImageSets/Segmentation/train.txt'))
"""


def backbone(tmp_path: Path, text: str, more: str = "") -> Ledger:
    """Convert an UPerNet with a backbone of its own."""
    code = f"model = dict(pretrained=None, backbone=dict(_delete_=True, {text}){more})"
    return changed(tmp_path, "upernet_r50_voc12", code)


def head(tmp_path: Path, text: str, more: str = "") -> Ledger:
    """Convert a model with a ResNet and a decode head of its own."""
    code = f"model = dict(decode_head=dict(_delete_=True, num_classes=21, {text}){more})"
    return changed(tmp_path, "upernet_r50_voc12", code)


def test_a_backbone_without_a_type_is_reported_although_its_keys_have_entries(
    tmp_path: Path,
) -> None:
    ledger = backbone(tmp_path, "init_cfg=dict(type='Pretrained', checkpoint='mit_b2.pth')")
    assert "no type; resnet50 is in its place" in left(ledger, "model.backbone")
    assert changes_numbers(ledger)


def test_a_head_without_a_type_is_reported(tmp_path: Path) -> None:
    ledger = head(tmp_path, "align_corners=False")
    assert "no type; upernet is in its place" in left(ledger, "model.decode_head")


def test_a_model_without_backbone_and_head_is_reported(tmp_path: Path) -> None:
    ledger = whole(tmp_path, f"{DATA}model = dict(type='EncoderDecoder')")
    assert any(note.startswith("the model has no backbone") for note in ledger.notes)
    assert any(note.startswith("the model has no decode_head") for note in ledger.notes)
    assert changes_numbers(ledger)


def test_a_head_with_an_imported_class_has_the_architecture_of_its_name(tmp_path: Path) -> None:
    text = (
        "from mmseg.models import ResNetV1c, UPerHead\n"
        "model = dict(backbone=dict(type=ResNetV1c, depth=101), decode_head=dict(type=UPerHead))"
    )
    ledger = changed(tmp_path, "upernet_r50_voc12", text)
    assert ledger.settings["model.name"] == "upernet"
    assert ledger.settings["model.encoder"] == "resnet101c"
    lines = [line for line in report(ledger) if "model.decode_head.type" in line]
    assert all(line.count("UPerHead") <= 1 for line in lines)


@pytest.mark.parametrize("depths", ["[2, 2]", "[2, 2, 6, 2, 2]", "[2, 2, 6, 4]", "[]"])
def test_a_swin_with_other_stages_is_an_unknown_encoder(tmp_path: Path, depths: str) -> None:
    ledger = backbone(tmp_path, f"type='SwinTransformer', depths={depths}")
    assert "no such encoder" in left(ledger, "model.backbone")


def test_a_config_without_a_model_is_written_with_cross_entropy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schedule.py"
    path.write_text("optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))")
    assert main([str(path)]) == 1
    out, err = capsys.readouterr()
    config = ExperimentConfig.parse(yaml.safe_load(out))
    assert (config.loss.ce.weight, config.optim.lr) == (1.0, 0.01)
    assert "note: the config has no model" in err


def test_the_report_comes_before_the_message_that_settings_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(__file__).parent / "configs" / "segformer_b2_v2_final.py"
    path = tmp_path / "cfg.py"
    path.write_text(f"_base_ = {str(base)!r}\ntrain_cfg = dict(max_epochs=10)")
    assert main([str(path)]) == 2
    err = capsys.readouterr().err
    assert 0 <= err.index("carried over: ") < err.index("warmup_epochs must be less than epochs")


@pytest.mark.parametrize(
    "path", ["open-mmlab://msra/hrnetv2_w18", "https://host/mit_b2_20220624.pth"]
)
def test_a_url_of_weights_of_an_unknown_encoder_is_not_carried_over(
    tmp_path: Path, path: str
) -> None:
    code = f"model = dict(pretrained={path!r}, backbone=dict(_delete_=True, type='HRNet'))"
    ledger = changed(tmp_path, "upernet_r50_voc12", code)
    assert "another encoder" in left(ledger, "model.pretrained")
    assert "model.weights" not in ledger.settings


def test_pspnet_has_another_encoder_and_no_dilation(tmp_path: Path) -> None:
    ledger = head(tmp_path, "type='PSPHead'")
    assert ledger.settings["model.name"] == "smp:PSPNet"
    for key in ("decode_head.type", "backbone.strides", "backbone.dilations"):
        assert "1/8" in left(ledger, f"model.{key}")
    assert "resnet50c" not in ledger.remarks["model.backbone.type"]
    as_yaml(ledger, "cfg.py")


@pytest.mark.parametrize(
    "kind, name, encoder",
    [
        ("ResNetV1c", "smp:FPN", "resnet50"),
        ("ResNetV1d", "smp:FPN", "resnet50"),
        ("ResNetV1c", "deeplabv3_resnet50", None),
    ],
)
def test_a_stem_of_three_convolutions_is_reported_if_the_encoder_has_one(
    tmp_path: Path, kind: str, name: str, encoder: str | None
) -> None:
    types = {"smp:FPN": "FPNHead", "deeplabv3_resnet50": "ASPPHead"}
    ledger = head(tmp_path, f"type={types[name]!r}", f", backbone=dict(type={kind!r})")
    assert (ledger.settings["model.name"], ledger.settings.get("model.encoder")) == (name, encoder)
    assert "a stem of one convolution, mmseg's of three" in ledger.remarks["model.backbone.type"]


def test_a_resnext_keeps_its_width_in_smp(tmp_path: Path) -> None:
    more = ", backbone=dict(type='ResNeXt', groups=32, base_width=4)"
    ledger = head(tmp_path, "type='FPNHead'", more)
    assert ledger.settings["model.encoder"] == "tu-resnext50_32x4d"


def test_an_upernet_without_auxiliary_head_changes_the_numbers(tmp_path: Path) -> None:
    before = changed(tmp_path, "upernet_r50_voc12", "")
    assert not any("auxiliary" in note for note in before.notes)
    ledger = changed(tmp_path, "upernet_r50_voc12", "model = dict(auxiliary_head=None)")
    assert any("auxiliary head with weight 0.4" in note for note in ledger.notes)
    assert ledger.notes_change_numbers


def test_keys_of_the_auxiliary_head_that_are_not_set_have_the_defaults_of_mmseg(
    tmp_path: Path,
) -> None:
    text = "model = dict(auxiliary_head=dict(_delete_=True, type='FCNHead', channels=256))"
    ledger = changed(tmp_path, "upernet_r50_voc12", text)
    notes = [note for note in ledger.notes if note.startswith("model.auxiliary_head: ")]
    assert [note.split()[1] for note in notes] == ["in_index", "num_convs", "concat_input"] + [
        note.split()[1] for note in notes[3:]
    ]
    assert "mmseg has 2 then, segtune has 1" in notes[1]
    assert ledger.notes_change_numbers


def test_a_list_of_one_auxiliary_head_is_that_head(tmp_path: Path) -> None:
    text = (
        "model = dict(auxiliary_head=[dict(type='FCNHead', channels=128, in_index=2, num_convs=1, "
        "concat_input=False, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))])"
    )
    ledger = changed(tmp_path, "upernet_r50_voc12", text)
    assert ledger.entries["model.auxiliary_head[0].type"].group == "same"
    assert "128" in left(ledger, "model.auxiliary_head[0].channels")


def test_several_auxiliary_heads_are_not_carried_over(tmp_path: Path) -> None:
    text = "model = dict(auxiliary_head=[dict(type='FCNHead'), dict(type='FCNHead')])"
    ledger = changed(tmp_path, "upernet_r50_voc12", text)
    assert "one auxiliary head; the config has 2" in left(ledger, "model.auxiliary_head")


def test_a_number_of_classes_that_is_not_known_is_reported_without_none(tmp_path: Path) -> None:
    text = f"{DATA.replace('PascalVOCDataset', 'BaseSegDataset')}n = count()\n"
    text += "model = dict(backbone=dict(type='ResNet'), decode_head=dict(type='UPerHead', "
    ledger = whole(tmp_path, f"{text}num_classes=n))")
    assert "None" not in left(ledger, "model.decode_head.num_classes")
