"""Read an mmengine config file with its base files. Code is never executed."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path

from segtune.errors import ConfigError, nearest
from segtune.mmseg.changes import marked
from segtune.mmseg.expressions import evaluate
from segtune.mmseg.finishing import class_names_as_text, wrong_kinds_as_unknown
from segtune.mmseg.merging import joined_bases, merged, without_deletes
from segtune.mmseg.nodes import Budget, Node, Place, check_size
from segtune.mmseg.scope import NOT_EXECUTED, Scope
from segtune.mmseg.source_text import DUMP_IT, is_data, parse
from segtune.mmseg.statements import Statements

MAX_FILES = 200
MAX_CHAIN = 30  # of base files that include the next one


@dataclass(frozen=True)
class MmsegConfig:
    """The variables of a config with those of its base files, and what was not executed."""

    root: Node  # {name: Node}
    files: tuple[str, ...]  # in the order of reading, the config itself first
    not_executed: tuple[Place, ...]


def read_mmseg_config(path: str | Path) -> MmsegConfig:
    """Read a config of mmsegmentation 0.x or 1.x, or one that `print_config.py` has dumped.

    Raises ConfigError if a file is absent or not Python, if base files include one another, or if
    the values are too many or nested too deeply.
    """
    reader = _Reader()
    root = reader.read(Path(os.path.expanduser(path)), ())
    if not root.value:
        raise ConfigError([f"{path}: sets no variable; expected a config of mmsegmentation"])
    check_size(root)
    class_names_as_text(root)
    wrong_kinds_as_unknown(root)
    return MmsegConfig(root, tuple(reader.files), tuple(reader.not_executed))


class _Reader:
    """Reads files, each with its base files."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.not_executed: list[Place] = []
        self.budget = Budget()

    def read(self, path: Path, stack: tuple[Path, ...]) -> Node:
        """Return {name: Node} of a file merged with its base files; `stack` has the files above."""
        resolved = path.resolve()
        if resolved in stack:
            circle = " -> ".join(str(file) for file in (*stack[stack.index(resolved) :], resolved))
            raise ConfigError([f"{path}: _base_ files include one another: {circle}"])
        tree = parse(path)
        self.files.append(str(path))
        if len(self.files) > MAX_FILES or len(stack) >= MAX_CHAIN:
            limits = f"{MAX_FILES} base files, or a chain of {MAX_CHAIN}"
            raise ConfigError([f"{path}: more than {limits}; this is not a config"])
        scope = Scope(str(path), self.budget, predefined=_predefined(path))
        stack = (*stack, resolved)
        base = self._base(tree, scope, stack)
        scope.base = base
        statements = Statements(scope, lambda imp, into: self._import_base(imp, into, path, stack))
        statements.follow([s for s in tree.body if not _is_base_assignment(s)])
        self.not_executed += [scope.place(statement) for statement in statements.not_executed]
        own = {
            name: node
            for name, node in scope.names.items()
            if name not in statements.imported and not name.startswith("_")
        }
        result = Node(own, Place(str(path), 1))
        if base:
            return merged(base, result, self.budget)
        return without_deletes(result, self.budget)

    def _base(self, tree: ast.Module, scope: Scope, stack: tuple[Path, ...]) -> Node | None:
        """Return the variables of the files in `_base_`; None if the file has none."""
        assignments = [statement for statement in tree.body if _is_base_assignment(statement)]
        if not assignments:
            return None
        statement = assignments[-1]
        assert isinstance(statement, ast.Assign)
        value = evaluate(statement.value, scope).value
        names = [node.value for node in value] if isinstance(value, list) else [value]
        place = scope.place(statement)
        if not all(isinstance(name, str) for name in names):
            raise ConfigError(
                [f"{place}: _base_: expected a path or a list of paths, as text; {NOT_EXECUTED}"]
            )
        bases = [self._open_base(name, place, stack) for name in names]
        return marked(joined_bases(bases, str(place))) if bases else None

    def _open_base(self, name: str, place: Place, stack: tuple[Path, ...]) -> Node:
        if "::" in name or "://" in name:
            way_out = DUMP_IT.format(path=self.files[0])
            raise ConfigError([f"{place}: _base_: {name} is in another package; {way_out}"])
        return self._existing(Path(place.file).parent / name, f"{place}: _base_", stack)

    def _existing(self, path: Path, where: str, stack: tuple[Path, ...]) -> Node:
        path = Path(os.path.normpath(path))
        if not path.is_file():
            folder = path.parent
            near = nearest(path.name, [p.name for p in folder.glob("*.py")])
            hint = (near or ".") if folder.is_dir() else f"; there is no folder {folder}."
            raise ConfigError(
                [
                    f"{where}: no such file {path}{hint} Import the config where it lies in "
                    f"mmsegmentation, or {DUMP_IT.format(path=self.files[0])}"
                ]
            )
        if is_data(path):
            way_out = DUMP_IT.format(path=self.files[0])
            raise ConfigError([f"{where}: {path} is not Python; {way_out}"])
        return self.read(path, stack)

    def _import_base(
        self, statement: ast.ImportFrom, scope: Scope, path: Path, stack: tuple[Path, ...]
    ) -> None:
        """Add the variables of `from .._base_.x import *` inside `with read_base():`."""
        place = scope.place(statement)
        if not statement.level or not statement.module:
            raise ConfigError(
                [
                    f"{place}: {ast.unparse(statement)}: only imports of files by relative paths "
                    f"(from .x import ...) are read; {DUMP_IT.format(path=self.files[0])}"
                ]
            )
        folder = path.parent
        for _ in range(statement.level - 1):
            folder = folder / ".."
        parts = statement.module.split(".")
        base = self._existing(folder.joinpath(*parts).with_suffix(".py"), str(place), stack)
        marked(base)
        for alias in statement.names:
            if alias.name == "*":
                scope.names.update(base.value)
            elif alias.name in base.value:
                scope.names[alias.asname or alias.name] = base.value[alias.name]
            else:
                near = nearest(alias.name, base.value)
                raise ConfigError([f"{place}: {statement.module} has no {alias.name!r}{near}"])


def _is_base_assignment(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id="_base_")]):
            return True
    return False


def _predefined(path: Path) -> dict[str, str]:
    """Return the variables that mmengine fills in, such as {{fileDirname}}."""
    return {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
