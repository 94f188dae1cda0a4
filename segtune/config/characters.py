"""Decode text files, and find characters that are invisible or look like others.

Text that is copied from a web page or a word processor has such characters.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import unicodedata

from segtune.errors import ConfigError

# UTF-32 first: its mark begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What YAML allows: tab, line breaks, and everything from the space on except control characters.
CONTROL_CHARACTER = re.compile(
    r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
# Zero-width space, word joiner, byte order mark, soft hyphen, and marks of the writing direction.
# The joiners U+200C and U+200D are not among them: Persian and Hindi words need them.
INVISIBLE = re.compile(r"[\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]")
QUOTES = "\u201c\u201d\u201e\u201f\uff02"  # double quotation marks other than "
# Not str.splitlines, which also ends a line at characters that file names may have.
LINE_END = re.compile(r"\r\n|\r|\n")
SINGLE_QUOTES = re.compile(r"[\u2018\u201a].*[\u2019\u2018]", re.DOTALL)


def decode_text(content: bytes, name: str) -> str:
    """Return the text of a file: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    `name` is the file's name in messages. Raises ValueError with a message that names the encoding
    of any other file, if it is known, and the command that converts it.
    """
    mark, encoding = next((m for m in BYTE_ORDER_MARKS if content.startswith(m[0])), (b"", "utf-8"))
    try:
        text = content.removeprefix(mark).decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            _other_encoding(content, encoding, error.start + len(mark), name)
        ) from None
    if "\0" in text:
        raise ValueError(_zero_bytes(content, name))
    return text


def _other_encoding(content: bytes, encoding: str, start: int, name: str) -> str:
    """Return the message for a file; `encoding` cannot decode the byte at `start`."""
    if encoding != "utf-8":
        return f"{name}: begins like {encoding.upper()} but is damaged; save it as UTF-8"
    if b"\0" in content:
        return _zero_bytes(content, name)
    lines = LINE_END.split(content[:start].decode("utf-8-sig"))
    rest = content[start:].splitlines()[0].decode("cp1252", errors="replace")
    return (
        f"{name}:{len(lines)}: byte 0x{content[start]:02x} is not UTF-8; save the file as UTF-8. "
        f"If this line should be {(lines[-1] + rest).strip()!r}, its encoding is Windows-1252: "
        f"{_conversion('WINDOWS-1252', name)}"
    )


def _zero_bytes(content: bytes, name: str) -> str:
    """Explain zero bytes: every second byte is zero in a Western text in UTF-16."""
    for start, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if content[start::2].count(0) * 2 > len(content) // 2:
            return (
                f"{name}: looks like {encoding} without a byte order mark; save it as UTF-8: "
                f"{_conversion(encoding, name)}"
            )
    return f"{name}: has zero bytes, so it is no text file; expected text in UTF-8"


def _conversion(encoding: str, name: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > NEW_FILE"


def refuse_control_characters(text: str, name: str) -> None:
    """Raise ConfigError that names the first control character in `text`, with its line."""
    if found := CONTROL_CHARACTER.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(
            [f"{name}:{line}: control character U+{ord(found.group()):04X}; remove it"]
        )


def named(character: str) -> str:
    """Return a character as `U+2212 MINUS SIGN`."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"


def odd_character(text: str) -> str:
    """Return the odd character in a text of the user, and the way out; empty if there is none.

    Odd are invisible characters, unusual spaces at either end, and a first quotation mark that YAML
    does not read as a quote. A text that is the name of an existing file is never odd.
    """
    oddity = _oddity(text)
    return "" if oddity and os.path.lexists(text) else oddity


def _oddity(text: str) -> str:
    if invisible := INVISIBLE.search(text):
        return f"{text!r} has the invisible character {named(invisible.group())}; remove it"
    for end in text[:1], text[-1:]:
        if end and end != " " and unicodedata.category(end) == "Zs":
            return f"{text!r} begins or ends with {named(end)}; remove it, or write a usual space"
    if text and text[0] in QUOTES:
        return f'{text!r} has {named(text[0])}, which is no quote in YAML; write " instead'
    if SINGLE_QUOTES.fullmatch(text):
        return f"{text!r} has {named(text[0])}, which is no quote in YAML; write ' instead"
    if text.startswith(('\\"', "\\'")):
        return (
            f"{text!r} begins with a backslash and a quote; remove the backslash. "
            "In PowerShell, write --set 'name=text'"
        )
    return ""


def first_foreign(text: str) -> str:
    """Return the first character outside of ASCII, as `U+2212 MINUS SIGN`; empty if none."""
    return next((named(character) for character in text if not character.isascii()), "")
