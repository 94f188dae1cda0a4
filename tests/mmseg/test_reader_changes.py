"""Laws of the static reader: dicts that methods change, and changes that are not followed."""

from pathlib import Path
from typing import Any

import pytest

from segtune.mmseg.nodes import Unresolved
from segtune.mmseg.reader import MmsegConfig, read_mmseg_config

BASE = "model = dict(type='A', head=dict(n=19, loss=dict(w=1)), pools=[1, 2])\nflag = True"
PIPELINE = "[dict(type='Load'), dict(type='Crop', crop_size=(512, 512))]"


def read(folder: Path, text: str, base: str = BASE) -> MmsegConfig:
    (folder / "base.py").write_text(base)
    (folder / "cfg.py").write_text(text)
    return read_mmseg_config(folder / "cfg.py")


NEW_STYLE = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
OLD_STYLE = "_base_ = './base.py'\nmodel = _base_.model\n"


@pytest.mark.parametrize("start", [NEW_STYLE, OLD_STYLE])
@pytest.mark.parametrize(
    "change",
    [
        "model.update(head=dict(loss=dict(w=2)), new=dict(a=1))",
        "model.update(dict(head=dict(loss=dict(w=2)), new=dict(a=1)))",
        "own = dict(loss=dict(w=2))\nmodel.update(dict(head=own, new=dict(a=1)))\nown['n'] = 7",
        "model.head.update(loss=dict(w=2))\nmodel['new'] = dict(a=1)",
        "model.merge(dict(head=dict(loss=dict(w=2)), new=dict(a=1)))",
    ],
)
def test_update_of_a_dict_of_a_base_file_merges_the_dicts_in_it(
    tmp_path: Path, start: str, change: str
) -> None:
    assert read(tmp_path, start + change).root.plain["model"] == {
        "type": "A",
        "head": {"n": 19, "loss": {"w": 2}},
        "pools": [1, 2],
        "new": {"a": 1},
    }


def test_update_of_a_dict_of_the_file_itself_replaces_the_dicts_in_it(tmp_path: Path) -> None:
    text = "m = dict(head=dict(n=19, k=1), a=1)\nm.update(head=dict(n=2))"
    assert read(tmp_path, text).root.plain["m"] == {"head": {"n": 2}, "a": 1}


def test_dicts_of_a_base_file_merge_also_if_the_file_renames_or_unpacks_them(
    tmp_path: Path,
) -> None:
    text = (
        "with read_base():\n    from .base import model as net\n"
        "own = dict(**net)\nown.update(head=dict(n=2))\nnet['head'].update(loss=dict(w=3))"
    )
    plain = read(tmp_path, text).root.plain
    assert plain["own"]["head"] == {"n": 2}
    assert plain["net"]["head"] == {"n": 19, "loss": {"w": 3}}


def test_a_plain_dict_put_into_a_dict_of_a_base_file_is_copied_and_then_merges(
    tmp_path: Path,
) -> None:
    text = (
        "with read_base():\n    from .base import *\n"
        "own = dict(a=dict(b=1, c=1))\nmodel['new'] = own\nown['a'] = 5\n"
        "model.new.update(a=dict(b=2))"
    )
    plain = read(tmp_path, text).root.plain
    assert plain["model"]["new"] == {"a": {"b": 2, "c": 1}}
    assert plain["own"] == {"a": 5}


def test_update_over_an_unknown_value_of_a_base_file_stays_unknown(tmp_path: Path) -> None:
    config = read(tmp_path, NEW_STYLE + "model.update(head=dict(n=2), x=1)", "model=dict(head=f())")
    plain = config.root.plain["model"]
    assert isinstance(plain["head"], Unresolved)
    assert plain["x"] == 1


@pytest.mark.parametrize(
    "change, expected",
    [
        ("x = m.pop('a')", {"b": 2}),
        ("m.pop('a')", {"b": 2}),
        ("m.setdefault('a', 5)\nm.setdefault('c', 6)", {"a": 1, "b": 2, "c": 6}),
        ("m.clear()\nm.a = 3", {"a": 3}),
        ("n = m.copy()\nn['a'] = 9", {"a": 1, "b": 2}),
        ("assert len(m) == 2\nprint(m)", {"a": 1, "b": 2}),
    ],
)
def test_a_method_changes_a_dict_as_in_python(tmp_path: Path, change: str, expected: Any) -> None:
    config = read(tmp_path, f"m = dict(a=1, b=2)\n{change}")
    assert config.root.plain["m"] == expected
    assert config.not_executed == ()


def test_a_copy_shares_the_dicts_inside_and_a_deep_copy_does_not(tmp_path: Path) -> None:
    text = "import copy\nm = dict(a=dict(b=1))\nn = {}(m)\nn['a']['b'] = 2"
    assert read(tmp_path, text.format("copy.copy")).root.plain["m"] == {"a": {"b": 2}}
    assert read(tmp_path, text.format("copy.deepcopy")).root.plain["m"] == {"a": {"b": 1}}


def test_a_list_that_grows_in_place_grows_under_every_name(tmp_path: Path) -> None:
    plain = read(tmp_path, "a = [1]\nb = dict(c=a)\na += [2]\na *= 2\na = a + [3]").root.plain
    assert (plain["a"], plain["b"]["c"]) == ([1, 2, 1, 2, 3], [1, 2, 1, 2])


def test_unknown_values_that_are_unpacked_may_replace_the_keys_before(tmp_path: Path) -> None:
    plain = read(tmp_path, "a = {'b': 1, **f(), 'c': 2}\nx = [*f(), 1, 2]").root.plain
    assert isinstance(plain["a"]["b"], Unresolved)
    assert plain["a"]["c"] == 2
    assert isinstance(plain["x"], Unresolved)  # its items have no known places


@pytest.mark.parametrize(
    "change",
    [
        "for t in p:\n    if t['type'] == 'Crop':\n        t['crop_size'] = (640, 640)",
        "for i, t in enumerate(p):\n    t.update(crop_size=(640, 640))",
        "def bigger(p): p[1]['crop_size'] = (640, 640)\nbigger(p)",
        "def bigger(p): p[1]['crop_size'] = (640, 640)\np = bigger(p)",
        "from tools import bigger\nx = dict(a=[bigger(q=p)])",
        "x = [bigger(t) for t in p if t]",
        "x = [bigger(t) for t in p]",
        "def bigger(): p[unknown]['crop_size'] = (640, 640)\nx = bigger()",
        "def bigger():\n    q = p\n    q[1]['crop_size'] = (640, 640)\nbigger()",
        "def bigger(): p.append(1)\ndef outer(): bigger()\nouter()",
        "def bigger():\n    global p\n    p += [1]\nbigger()",
        "@register(p)\ndef f(): pass",
        "def f(a=register(p)): pass",
        "class A:\n    p.append(1)",
        "x = [bigger(p), p[1]['crop_size']]",
        "p *= 2\np += unknown",
        "p[unknown] = 1",
        "p.sort(key=unknown)",
        "if unknown:\n    alias = p\n    alias[1]['crop_size'] = (640, 640)",
        "if unknown:\n    p += [1]",
        "while unknown:\n    del p[0]",
        "try:\n    bigger(p)\nexcept KeyError:\n    pass",
    ],
)
def test_a_change_that_is_not_followed_is_unknown_under_every_name(
    tmp_path: Path, change: str
) -> None:
    text = f"p = {PIPELINE}\ndata = dict(train=dict(pipeline=p), size=(1, 2))\n{change}"
    plain = read(tmp_path, text).root.plain
    assert isinstance(plain["data"]["train"]["pipeline"], Unresolved)
    assert isinstance(plain["p"], Unresolved)
    assert plain["data"]["size"] == [1, 2]


def test_an_alias_of_a_base_file_that_a_loop_changes_is_unknown(tmp_path: Path) -> None:
    text = "_base_ = 'base.py'\np = _base_.p\nfor t in p:\n    t['crop_size'] = (640, 640)"
    config = read(tmp_path, text, f"p = {PIPELINE}")
    assert isinstance(config.root.plain["p"], Unresolved)
    assert [place.line for place in config.not_executed] == [3]


def test_base_variables_that_a_function_may_change_are_unknown(tmp_path: Path) -> None:
    plain = read(tmp_path, "_base_ = 'base.py'\nchange(_base_)").root.plain
    assert plain.keys() == {"model", "flag"}
    assert all(isinstance(value, Unresolved) for value in plain.values())


@pytest.mark.parametrize("start, end", [("if unknown:", ""), ("def f():", "x = f()")])
def test_only_the_key_that_an_if_or_a_function_sets_is_unknown(
    tmp_path: Path, start: str, end: str
) -> None:
    change = "m['b']['c'] = 3\n    m['new'] = 1"
    text = f"m = dict(a=1, b=dict(c=2))\n{start}\n    {change}\n{end}"
    plain = read(tmp_path, text).root.plain["m"]
    assert plain["a"] == 1
    assert isinstance(plain["b"]["c"], Unresolved)
    assert isinstance(plain["new"], Unresolved)


@pytest.mark.parametrize(
    "text",
    [
        "x = [t['type'] for t in p]",
        "n = len(p)\nprint(p)\nassert p[0].get('type') == 'Load'",
        "s = '{}'.format(p[0]['type'])",
        "names = [str(t['type']).lower() for t in p]",
        "def f(p): p.append(1)\nx = f([2])",
        "def f(): p.append(1)",
        "def f():\n    p = [1]\n    p.append(1)\nx = f()",
        "class A:\n    def f(self, p):\n        self.x = p.append(1)",
        "try:\n    import torch\nexcept ImportError:\n    pass",
        "import os\nos.environ['A'] = 'b'",
    ],
)
def test_reading_a_value_does_not_make_it_unknown(tmp_path: Path, text: str) -> None:
    config = read(tmp_path, f"p = [dict(type='Load')]\n{text}")
    assert config.root.plain["p"] == [{"type": "Load"}]
    assert config.not_executed == ()


@pytest.mark.parametrize(
    "text",
    [
        "globals()['lr'] = 2",
        "exec('lr = 2')",
        "from settings import *",
        "x = load()\nx['a'] = 1",  # x may be an alias
        "x = load()\nx += [1]",
        "if lr:\n    lr = 2",
    ],
)
def test_a_statement_that_may_set_anything_is_named(tmp_path: Path, text: str) -> None:
    assert len(read(tmp_path, f"lr = 1\n{text}").not_executed) == 1


def test_names_that_are_set_in_unusual_ways_are_unknown(tmp_path: Path) -> None:
    text = "x = (y := 3)\n(v := 4)\na, *b = [1, 2, 3]\nmatch x:\n    case [z]:\n        w = 1"
    plain = read(tmp_path, text).root.plain
    assert all(isinstance(plain[name], Unresolved) for name in "yvabzw")
    assert plain["x"] == 3
