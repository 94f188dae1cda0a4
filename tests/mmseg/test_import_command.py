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


def test_the_report_is_printed_also_if_the_settings_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cfg.py"
    path.write_text(f"_base_ = {COMPLETE!r}\ntrain_cfg = dict(max_epochs=10)")
    assert main([str(path)]) == 2
    err = capsys.readouterr().err
    assert err.index("carried over: optim_wrapper.optimizer.lr") < err.index("do not fit")


def test_a_file_that_is_read_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, base, link = tmp_path / "cfg.py", tmp_path / "base.py", tmp_path / "link.yaml"
    base.write_text(f"_base_ = {COMPLETE!r}")
    path.write_text("_base_ = 'base.py'\nseed = 3")
    link.symlink_to(base)
    for out in (path, base, link):
        before = out.read_text()
        assert main([str(path), "--out", str(out), "--overwrite"]) == 2
        assert "is a file that is read here" in capsys.readouterr().err
        assert out.read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        "p = _base_.train_pipeline\nfor t in p:\n    t['crop_size'] = (640, 640)",
        "def more(hooks): hooks['checkpoint']['interval'] = 1\nmore(_base_.default_hooks)",
        "register_all_modules()",
    ],
)
def test_exit_code_is_1_if_a_statement_is_not_executed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    path = tmp_path / "cfg.py"
    path.write_text(f"_base_ = {COMPLETE!r}\ntrain_pipeline = [dict(type='Pad')]")
    assert main([str(path)]) == 0
    child = tmp_path / "child.py"
    child.write_text(f"_base_ = 'cfg.py'\n{change}")
    assert main([str(child)]) == 1
    assert "not executed; what this statement sets is not known" in capsys.readouterr().err


def test_the_way_out_of_a_message_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumped = tmp_path / "dumped.py"
    dumped.write_text(f"Config:\n_base_ = {COMPLETE!r}\n")  # as print_config.py begins
    assert main([str(dumped)]) == 0
    assert "optim:" in capsys.readouterr().out
