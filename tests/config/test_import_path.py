"""The user's own code, named in a config by import path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segtune.config.import_path import is_import_path, load_object
from segtune.errors import ConfigError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder of a package `my_pkg` outside the repository, which Python finds."""
    folder = tmp_path / "my_pkg"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "models.py").write_text(
        "SIZE = 3\ndef build(x): return x + 1\nclass Net:\n    @staticmethod\n"
        "    def small(x): return x + 2\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my_pkg.models:build", True),
        ("models:Net.small", True),
        ("smp:Unet", False),
        ("segformer", False),
        ("resnet50.a1_in1k", False),
        ("C:\\models", False),
        ("hf-hub:owner/name", False),
        ("models:", False),
        (3, False),
        (None, False),
    ],
)
def test_an_import_path_is_module_colon_name(text: object, expected: bool) -> None:
    assert is_import_path(text) is expected


@pytest.mark.usefixtures("package")
def test_a_function_and_an_attribute_of_a_class_are_imported() -> None:
    assert load_object("my_pkg.models:build", "model.name")(1) == 2
    assert load_object("my_pkg.models:Net.small", "model.name")(1) == 3


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("my_pgk.models:build", "no module or package 'my_pgk'; did you mean 'my_pkg'?; run seg"),
        ("my_pkg.model:build", "no module 'model' in my_pkg; did you mean 'models'?"),
        ("my_pkg.models:biuld", "my_pkg.models has no 'biuld'; did you mean 'build'?"),
        ("my_pkg.models:SIZE", "is a int; expected a function or a class"),
        ("my_pkg.models", "expected package.module:name"),
    ],
)
def test_a_wrong_import_path_names_the_setting_and_the_nearest_name(
    path: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_object(path, "model.name")
    assert str(error.value).startswith("model.name: ")
    assert expected in str(error.value)


def test_an_error_inside_the_module_is_raised_as_it_is(package: Path) -> None:
    (package / "my_pkg" / "broken.py").write_text("import no_such_library\n")
    (package / "my_pkg" / "zero.py").write_text("1 / 0\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load_object("my_pkg.broken:build", "model.name")
    with pytest.raises(ZeroDivisionError):
        load_object("my_pkg.zero:build", "model.name")


def test_the_current_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models_here.py").write_text("def build(): return 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_object("own_models_here:build", "model.name")() == 7
