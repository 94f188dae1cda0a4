"""Configs of mmsegmentation for tests: files of their own, or changes of an experiment."""

from pathlib import Path
from typing import Any

from segtune.mmseg.convert import convert
from segtune.mmseg.ledger import Ledger
from segtune.mmseg.reader import read_mmseg_config

CONFIGS = Path(__file__).parent / "configs"


def whole(tmp_path: Path, text: str, **options: Any) -> Ledger:
    """Convert a config that consists of `text`."""
    path = tmp_path / "cfg.py"
    path.write_text(text)
    return convert(read_mmseg_config(path), **options)


def changed(tmp_path: Path, base: str, text: str, **options: Any) -> Ledger:
    """Convert a config that changes one of the experiments."""
    return whole(tmp_path, f"_base_ = {str(CONFIGS / base) + '.py'!r}\n{text}", **options)


def left(ledger: Ledger, key: str) -> str:
    """Return why a key is not carried over; it has to change the numbers."""
    entry = ledger.entries[key]
    assert (entry.group, entry.changes_numbers) == ("left", True)
    return entry.text
