"""Laws of `segtune import`: its exit codes, its two outputs, and files that it never replaces."""

from pathlib import Path

import pytest

from segtune.config.schema import load_config
from segtune.import_config import main

CONFIGS = Path(__file__).parent / "configs"
COMPLETE = str(CONFIGS / "segformer_b2_v2_final.py")
PARTLY = str(CONFIGS / "segformer_b2_v3.py")  # has load_from


def test_config_goes_to_stdout_and_the_report_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([COMPLETE]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"# Imported from {COMPLETE}, a config of mmsegmentation.\ndata:\n")
    assert "carried over: optim_wrapper.optimizer.lr" in err
    assert "the same in segtune: " in err


def test_written_file_is_a_config_and_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v2.yaml"
    assert main([COMPLETE, "--out", str(out)]) == 0
    assert load_config(out).optim.head_lr_mult == 10.0
    before = out.read_text()
    assert main([PARTLY, "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == before
    assert main([PARTLY, "--out", str(out), "--overwrite"]) == 1
    assert load_config(out).optim.lr == 6e-6


def test_exit_code_is_1_if_the_numbers_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([PARTLY]) == 1
    assert "not carried over: load_from" in capsys.readouterr().err


def test_strict_writes_no_config_if_the_numbers_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v3.yaml"
    assert main([PARTLY, "--strict", "--out", str(out)]) == 1
    assert not out.exists()
    assert main([PARTLY, "--strict"]) == 1
    assert capsys.readouterr().out == ""


def test_gpus_multiply_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(CONFIGS / "segformer_b2_ade_v1.py"), "--gpus", "2"])
    assert "batch_size: 6\n" in capsys.readouterr().out


def test_a_yaml_file_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("a: 1")
    assert main([str(tmp_path / "a.yaml")]) == 2
    assert "print_config.py" in capsys.readouterr().err


def test_settings_that_do_not_fit_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cfg.py"
    path.write_text(f"_base_ = {COMPLETE!r}\ntrain_cfg = dict(max_epochs=10)")
    assert main([str(path)]) == 2
    assert "warmup_epochs must be less than epochs, got 15 of 10" in capsys.readouterr().err
