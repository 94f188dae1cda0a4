"""Laws of the static reader: no config can crash it, or take much memory or time."""

import ast
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import pytest

from segtune.errors import ConfigError
from segtune.mmseg.nodes import Unresolved
from segtune.mmseg.reader import MmsegConfig, read_mmseg_config

MAX_BYTES = 200e6


def read(folder: Path, text: str) -> MmsegConfig:
    (folder / "cfg.py").write_text(text)
    return read_mmseg_config(folder / "cfg.py")


@pytest.mark.parametrize(
    "text",
    [
        "model = dict(b=1)\nmodel['a'] = model",
        "a = [1]\na.append(a)",
        "a = [1]\na += [a]",
        "x = []\n" + "x = [x]\n" * 3000,
        "x = []\n" + "x = dict(a=x)\n" * 3000,
    ],
)
def test_values_that_are_nested_too_deeply_are_one_message(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="nested deeper than 100 levels, or contains itself"):
        read(tmp_path, text)


def test_a_base_that_contains_itself_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("m = dict(a=dict(c=1))")
    for change in ("_base_.m['a'] = _base_.m", "_base_.m.update(a=_base_.m)"):
        with pytest.raises(ConfigError, match="contains itself"):
            read(tmp_path, f"_base_ = 'one.py'\n{change}\nm = dict(b=1)")


def test_a_long_chain_of_base_files_is_one_message(tmp_path: Path) -> None:
    for index in range(190):
        (tmp_path / f"b{index}.py").write_text(f"_base_ = 'b{index + 1}.py'")
    (tmp_path / "b190.py").write_text("a = 1")
    with pytest.raises(ConfigError, match="a chain of 30"):
        read(tmp_path, "_base_ = 'b0.py'")


@pytest.mark.parametrize("text", ["a = [1]\ndel a[5]", "a = [1]\na[5] = 2", "a = dict()\ndel a.b"])
def test_what_python_would_refuse_is_unresolved(tmp_path: Path, text: str) -> None:
    assert isinstance(read(tmp_path, text).root.plain["a"], Unresolved)


def _refuses(text: str) -> bool:
    try:
        ast.parse(text)
    except (RecursionError, MemoryError):
        return True
    return False


@pytest.mark.parametrize("terms", [150, 3000])
def test_a_long_sum_is_read_without_a_traceback(tmp_path: Path, terms: int) -> None:
    text = f"a = {' + '.join(['1'] * terms)}\nb = 2"
    # Python's own parser may refuse the longer one.
    with pytest.raises(ConfigError) if _refuses(text) else nullcontext():
        assert read(tmp_path, text).root.plain["b"] == 2


LONG_TEXT = "s = 'x' * 10000\n"
LONG_LIST = "s = [0] * 10000\n"


@pytest.mark.parametrize(
    "text",
    [
        LONG_TEXT + "s = s + s\n" * 20,
        LONG_TEXT + "s += s\n" * 20,
        LONG_TEXT + "s = f'{s}{s}{s}{s}'\n" * 9,
        LONG_TEXT + "s = '{0}{0}{0}{0}'.format(s)\n" * 9,
        LONG_TEXT + "s = '" + "{0}" * 3000 + "'.format(s)\n",
        LONG_TEXT + "import os.path as osp\n" + "s = osp.join(s, s, s, s)\n" * 9,
        LONG_TEXT + "a = [s] * 10000\ns = str(a)",
        LONG_LIST + "s = s + s\n" * 14,
        LONG_LIST + "s.extend(s)\n" * 15,
        LONG_LIST + "s += s\n" * 15,
    ],
)
def test_text_and_lists_that_grow_on_each_line_are_unresolved(tmp_path: Path, text: str) -> None:
    tracemalloc.start()
    try:
        assert isinstance(read(tmp_path, text).root.plain["s"], Unresolved)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "x = [[0 for i in range(10000)] for j in range(10000)]",
        LONG_LIST + "x = [" + "*s, " * 2000 + "]",
        LONG_LIST + "x = [" + "s[:], " * 2000 + "]",
        LONG_LIST + "x = [" + "list(s), " * 2000 + "]",
        LONG_LIST + "x = [" + "s + [], " * 2000 + "]",
        "a = [0]\n" + "a = [a, a]\n" * 40 + "import copy\nb = copy.deepcopy(a)\na = 1",
        "a = [0]\n" + "a = [a, a]\n" * 40,
    ],
)
def test_values_above_the_limit_are_one_message(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="more than 200000 values"):
        read(tmp_path, text)


def test_a_value_that_expands_without_limit_may_be_asked_for_its_length(tmp_path: Path) -> None:
    doubled = "a = [0]\n" + "a = [a, a]\n" * 40
    config = read(tmp_path, doubled + "b = 1 if a else 2\nc = len(a)\nd = f'{a}'\na = 0")
    plain = config.root.plain
    assert (plain["b"], plain["c"]) == (1, 2)
    assert isinstance(plain["d"], Unresolved)


def test_functions_that_call_one_another_twice_are_looked_at_once(tmp_path: Path) -> None:
    lines = [f"def f{i}(): f{i - 1}(); f{i - 1}()" for i in range(1, 40)]
    config = read(tmp_path, "p = [1]\ndef f0(): p.append(1)\n" + "\n".join(lines) + "\nf39()")
    assert isinstance(config.root.plain["p"], Unresolved)


def test_a_statement_of_many_calls_and_loops_leaves_other_names_known(tmp_path: Path) -> None:
    config = read(tmp_path, f"a = 1\nx = [{'f(), [g(i) for i in (1, 2)], ' * 4000}]")
    assert config.root.plain["a"] == 1


def test_a_comprehension_beside_many_names_has_all_its_items(tmp_path: Path) -> None:
    names = "\n".join(f"a{i} = 1" for i in range(20_000))
    config = read(tmp_path, f"{names}\nx = [i for i in range(10000)]")
    assert len(config.root.plain["x"]) == 10_000
