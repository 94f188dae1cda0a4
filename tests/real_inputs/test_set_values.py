"""Values of `--set`: each is read as meant, or refused with the form that is accepted."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from segtune.config.schema import load_config
from segtune.errors import ConfigError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A config whose optimiser is not the default one."""
    path = tmp_path / "c.yaml"
    path.write_text("optim: {name: sgd, weight_decay: 0.5}\n")
    return path


def read(config_file: Path, *assignments: str) -> Any:
    """Return the setting that the last assignment names."""
    name = assignments[-1].partition("=")[0].strip()
    return load_config(config_file, assignments).get(name)


def refusal(config_file: Path, assignment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(config_file, [assignment])
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("data.root=data #2", "data #2"),  # no comment
        ("data.root=#2", "#2"),
        ("data.root=a#b", "a#b"),
        ("data.root='data #2'", "data #2"),
        ('data.root="x y"', "x y"),
        ("data.root=|", "|"),
        ("data.root=-x", "-x"),
        ("data.root=\ufeff/data", "/data"),
        ("data.root=C:\\data\\voc", "C:\\data\\voc"),
        ("data.root=/data/größe", "/data/größe"),
        ("data.val=2007_000032", "2007_000032"),
        ("data.val=0001", "0001"),
        ("data.val=2007-01-01", "2007-01-01"),
        ("data.val=12:30", "12:30"),
        ("data.train=[a, b]", ["a", "b"]),
        ("data.train=[a,b,]", ["a", "b"]),
        ("data.crop=[64,96]", [64, 96]),
        ("model.weights=null", None),
        ("model.weights=~", None),
        ("augment.photometric=off", False),
        ("augment.photometric=True", True),
        ("optim.lr=1E-3", 1e-3),
        ("optim.lr=.5", 0.5),
        ("optim.lr=5.", 5.0),
        (" optim.lr = 1e-3 ", 1e-3),
        ("seed=+1", 1),
        ("data.cache=none", "none"),
        ("data.cache=auto", "auto"),
    ],
)
def test_a_value_is_read_as_it_is_written(
    config_file: Path, assignment: str, value: object
) -> None:
    assert read(config_file, assignment) == value


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [
        ("data.crop=64,96", "got '64,96'; write [64, 96]"),
        ("data.crop=(64, 96)", "write [64, 96]"),
        ("data.crop=64x96", "write [64, 96]"),
        ("data.crop=64", "got 64; write [64, 64]"),
        ("data.train=a,b", "got 'a,b'; write [a, b]"),
        ("data.train=train", "write [train]"),
        ("data.train=[a, b] # c", "there is more after the value: '# c'; remove it"),
        ("optim.betas=[0.9]", "optim.betas: allowed is list of 2"),
        ("optim.clip_norm=None", "got 'None'; write null"),
        ("model.weights=None", "write null or leave the setting out for no value"),
        ("data.cache=None", "write null or leave the setting out for no value"),
        ("data.masks=none", "write null or leave the setting out for no value"),
        ("augment.photometric=1", "got 1; write true"),
        ("augment.photometric=N", "got 'N'; write false"),
        ("optim.lr=1_000", "got '1_000'; write 1000"),
        ("optim.lr=010", "got '010'; write 10"),
        ("seed=0x10", "got '0x10'; write 16"),
        ("seed=1e3", "got 1000.0; write 1000"),
        ("seed=5.0", "got 5.0; write 5"),
        ("optim.lr=1,5", "a number has a decimal point and no comma"),
        ("augment.flip=50%", "got '50%'; write 0.5"),
        ("optim.lr=1/1000", "got '1/1000'; write 0.001"),
        ('optim.lr="1e-3"', "it is text, because it has quotes; write 0.001"),
        ("optim.lr=1e\u22123", "it has U+2212 MINUS SIGN; write 0.001"),
        ("optim.lr=\uff11e-3", "it has U+FF11 FULLWIDTH DIGIT ONE; write 0.001"),
        ("optim.lr=inf", "allowed is number > 0; got 'inf'"),
        ("optim.lr=.nan", "allowed is number > 0; got nan"),
        ("optim.lr=1e-3=2", "got '1e-3=2'"),
        ("optim.lr=1e-3 # note", "got '1e-3 # note'"),
        ("data.val=2007", "for text, put quotes around it: '2007'"),
        ("data.val=no", "for text, put quotes around the word"),
        ("data.root=~", "write text, and ~/ for your home"),
        ("data.root=a: b", "text with a colon and a space needs quotes"),
        ("data.root=@x", "text that begins with @ needs quotes"),
        ("data.root=%TEMP%", "text that begins with % needs quotes"),
        ("data.root=[x", "a bracket is not closed"),
        ("data.root='x", "a quote is not closed"),
        ('data.root="C:\\data"', "use single quotes, or / in paths"),
        ('data.root=""', "is empty; write . for the current folder"),
        ("data.root=' x'", "begins or ends with a blank; remove it"),
        ("optim.lr=", "no value after '='; write null for no value"),
        ("optim.lr:1e-3", "expected name=value, for example --set optim.lr=1e-4"),
    ],
)
def test_a_refused_value_names_the_accepted_form(
    config_file: Path, assignment: str, remedy: str
) -> None:
    message = refusal(config_file, assignment)
    assert message.startswith("--set")
    assert remedy in message


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        # PowerShell and cmd keep the backslash of \".
        ('data.root=\\"x\\"', "begins with a backslash and a quote; remove the backslash"),
        ('data.train=[\\"a\\"]', "begins with a backslash and a quote"),
        ("data.root=\u201c/data\u201d", "U+201C LEFT DOUBLE QUOTATION MARK, which is no quote"),
        ("data.root=\u2018/data\u2019", "U+2018 LEFT SINGLE QUOTATION MARK, which is no quote"),
        ("data.root=/data\u200b", "the invisible character U+200B ZERO WIDTH SPACE; remove it"),
        ("data.root=/da\ufeffta", "the invisible character U+FEFF"),
        ("data.root=\u00a0/data", "begins or ends with U+00A0 NO-BREAK SPACE"),
        ("optim.\u200blr=1", "the invisible character U+200B ZERO WIDTH SPACE; remove it"),
        ("data.root=\x07x", "control character U+0007; remove it"),
    ],
)
def test_a_character_that_cannot_be_seen_is_named(
    config_file: Path, assignment: str, reason: str
) -> None:
    assert reason in refusal(config_file, assignment)


def test_joiners_inside_words_and_apostrophes_are_text(config_file: Path) -> None:
    names = ["می\u200cشود", "dogs\u2019", "l\u2019eau", "a\u00a0b"]
    assert read(config_file, f"data.classes=[{', '.join(names)}]") == names


def test_a_mapping_changes_only_the_settings_that_it_names(config_file: Path) -> None:
    config = load_config(config_file, ["optim={lr: 1e-3}", "loss={focal: {gamma: 1}}"])
    assert (config.optim.name, config.optim.weight_decay, config.optim.lr) == ("sgd", 0.5, 1e-3)
    assert (config.loss.focal.gamma, config.loss.dice.weight) == (1.0, 1.0)


def test_a_mapping_and_a_dotted_name_go_together(config_file: Path) -> None:
    config = load_config(config_file, ["optim.lr=1e-3", "optim={weight_decay: 0.1}"])
    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 0.1)


@pytest.mark.parametrize("value", ["null", "{}"])
def test_a_section_is_not_set_back_to_its_defaults(config_file: Path, value: str) -> None:
    message = refusal(config_file, f"optim={value}")
    assert message == "--set: optim: is a section; name a setting of it, for example optim.name"


def test_the_last_of_two_values_counts_with_a_warning(
    config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "segtune"):
        assert read(config_file, "seed=1", "seed=2") == 2
    assert caplog.messages == ["--set seed is given twice: only the last one counts, seed=2"]


@pytest.mark.parametrize(
    ("assignment", "names"),
    [
        ("lr=3", "'optim.lr'"),
        ("Optim.LR=3", "'optim.lr'"),
        ("schedule.batch-size=3", "'schedule.batch_size'"),
        ("epochs=3", "'schedule.epochs'"),
        ("weight=1", "'loss.focal.weight' or 'loss.dice.weight' or 'loss.ce.weight'"),
    ],
)
def test_an_unknown_name_leads_to_the_settings_of_that_name(
    config_file: Path, assignment: str, names: str
) -> None:
    assert refusal(config_file, assignment).endswith(f"no such setting; did you mean {names}?")


@pytest.mark.parametrize("name", ["data.root", "data.cache", "model.weights", "data.masks"])
def test_a_tilde_in_a_path_is_the_home_folder(
    config_file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read(config_file, f"{name}=~/x y") == "/home/me/x y"
    assert read(config_file, f"{name}='~/x'") == "/home/me/x"


def test_a_tilde_of_an_unknown_user_is_refused(config_file: Path) -> None:
    assert "there is no user of the name in '~nobodyhere/x'" in refusal(
        config_file, "data.root=~nobodyhere/x"
    )


@pytest.mark.parametrize("path", ["$HOME/x", "${HOME}/x", "/data/$USER/x"])
def test_a_variable_in_a_path_is_refused(config_file: Path, path: str) -> None:
    message = refusal(config_file, f"data.root={path}")
    assert "is not replaced by its value; write the path out" in message


def test_a_path_on_disk_may_have_any_name(config_file: Path, tmp_path: Path) -> None:
    # Such a folder may be part of an older run.
    for name in ("$HOME", "None ", "a\n"):
        (tmp_path / name).mkdir()
        config = load_config(config_file).override({"data.root": str(tmp_path / name)})
        assert os.path.isdir(config.data.root)
