"""Config files as editors, shells and other programs write them."""

from pathlib import Path

import pytest
import yaml

from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.study_reader import load_study


def load(folder: Path, content: str | bytes) -> ExperimentConfig:
    path = folder / "c.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_config(path)


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, content)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfseed: 4\r\noptim:\r\n  lr: 1e-3\r\n",
        b"seed: 4\roptim:\r  lr: 1e-3\r",
        "# größe \u2212 “x”\nseed: 4\noptim: {lr: 1e-3}\n".encode(),
        "seed: 4\noptim: {lr: 1e-3}\n".encode("utf-16"),  # PowerShell's `>`
        b"\xfe\xff" + "seed: 4\noptim: {lr: 1e-3}\n".encode("utf-16-be"),
        "seed: 4\noptim: {lr: 1e-3}\n".encode("utf-32"),
        b"---\nseed: 4\noptim: {lr: 1e-3}\n...\n",
        b'{"seed": 4, "optim": {"lr": 1e-3}}',
        b"optim.lr: 1e-3\nseed: 4\n",
        b"optim.lr: 1e-3\nseed: 4\noptim: {}\n",
    ],
)
def test_every_encoding_and_line_end_gives_the_same_settings(
    tmp_path: Path, content: bytes
) -> None:
    assert load(tmp_path, content) == ExperimentConfig().override({"seed": 4, "optim.lr": 1e-3})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "seed: 4\ndata: {root: größe}\n".encode("cp1252"),
            "c.yaml:2: byte 0xf6 is not UTF-8; save the file as UTF-8",
        ),
        ("seed: 4\n".encode("utf-16-le"), "c.yaml: looks like UTF-16LE without a byte order mark"),
        (b"\x89PNG\r\n\x1a\n\0\0", "c.yaml: has zero bytes, so it is no text file"),
        ("seed: 4\noptim: {name: \x07}\n", "c.yaml:2: control character U+0007; remove it"),
        ("# \x1b[0m\n", "c.yaml:1: control character U+001B; remove it"),
        ("seed: 4\n\ufeffoptim: {}\n", "c.yaml:2: '\\ufeffoptim' has the invisible character"),
        ("seed:\u00a04\n", "a no-break space follows the colon; write a usual space"),
        ("optim:\n\u00a0 lr: 1\n", "c.yaml:2: '\\xa0 lr' begins or ends with U+00A0"),
        ("data:\n  root: \u201c/x\u201d\n", "c.yaml:2: '“/x”' has U+201C"),
        ("optim: {lr: 1e\u22123}\n", "c.yaml:1: optim.lr: allowed is number > 0; got '1e\u22123'"),
    ],
)
def test_an_unreadable_character_is_named_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    assert message in refusal(tmp_path, content)


def test_a_file_in_another_encoding_names_the_command_that_converts_it(tmp_path: Path) -> None:
    message = refusal(tmp_path, "# größe\n".encode("latin-1"))
    assert "If this line should be '# größe', its encoding is Windows-1252" in message
    assert "iconv -f WINDOWS-1252 -t UTF-8 c.yaml > NEW_FILE" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim:\n\tlr: 1\n", "c.yaml:2: not readable as YAML: a tab; indent with spaces"),
        ("seed: 1\n---\nseed: 2\n", "c.yaml:2: not readable as YAML: a second document begins"),
        ("data:\n  crop: !!python/tuple [64, 64]\n", "c.yaml:2: not readable as YAML: the tag"),
        ("seed: !foo 1\n", "the tag !foo is not supported; write plain values"),
        ("data: {root: 'x}\n", "a quote is not closed"),
        ("data: {crop: [64, 64}\n", "c.yaml:1: not readable as YAML"),
        ("data:\n  root: a: b\n", "c.yaml:2: not readable as YAML: a colon that was not expected"),
        ("optim:\n lr: 1\n  name: sgd\n", "c.yaml:3: not readable as YAML: a colon"),
        ('data: {root: "C:\\data"}\n', "in double quotes a backslash begins an escape"),
        ("seed: {{ seed }}\n", "braces inside braces, as in a template"),
        ("seed:1\n", "found text; a space is missing after the colon; write `name: value`"),
        ("optim:\n  lr:1e-3\n", "c.yaml:1: optim: allowed is settings; got 'lr:1e-3'; a section"),
        ("[optim]\nlr = 1e-3\n", "this looks like TOML or INI"),
        ("seed = 3\n", "this looks like TOML or INI; YAML has `name: value`"),
        ("[optim]\nlr: 1e-3\n", "this looks like TOML or INI; YAML has `section:`"),
        ("_base_ = ['a.py']\nmodel = dict(type='X')\n", "this looks like a Python config"),
        ("norm_cfg = dict(\n    type='SyncBN',\n)\n", "this looks like a Python config"),
        ("<!DOCTYPE html>\n<html></html>\n", "this is a web page or XML; download the raw file"),
        ("seed\uff1a1\n", "it has U+FF1A FULLWIDTH COLON; write a colon and a space"),
        ("// x\nseed: 4\n", "c.yaml:2: not readable as YAML: a comment begins with #"),
        ("<<<<<<< HEAD\nseed: 4\n=======\nseed: 5\n>>>>>>> x\n", "conflict markers of git"),
        ("```yaml\nseed: 4\n```\n", "remove the lines with ```"),
        ("version https://git-lfs.github.com/spec/v1\noid x\n", "run git lfs pull"),
        ("seed: !!int x\n", "c.yaml: not readable as YAML: invalid literal for int()"),
        ("a: " + "{a: " * 400 + "1" + "}" * 400, "c.yaml: nested too deeply"),
        ("- seed: 1\n", "c.yaml: expected names and values, found list"),
        ("", "c.yaml: no settings, the file is empty or has only comments"),
        ("# seed: 1\n", "c.yaml: no settings, the file is empty or has only comments"),
    ],
)
def test_text_that_is_no_settings_file_says_what_it_is(
    tmp_path: Path, content: str, message: str
) -> None:
    assert message in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\non: 2\n", "c.yaml:2: on: no such setting"),
        ("seed: 1\noptim:\n  off: 2\n", "c.yaml:3: optim.off: no such setting"),
        ("seed: 1\nnull: 2\n", "c.yaml:2: null: no such setting"),
        ("~: 2\n", "c.yaml:1: ~: no such setting"),
        ("seed: 1\n1: 2\n", "c.yaml:2: 1: no such setting"),
        ("1.0: 2\n", "c.yaml:1: 1.0: no such setting"),
        ("Seed: 1\n", "c.yaml:1: Seed: no such setting; did you mean 'seed'?"),
        ("optim.lrr: 1\n", "c.yaml:1: optim.lrr: no such setting; did you mean 'optim.lr'?"),
        ("seed: 1\noptim.lr: 1\noptim: {lr: 2}\n", "c.yaml:3: optim.lr: given twice"),
        ("optim: adamw\n", "c.yaml:1: optim: allowed is settings; got 'adamw'; a section has"),
        ("optim:\n  - lr: 1\n", "write the settings of a section without dashes"),
        ("optim:\n  lr:\n", "c.yaml:2: optim.lr: allowed is number > 0; got None; there is no"),
        ("seed: 010\n", "got '010'; write 10"),
    ],
)
def test_a_key_that_is_no_setting_has_its_line_and_the_text_of_the_file(
    tmp_path: Path, content: str, message: str
) -> None:
    assert message in refusal(tmp_path, content)


def test_a_section_whose_lines_are_comments_has_its_defaults(tmp_path: Path) -> None:
    text = "optim:\n  # lr: 1e-3\nloss:\n  focal:\n  dice: {weight: 0.5}\nseed: 4\n"
    expected = ExperimentConfig().override({"seed": 4, "loss.dice.weight": 0.5})
    assert load(tmp_path, text) == expected


def test_dotted_names_and_sections_may_be_mixed_at_any_depth(tmp_path: Path) -> None:
    config = load(tmp_path, "loss: {focal.gamma: 1.0}\nloss.dice: {weight: 0.5}\n")
    assert (config.loss.focal.gamma, config.loss.dice.weight) == (1.0, 0.5)
    assert SearchConfig.parse({"proxy.epochs": 3}).get("proxy.epochs") == 3
    assert SearchConfig.parse({"scheduler.asha.reduction": 2}).get("scheduler.asha.reduction") == 2


def test_yaml_1_1_words_are_booleans_only_for_switches(tmp_path: Path) -> None:
    assert load(tmp_path, "augment: {photometric: off}\n").augment.photometric is False
    message = refusal(tmp_path, "data:\n  classes: [road, no]\n")
    assert message.startswith("c.yaml:2: data.classes: the name of label 1 is the truth value")
    assert message.endswith("write the name in quotes")
    assert load(tmp_path, "data:\n  classes: [road, 'no']\n").data.classes == ("road", "no")


def test_a_folder_and_a_near_miss_are_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"is a folder; expected a YAML file; use .*config.yaml"):
        load_config(tmp_path / "run")
    (tmp_path / "voc.yml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'voc.yml'"):
        load_config(tmp_path / "voc.yaml")


def test_a_config_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my config.yaml").write_text("seed: 4\n")
    assert load_config("~/my config.yaml").seed == 4


def test_a_study_whose_config_has_no_value_is_refused(tmp_path: Path) -> None:
    text = "config:\n# seed: 3\nspace: {optim.lr: {uniform: [0.1, 0.2]}}\n"
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"s.yaml:1: config: has no value; give a path or"):
        load_study(tmp_path / "s.yaml")


def test_a_database_in_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for url, expected in (
        ("sqlite:///~/s.db", "sqlite:////home/me/s.db"),
        ("sqlite:///s.db", "sqlite:///s.db"),
        ("postgresql://me@host/~x", "postgresql://me@host/~x"),
    ):
        assert SearchConfig.parse({"storage": url}).storage == expected


def test_text_that_reads_like_a_number_is_written_so_that_it_stays_text(tmp_path: Path) -> None:
    names = ["1e5", "010", "08", "12:30", "no", "null", "~", "1_000", "0x10", ".5e1", "# a", "a #b"]
    config = ExperimentConfig().override({"data.classes": names, "data.root": "a: #b"})
    assert load(tmp_path, write_yaml(config.dump())) == config
    assert yaml.safe_load(write_yaml(config.dump()))["data"]["classes"] == names


def test_a_file_that_exists_may_have_any_name(tmp_path: Path) -> None:
    for name in ("\u201cdata\u201d", "a\u200bb", "data\u00a0"):
        (tmp_path / name).mkdir()
        config = ExperimentConfig().override({"data.root": str(tmp_path / name)})
        assert load(tmp_path, write_yaml(config.dump())) == config
