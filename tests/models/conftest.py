"""A package outside the repository with a model and a backbone: those of docs/own-code.md."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "own-code.md"
BLOCK = re.compile(r"`(my_pkg/\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


def write_package(folder: Path) -> None:
    """Write the code of the page as a package `my_pkg` into a folder."""
    (folder / "my_pkg").mkdir()
    (folder / "my_pkg" / "__init__.py").touch()
    for name, code in BLOCK.findall(PAGE.read_text()):
        (folder / name).write_text(code)


def forget_package() -> None:
    """Let Python import the package again, because each test has a folder of its own."""
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder with the package `my_pkg`, in which Python looks for modules."""
    write_package(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    forget_package()
