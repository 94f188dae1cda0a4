"""Text files that users write: from bytes to numbered lines. Knows nothing of their content."""

from __future__ import annotations

import codecs
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from segtune.errors import DataError

# The longer marks first: that of UTF-32 begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Not str.splitlines, which also ends a line at characters that file names may have.
LINE_END = re.compile(r"\r\n|\r|\n")
# Marks inside a file come from files that were joined; DOS ends a file with Ctrl-Z.
BLANK = string.whitespace + "\xa0\u3000\ufeff\x1a"


class Line(NamedTuple):
    """A line that is not blank, without blanks around it."""

    path: Path
    number: int  # from 1
    text: str

    @property
    def place(self) -> str:
        """The file and the number of the line, for messages."""
        return f"{self.path}:{self.number}"


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a text file that are not blank.

    The encoding is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Lines end in LF, CRLF or CR.
    Raises DataError that names the file, and the line and a command if the encoding is another.
    """
    return [Line(path, number, text) for number, text in numbered_lines(path)]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines, as `read_lines` does, without an object for each."""
    text = read_text(path)
    lines = LINE_END.split(text) if "\r" in text else text.split("\n")
    for number, line in enumerate(lines, 1):
        if stripped := line.strip(BLANK):
            yield number, stripped


def read_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark. Raises DataError as `read_lines`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or 'not readable'}") from None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(_other_encoding(path, data, encoding, error.start)) from None
    if "\0" in text:
        raise DataError(_zero_bytes(path, data))
    return text


def _zero_bytes(path: Path, data: bytes) -> str:
    """Explain zero bytes: every second byte is zero in a Western text in UTF-16."""
    for start, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if data[start::2].count(0) * 2 > len(data) // 2:
            return (
                f"{path}: looks like {encoding} without a byte order mark; save it as UTF-8: "
                f"iconv -f {encoding} -t UTF-8 '{path}' > NEW.txt"
            )
    return f"{path}: has zero bytes, so it is no text file; expected text in UTF-8"


def _other_encoding(path: Path, data: bytes, encoding: str, start: int) -> str:
    if encoding != "utf-8":
        return f"{path}: begins like {encoding.upper()} but is damaged; save it as UTF-8"
    if b"\0" in data:
        return _zero_bytes(path, data)
    before = LINE_END.split(data[:start].decode("utf-8"))
    rest = data[start:].splitlines()[0]
    word = before[-1] + rest.decode("cp1252", errors="replace")
    return (
        f"{path}:{len(before)}: byte 0x{data[start]:02x} is not UTF-8; save the file as UTF-8. "
        f"If this line should be {word.strip()!r}, its encoding is Windows-1252: "
        f"iconv -f WINDOWS-1252 -t UTF-8 '{path}' > NEW.txt"
    )
