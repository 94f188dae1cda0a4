"""Laws of the static reader: the values that mmengine would give, and no code is ever run."""

from pathlib import Path
from typing import Any

import pytest

from segtune.errors import ConfigError
from segtune.mmseg.nodes import Unresolved
from segtune.mmseg.reader import MmsegConfig, read_mmseg_config


def read(folder: Path, text: str, name: str = "cfg.py", **bases: str) -> MmsegConfig:
    """Write a config with its base files (base_py is base.py) and read it."""
    for base, content in bases.items():
        (folder / f"{base}.py").write_text(content)
    (folder / name).write_text(text)
    return read_mmseg_config(folder / name)


def values(folder: Path, text: str, **bases: str) -> dict[str, Any]:
    return read(folder, text, **bases).root.plain


@pytest.mark.parametrize(
    "expression, value",
    [
        ("4 * 2", 8),
        ("1e-4 / 2", 5e-5),
        ("-1", -1),
        ("2 ** 3 + 7 // 2 - 10 % 4", 9),
        ("'a' + 'b'", "ab"),
        ("[1] * 3 + [2]", [1, 1, 1, 2]),
        ("(1, 2)", [1, 2]),
        ("dict(a=1, **dict(b=2))", {"a": 1, "b": 2}),
        ("{'a': 1, **{'b': [True, None]}}", {"a": 1, "b": [True, None]}),
        ("[*[1, 2], 3][1:]", [2, 3]),
        ("[int(512 * x * 0.1) for x in range(5, 8)]", [256, 307, 358]),
        ("f'{3 + 4}k_{0.5:.2f}'", "7k_0.50"),
        ("'{}_{n}'.format('b2', n=3)", "b2_3"),
        ("1 if not False else 2", 1),
        ("{'a': {'b': [5, 6]}}['a']['b'][-1]", 6),
        ("dict(a=dict(b=7)).a.b", 7),
        ("max(3, len([1, 2]))", 3),
        ("max([4, 9, 2]) + sum([1, 2]) + min(5, 1)", 13),
        ("0.01 and 0.02", 0.02),
        ("0 and unknown()", 0),
        ("0 or [] or [3] or unknown()", [3]),
        ("1 if [0] and {'a': 0} else 2", 1),
        ("not [[]]", False),
        ("[(512, 512)] * 2", [[512, 512], [512, 512]]),
        ("2 * [dict(type='A')]", [{"type": "A"}, {"type": "A"}]),
        ("[{'a': 1}] + [[2]]", [{"a": 1}, [2]]),
        ("dict(a=5).get('a', 6) + dict(a=5).get('b', 6)", 11),
    ],
)
def test_expression_has_the_value_that_python_gives(
    tmp_path: Path, expression: str, value: Any
) -> None:
    assert values(tmp_path, f"x = {expression}")["x"] == value


@pytest.mark.parametrize(
    "expression",
    [
        "open('touched', 'w')",
        "__import__('os').system('touch touched')",
        "10 ** 10 ** 10",
        "[0] * 10 ** 9",
        "'a' * 10 ** 9",
        "range(10 ** 12)",
        "unknown_name + 1",
        "1 / 0",
        "(lambda: 1)()",
        "f'{3:1000000000}'",
        "'{0.__class__}'.format(1)",
        "9 ** 64 ** 1 * 9 ** 64 * 9 ** 64 * 9 ** 64 * 9 ** 64 * 9 ** 64",
        "max([[1, 2], [3, 4]])",
        "[(1, 2)] * [3]",
        "(-1) ** 0.5",
        "f'{[1, 2]}'",
        "1 if [unknown()][0] else 2",
    ],
)
def test_code_is_not_run_and_its_value_is_unresolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expression: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, f"y = 1\nx = dict(a={expression}, b=2)")
    plain = config.root.plain
    assert isinstance(plain["x"]["a"], Unresolved)
    assert (plain["x"]["b"], plain["y"]) == (2, 1)
    assert not (tmp_path / "touched").exists()


def test_an_unresolved_value_has_its_file_line_and_reason(tmp_path: Path) -> None:
    node = read(tmp_path, "a = 1\nb = dict(\n    c=compute(a))").root.value["b"].value["c"]
    assert str(node.place) == f"{tmp_path}/cfg.py:3"
    assert node.unresolved is not None
    assert "compute(a)" in str(node.unresolved)


def test_dicts_of_base_files_are_merged_and_other_values_replaced(tmp_path: Path) -> None:
    plain = values(
        tmp_path,
        "_base_ = ['./one.py', 'two.py']\nmodel = dict(head=dict(classes=2), pools=[9])\nlr = 2",
        one="model = dict(head=dict(classes=21, channels=512), pools=[1, 2], kept=True)",
        two="lr = 1\nother = 'x'",
    )
    assert plain == {
        "model": {"head": {"classes": 2, "channels": 512}, "pools": [9], "kept": True},
        "lr": 2,
        "other": "x",
    }


def test_delete_replaces_a_dict_of_the_base(tmp_path: Path) -> None:
    text = (
        "_base_ = 'one.py'\nloss = dict(_delete_=True, type='B')\nnew = dict(a=dict(_delete_=True))"
    )
    plain = values(tmp_path, text, one="loss = dict(type='A', gamma=2)")
    assert plain == {"loss": {"type": "B"}, "new": {"a": {}}}


def test_references_to_the_base_are_filled_in(tmp_path: Path) -> None:
    plain = values(
        tmp_path,
        "_base_ = 'one.py'\na = {{_base_.size}}\nb = '{{ _base_.d.e }}'\nc = _base_.d.e + 1\n"
        "f = 'in {{fileBasenameNoExtension}} of {{_base_.name}}'\n"
        "g = '{{$SEGTUNE_NO_SUCH_VARIABLE:fallback}}'",
        one="size = (4, 2)\nd = dict(e=3)\nname = 'n'",
    )
    assert (plain["a"], plain["b"], plain["c"]) == ([4, 2], 3, 4)
    assert (plain["f"], plain["g"]) == ("in cfg of n", "fallback")


@pytest.mark.parametrize(
    "expression, default, set_to_8",
    [
        ("{{'$SEGTUNE_N:4'}}", 4, 8),
        ('{{ "$SEGTUNE_N:4" }}', Unresolved, Unresolved),  # mmengine takes no space there
        ("{{'$SEGTUNE_N:(1,2)'}}", [1, 2], 8),
        ("dict(a={{'$SEGTUNE_N:4'}} * 2)['a']", 8, 16),
        ("'{{$SEGTUNE_N:4}}'", "4", "8"),
        ("'{{$SEGTUNE_N:/data}}/voc'", "/data/voc", "8/voc"),
    ],
)
def test_a_variable_of_the_environment_stands_for_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expression: str, default: Any, set_to_8: Any
) -> None:
    for variable, expected in ((None, default), ("8", set_to_8)):
        if variable:
            monkeypatch.setenv("SEGTUNE_N", variable)
        value = values(tmp_path, f"x = {expression}")["x"]
        assert isinstance(value, Unresolved) if expected is Unresolved else value == expected


@pytest.mark.parametrize("first_line", ["Config:", "Config: ", "\nConfig:"])
def test_the_output_of_print_config_is_a_config(tmp_path: Path, first_line: str) -> None:
    config = read(tmp_path, f"{first_line}\na = 1\nb = f()")
    assert config.root.plain["a"] == 1
    assert config.root.value["b"].place.line == first_line.count("\n") + 3


def test_a_variable_of_the_wrong_kind_is_unresolved_with_the_kind_that_is_expected(
    tmp_path: Path,
) -> None:
    text = "train_dataloader = 5\nmodel = [1]\nparam_scheduler = [dict(a=1)]\nother = 5"
    plain = values(tmp_path, text + "\nval_cfg = None\ntest_evaluator = True")
    assert str(plain["train_dataloader"]) == "5 (expected a dict)"
    assert str(plain["model"]) == "a list (expected a dict)"
    assert str(plain["test_evaluator"]) == "true (expected a dict or a list of dicts)"
    assert (plain["param_scheduler"], plain["other"], plain["val_cfg"]) == ([{"a": 1}], 5, None)


def test_a_variable_of_a_base_file_that_an_if_sets_is_unresolved(tmp_path: Path) -> None:
    node = read(
        tmp_path, "_base_ = 'one.py'\nif True:\n    lr = dict(a=2)", one="lr = dict(a=1)"
    ).root.value["lr"]
    assert node.unresolved is not None
    assert "set in an if" in str(node.unresolved)


def test_a_dict_over_an_unknown_value_of_the_base_is_unknown(tmp_path: Path) -> None:
    plain = values(tmp_path, "_base_ = 'one.py'\na = dict(b=1)", one="a = compute()")
    assert isinstance(plain["a"], Unresolved)


def test_the_reason_is_the_first_cause(tmp_path: Path) -> None:
    plain = values(tmp_path, "a = load()\nb = a + 1\nc = b * 2\nd = c - 1")
    assert str(plain["d"]).startswith("c - 1 (load(): a call of load; segtune reads")


def test_a_yaml_base_file_is_refused_with_the_way_out_for_the_config(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"old\.yaml is not Python; .* \S*cfg\.py > dumped"):
        read(tmp_path, "_base_ = 'old.yaml'")


def test_text_in_another_encoding_is_refused_with_its_path_once(tmp_path: Path) -> None:
    (tmp_path / "cfg.py").write_bytes("a = 'Straße'".encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        read_mmseg_config(tmp_path / "cfg.py")
    assert str(error.value).count("cfg.py:") == 1


def test_changes_of_a_dict_reach_every_name_that_shares_it(tmp_path: Path) -> None:
    plain = values(
        tmp_path,
        "p = [dict(a=1), dict(b=2)]\nd = dict(pipeline=p)\np[1]['b'] = 5\np.insert(0, dict(c=0))\n"
        "d.update(x=1)\nd['y'] = dict(z=2)\nd['y'].z = 3\ndel d['x']\nn = 1\nn += 2",
    )
    assert plain["d"] == {"pipeline": [{"c": 0}, {"a": 1}, {"b": 5}], "y": {"z": 3}}
    assert plain["n"] == 3


def test_what_a_loop_or_an_unknown_method_changes_is_unresolved(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "a = dict(x=1)\nb = [1]\nc = [2]\nfor i in range(2):\n    a['x'] = i\nb.sort(key=f)\n"
        "if True:\n    c.append(1)\nregister_all()",
    )
    plain = config.root.plain
    assert all(isinstance(value, Unresolved) for value in (plain["a"]["x"], plain["b"], plain["c"]))
    assert [place.line for place in config.not_executed] == [4, 6, 7, 9]


def test_new_style_configs_are_read_through_read_base(tmp_path: Path) -> None:
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "net.py").write_text(
        "from mmseg.models import EncoderDecoder\n"
        "model = dict(type=EncoderDecoder, head=dict(n=21))"
    )
    (tmp_path / "runs").mkdir()
    config = read(
        tmp_path / "runs",
        "from mmengine.config import read_base\nwith read_base():\n    from .._base_.net import *\n"
        "model['head'].update(dict(n=2))",
    )
    assert config.root.plain == {"model": {"type": "EncoderDecoder", "head": {"n": 2}}}
    assert config.root.value["model"].value["type"].place.line == 2  # not the import's


@pytest.mark.parametrize(
    "text, bases, expected",
    [
        ("_base_ = 'one.py'", {"one": "_base_ = 'cfg.py'"}, "include one another"),
        ("_base_ = 'on.py'", {"one": "a = 1"}, "did you mean 'one.py'? Import the config"),
        ("_base_ = 'no_such'", {}, "/no_such. Import the config"),
        ("_base_ = 'mmdet::x.py'", {}, "print_config.py"),
        ("_base_ = ['one.py', 'two.py']", {"one": "a = 1", "two": "a = 2"}, "set by two base"),
        ("_base_ = 'one.py'\na = dict(b=1)", {"one": "a = [1]"}, "_delete_=True"),
        ("_base_ = compute()", {}, "expected a path"),
        ("a = (", {}, "cfg.py:1: not readable as Python"),
        ("", {}, "sets no variable"),
        (
            "from mmengine.config import read_base\nwith read_base():\n    from x import *",
            {},
            "dump",
        ),
    ],
)
def test_a_mistake_is_one_message_with_its_place(
    tmp_path: Path, text: str, bases: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=r".") as error:
        read(tmp_path, text, **bases)
    assert expected in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_lists_that_contain_one_another_do_not_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0 = [1, 1]", *(f"a{i} = [a{i - 1}, a{i - 1}]" for i in range(1, 60))]
    with pytest.raises(ConfigError, match="more than 200000 values"):
        read(tmp_path, "\n".join(lines))


def test_an_absent_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "upernet.py").write_text("a = 1")
    with pytest.raises(ConfigError, match=r"did you mean 'upernet\.py'"):
        read_mmseg_config(tmp_path / "uppernet.py")
