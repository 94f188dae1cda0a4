"""What the pages of the documentation show is right: links, commands, YAML and Python."""

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import PAGES, Block, anchors, blocks, links, path_in_repository
from shipped import ROOT

import segtune
from segtune import data_tools
from segtune.__main__ import COMMANDS
from segtune.cli import CommandParser
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import Source
from segtune.errors import SegtuneError
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space_reader import read_space
from segtune.tuning.study_reader import load_study

MODULES = {module: command for command, (module, _) in COMMANDS.items()}
# A word in place of words that a page leaves out.
LEFT_OUT = "LEFT OUT"
# Methods of benchmarks/README.md: `segtune tpe` is no command.
METHODS = ("curves", "gp", "tpe")
# A setting in the text, with or without a value, and a row of the table of all settings.
SECTIONS = "data|augment|model|loss|optim|schedule|val|health|checkpoint|search"
SETTING = re.compile(rf"(?:{SECTIONS})(?:\.[a-z]\w*)+(?![(*\w])")
ROW = re.compile(r"^\| `([\w.]+)` \|", re.MULTILINE)
# What a command of segtune begins with, after variables of the environment.
COMMAND = re.compile(
    r"^(?:\w+=\S+ )*(?:segtune (?P<name>[a-z]+)|\S*(?:python|torchrun)\S*(?: -\S+ \d+)* "
    r"-m (?P<module>segtune\.\w+))(?P<rest> .*|$)"
)


@pytest.mark.parametrize("page", PAGES, ids=path_in_repository)
def test_every_link_leads_to_a_file_and_an_anchor(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if "://" in target:
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.fixture
def mistakes_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a parser raise a mistake in the words of a command, instead of ending the program."""

    def fail(_: argparse.ArgumentParser, message: str) -> None:
        raise ValueError(message)

    monkeypatch.setattr(CommandParser, "error", fail)


def parser_of(name: str, words: list[str]) -> argparse.ArgumentParser:
    """Return the parser of a command, or of the subcommand that the first word names."""
    parser = importlib.import_module(COMMANDS[name][0]).argument_parser()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and words[:1]:
            return action.choices[words[0]]
    return parser


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Return the commands of segtune in a block: their names and their words.

    A word `…` stands for a value after an option; otherwise it becomes LEFT_OUT.
    """
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        match = COMMAND.match(line.strip())
        if match and (name := match["name"] or MODULES.get(match["module"] or "", "")):
            words = shlex.split(match["rest"], comments=True)
            for number, before in enumerate(["", *words[:-1]]):
                if words[number : number + 1] == ["…"] and not before.startswith("--"):
                    words[number] = LEFT_OUT
            found.append((name, words))
    return found


def mistake(name: str, words: list[str]) -> str:
    """Return what a command refuses in its words, or an empty text."""
    if name not in COMMANDS:
        return f"no command {name}"
    parser = parser_of(name, [])
    if LEFT_OUT in words:
        for action in parser._actions:
            action.required = False  # it may be among what is left out
    try:
        parser.parse_args([word for word in words if word != LEFT_OUT])
    except ValueError as error:
        return str(error)
    return ""


def unknown_options(name: str, words: list[str]) -> list[str]:
    """Return the words that are no options of a command or of its subcommand."""
    parser = parser_of(name, words)
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [option for option in options if option not in parser._option_string_actions]


@pytest.mark.parametrize("page", PAGES, ids=path_in_repository)
def test_every_command_in_a_block_is_accepted(page: Path, mistakes_are_raised: None) -> None:
    problems = [
        f"{block}: segtune {name} {shlex.join(words)}: {problem}"
        for block in blocks(page)
        for name, words in commands(block)
        if (problem := mistake(name, words))
    ]
    assert problems == []


@pytest.mark.parametrize("page", PAGES, ids=path_in_repository)
def test_every_command_in_the_text_exists(page: Path) -> None:
    problems = [
        f"{block}: {block.text}"
        for block in blocks(page, inline=True)
        for name, words in commands(block)
        if name not in METHODS and (name not in COMMANDS or unknown_options(name, words))
    ]
    assert problems == []


def test_commands_are_found_and_mistakes_named(mistakes_are_raised: None) -> None:
    page = ROOT / "README.md"
    text = "OMP_NUM_THREADS=1 segtune train --config a.yaml \\\n  --out b  # first\nmake test\n"
    text += "torchrun --nproc-per-node 4 -m segtune.train --config … --out c\n"
    found = commands(Block(page, 1, "", text))
    assert found == [
        ("train", ["--config", "a.yaml", "--out", "b"]),
        ("train", ["--config", "…", "--out", "c"]),
    ]
    assert mistake(*found[0]) == ""
    assert "--otu" in mistake("train", ["--config", "a", "--out", "b", "--otu", "c"])
    assert "required" in mistake("search", ["--trials", "3"])
    assert mistake("search", ["--trials", "3", LEFT_OUT]) == ""
    assert unknown_options("data", ["show", "CONFIG", "--images", "--image"]) == ["--image"]
    assert sum(len(commands(block)) for page in PAGES for block in blocks(page)) > 60


def settings() -> set[str]:
    """Return the names of all settings and of their sections, as docs/config.md has them."""
    config, search = (ROOT / "docs" / "config.md").read_text().split("## `search:` of a study")
    names = ROW.findall(config) + [f"search.{name}" for name in ROW.findall(search)]
    return {name.rsplit(".", level)[0] for name in names for level in range(name.count(".") + 1)}


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=path_in_repository
)
def test_every_setting_in_the_text_exists(page: Path) -> None:
    known = settings()
    named = [(block, SETTING.match(block.text)) for block in blocks(page, inline=True)]
    assert [str(block) + " " + m[0] for block, m in named if m and m[0] not in known] == []


def check_yaml(tree: dict[str, Any], base: ExperimentConfig, folder: Path) -> None:
    """Raise SegtuneError if a config, a space, a study or a part of one is not valid."""
    if "search" in tree and "space" not in tree:
        SearchConfig.parse(tree["search"])
    elif "space" in tree:
        named = ROOT / "configs" / str(tree.get("config"))
        config = load_config(named) if named.is_file() else base
        (folder / "config.yaml").write_text(yaml.safe_dump(config.dump()))
        (folder / "study.yaml").write_text(yaml.safe_dump({**tree, "config": "config.yaml"}))
        load_study(folder / "study.yaml")
    elif any("." in name for name in tree):
        read_space(tree, base, Source("page"))
    else:
        ExperimentConfig.parse(tree)


@pytest.mark.parametrize("page", PAGES, ids=path_in_repository)
def test_every_yaml_block_is_valid(page: Path, tmp_path: Path) -> None:
    base = load_config(ROOT / "configs" / "shapes_segformer_b0.yaml")
    for block in blocks(page):
        if block.language != "yaml":
            continue
        tree = yaml.safe_load(block.text)
        try:
            check_yaml(tree, base, tmp_path)
        except SegtuneError as error:
            pytest.fail(f"{block}: {error}")
        if "model" in tree and "data" in tree:
            base = ExperimentConfig.parse(tree)  # the config of the studies that follow


@pytest.mark.parametrize("page", PAGES, ids=path_in_repository)
def test_every_python_block_uses_names_that_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text, str(block))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "segtune":
                assert node.attr in segtune.__all__, f"{block}: segtune.{node.attr}"


def test_beginning_of_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = blocks(ROOT / "docs" / "tutorial.md")
    (program,) = (block for block in page if block.language == "python")
    exec(compile(program.text, "draw_cells.py", "exec"), {})
    (converted,) = (block for block in page if block.text.startswith("data/cells: "))
    assert data_tools.main(["labelme", "--input", "annotated", "--out", "data/cells"]) == 0
    assert capsys.readouterr().out == converted.text
