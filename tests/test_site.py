"""The site of the documentation has every page; the files about the project agree with the code."""

import re
import subprocess
import sys
from pathlib import Path

import yaml
from pages import PAGES, path_in_repository
from shipped import ROOT

import segtune
from segtune.__main__ import COMMANDS

# A page in the navigation of mkdocs.yml.
NAVIGATED = re.compile(r"^ *- .+: (\S+\.md)$", re.MULTILINE)


def test_site_has_every_page_and_every_command(tmp_path: Path) -> None:
    site = tmp_path / "site"
    program = ROOT / "scripts" / "site_pages.py"
    subprocess.run([sys.executable, str(program), str(site)], check=True, cwd=ROOT)
    collected = {str(page.relative_to(site)) for page in site.rglob("*.md")}
    assert set(NAVIGATED.findall((ROOT / "mkdocs.yml").read_text())) == collected
    assert {path_in_repository(page) for page in PAGES} - collected == {"README.md"}
    commands = (site / "docs" / "commands.md").read_text()
    assert [name for name in COMMANDS if f"usage: segtune {name} " not in commands] == []
    assert "usage: segtune data labelme " in commands
    names = (site / "docs" / "python.md").read_text()
    assert [name for name in segtune.__all__ if name[0] != "_" and f".{name}\n" not in names] == []
    readme = (ROOT / "README.md").read_text()
    assert readme.startswith((site / "index.md").read_text())
    assert (site / "docs" / "report.png").read_bytes() == (ROOT / "docs/report.png").read_bytes()


def test_links_to_the_readme_lead_to_the_manual(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from site_pages import to_manual  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    page = ROOT / "docs" / "tutorial.md"
    text = (
        "[a](../README.md), [b](../README.md#commands), [c](faq.md#x), [d](../benchmarks/README.md)"
    )
    expected = (
        "[a](../index.md), [b](../manual.md#commands), [c](faq.md#x), [d](../benchmarks/README.md)"
    )
    assert to_manual(page, text) == expected


def test_citation_has_the_version_and_the_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert citation["version"] == segtune.__version__
    assert f'license = "{citation["license"]}"' in project


def test_forms_for_issues_are_complete() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
    assert [form.stem for form in forms] == ["bug", "question"]
    for form in forms:
        tree = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= tree.keys()
        ids = [field["id"] for field in tree["body"]]
        assert len(set(ids)) == len(ids)
