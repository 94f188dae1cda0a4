"""Text files that users write: from bytes to numbered lines. Knows nothing of their content."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from segtune.config.characters import LINE_END, decode_text
from segtune.errors import DataError

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
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or 'not readable'}") from None
    except ValueError as error:
        raise DataError(str(error)) from None
