"""The pages of the documentation, their blocks of code, their links and anchors, for tests."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from shipped import ROOT

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "README.md",
]
MARKDOWN = MarkdownIt().enable("table")


@dataclass(frozen=True)
class Block:
    """A block of code, or code in a line."""

    page: Path
    line: int  # of the page, from 1
    language: str  # empty: not named, or an indented block
    text: str
    is_inline: bool = False

    def __str__(self) -> str:
        return f"{path_in_repository(self.page)}:{self.line}"


def path_in_repository(page: Path) -> str:
    """Return the path of a page as an id of a test."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *, inline: bool = False) -> list[Block]:
    """Return the blocks of code of a page; with `inline`, the code in its lines instead."""
    found: list[Block] = []
    line = 1
    for token in MARKDOWN.parse(page.read_text()):
        line = token.map[0] + 1 if token.map else line
        if inline:
            codes = [child for child in token.children or [] if child.type == "code_inline"]
            found += [Block(page, line, "", code.content, is_inline=True) for code in codes]
        elif token.type in ("fence", "code_block"):
            found.append(Block(page, line, token.info.strip(), token.content))
    return found


def links(page: Path) -> list[str]:
    """Return the targets of the links and pictures of a page, with their anchors."""
    children = [
        child for token in MARKDOWN.parse(page.read_text()) for child in token.children or []
    ]
    targets = [child.attrGet("href") or child.attrGet("src") for child in children]
    return [str(target) for target in targets if target]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    tokens = MARKDOWN.parse(page.read_text())
    slugs: list[str] = []
    for heading, content in pairwise(tokens):
        if heading.type == "heading_open":
            slug = _slug(content)
            repeated = slugs.count(slug)
            slugs.append(slug if not repeated else f"{slug}-{repeated}")
    return set(slugs)


def _slug(heading: Token) -> str:
    text = "".join(child.content for child in heading.children or [])
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
