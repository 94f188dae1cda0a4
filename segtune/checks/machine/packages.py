"""Python and the installed packages against the bounds that segtune declares."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from segtune.checks.machine.outcome import Outcome

CHECKOUT = Path(__file__).parents[3] / "pyproject.toml"


def declared() -> tuple[str, list[Requirement]]:
    """Return the versions of Python and the packages that segtune declares, without extras."""
    project = tomllib.loads(CHECKOUT.read_text()).get("project", {}) if CHECKOUT.is_file() else {}
    # Beside an installed segtune, the file is one that another package has left there.
    if project.get("name") == "segtune":
        return project["requires-python"], [Requirement(text) for text in project["dependencies"]]
    needed = [Requirement(text) for text in requires("segtune") or ()]
    python = metadata("segtune")["Requires-Python"] or ""
    return python, [need for need in needed if not need.marker or need.marker.evaluate()]


def check_python(bounds: str, found: str | None = None) -> Outcome:
    """Check the version of Python; `found` takes the place of this one."""
    found = found or ".".join(map(str, sys.version_info[:3]))
    if found in SpecifierSet(bounds):
        return Outcome("python", "ok", f"{found} (needs {bounds})")
    remedy = f"make a virtual environment with Python {bounds}"
    return Outcome("python", "problem", f"{found}, and segtune needs {bounds}", remedy)


def check_packages(needed: Sequence[Requirement]) -> Iterator[Outcome]:
    """Check every package: a line for each that is wrong, or one if all are right."""
    wrong = [found for need in needed if (found := _check_package(need))]
    if not wrong:
        yield Outcome("packages", "ok", f"all {len(needed)} are within their bounds")
    yield from wrong


def _check_package(need: Requirement) -> Outcome | None:
    remedy = f"pip install '{need.name}{need.specifier}'"
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return Outcome("packages", "problem", f"{need.name} is not installed", remedy)
    if need.specifier.contains(found, prereleases=True):
        return None
    return Outcome("packages", "problem", f"{need.name} {found} is not {need.specifier}", remedy)
