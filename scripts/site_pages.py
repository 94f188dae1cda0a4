"""Collect the pages of the documentation site in a folder: `python scripts/site_pages.py DIR`.

The folder has the layout of the repository, so links between pages work on the site as they do in
the repository. README.md becomes two pages: its beginning is the home page, the rest the manual.
The pages on the command line and on Python are generated from the code, the notebook's page from
its cells. `make docs` runs this before it builds the site.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import segtune
from segtune.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
# The target of a link or a picture without its anchor, and the anchor.
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?")


def copy_pages(out: Path) -> None:
    """Copy all pages, and the files in the repository that they link to."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    for page in pages:
        text = page.read_text()
        for target, _ in LINK.findall(text):
            path = (page.parent / target).resolve()
            if "://" not in target and path not in pages and path.is_file():
                write(out / path.relative_to(ROOT), path.read_bytes())
        if page == ROOT / "README.md":
            continue
        write(out / page.relative_to(ROOT), to_manual(page, text).encode())


def to_manual(page: Path, text: str) -> str:
    """Return the text of a page whose links to README.md lead to the home page or the manual."""

    def target(match: re.Match[str]) -> str:
        path, anchor = match.groups(default="")
        if (page.parent / path).resolve() != ROOT / "README.md":
            return match.group()
        return f"]({path.removesuffix('README.md')}{'manual.md' if anchor else 'index.md'}{anchor}"

    return LINK.sub(target, text)


def split_readme(out: Path) -> None:
    """Write the home page and the manual. README's tree of files is for readers of the code."""
    start, rest = (ROOT / "README.md").read_text().split("\n## ", 1)
    manual = rest.split("\n## The code\n")[0]
    write(out / "index.md", start.encode())
    write(out / "manual.md", f"# Manual\n\n## {manual}".encode())


def command_page() -> str:
    """Return the page on the command line: the help of every command."""
    parts = ["# Command line\n", "What `--help` prints for each command.\n"]
    for name, (module, _) in COMMANDS.items():
        parser = importlib.import_module(module).argument_parser()
        parts.append(help_section("##", f"segtune {name}", parser))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for subcommand, its_parser in action.choices.items():
                    parts.append(help_section("###", f"segtune {name} {subcommand}", its_parser))
    return "\n".join(parts)


def help_section(level: str, title: str, parser: argparse.ArgumentParser) -> str:
    """Return a section with what a parser prints for --help."""
    return f"{level} {title}\n\n```text\n{parser.format_help()}```\n"


def python_page() -> str:
    """Return the page on the public names; mkdocstrings fills it from the docstrings."""
    example = (ROOT / "README.md").read_text().split("\n## From Python\n")[1].split("\n## ")[0]
    names = [name for name in segtune.__all__ if not name.startswith("_")]
    functions = [name for name in names if name.islower()]
    types = [name for name in names if name not in functions]
    entries = [f"::: {getattr(segtune, name).__module__}.{name}" for name in (*functions, *types)]
    return f"# Python\n{example}\n" + "\n\n".join(entries) + "\n"


def notebook_page(notebook: Path) -> str:
    """Return the cells of a notebook as a page."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + "\n"


def write(path: Path, content: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main(out: Path) -> None:
    """Write all pages into the folder `out`, which is replaced."""
    os.environ["COLUMNS"] = "100"  # the width of the help texts
    shutil.rmtree(out, ignore_errors=True)
    copy_pages(out)
    split_readme(out)
    write(out / "docs" / "commands.md", command_page().encode())
    write(out / "docs" / "python.md", python_page().encode())
    notebook = ROOT / "docs" / "quickstart.ipynb"
    write(out / "docs" / "quickstart.md", notebook_page(notebook).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
