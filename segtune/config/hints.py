"""The way out of a refused value: the value that the user probably meant, as YAML accepts it.

Knows no particular setting.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from segtune.config.characters import first_foreign

NULL_WORDS = ("none", "null", "nil", "nan", "")
TRUE_WORDS = ("1", "t", "y", "yes", "on", "true")
FALSE_WORDS = ("0", "f", "n", "no", "off", "false")
# Patterns of other formats, and the hint for each.
OTHER_FORMATS = (
    (r"\A\s*<(!doctype|html|\?xml)", "this is a web page or XML; download the raw file"),
    (
        r"\bdict\(|^_base_\s*=|^(import|from|def)\s",
        "this looks like a Python config, as of mmseg; `segtune config --describe` lists the "
        "settings to write as YAML",
    ),
    (r"^[\w.]+\s*=\s*\S", "this looks like TOML or INI; YAML has `name: value`"),
    (r"^\[[\w.]+\]\s*$", "this looks like TOML or INI; YAML has `section:`"),
    (r"^version https://git-lfs", "this is a pointer of Git LFS; run git lfs pull"),
    (r"^(<{7}|={7}|>{7})( |$)", "it has conflict markers of git; keep one of the two versions"),
    (r"^```", "remove the lines with ```"),
    (r"^\s*(//|;)", "a comment begins with #"),
    (r"\A[\w.]+\uff1a", "it has U+FF1A FULLWIDTH COLON; write a colon and a space"),
    (r"\A[\w.]+:[\u00a0\u202f\u3000]", "a no-break space follows the colon; write a usual space"),
    (r"\A[\w.]+:[^\s:]", "a space is missing after the colon; write `name: value`"),
)
YAML_NUMBER = re.compile(r"[-+]?(\.\d+|(0|[1-9]\d*)(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
# The beginning of a text shows its format.
LOOKED_AT = 4000


def other_format(text: str) -> str:
    """Return `; this looks like TOML …` if a text is no YAML but some other format, else empty."""
    for pattern, meaning in OTHER_FORMATS:
        if re.search(pattern, text[:LOOKED_AT], re.IGNORECASE | re.MULTILINE):
            return f"; {meaning}"
    return ""


def way_out(value: Any, allowed: str) -> str:
    """Return `; write 0.001` for a refused value, or empty if nothing is probable.

    `allowed` is what the setting accepts, in the words of `allowed_values`.
    """
    branches = allowed.split(" | ")
    if value is None:
        return _instead_of_null(branches)
    if "null" in branches and str(value).lower() in NULL_WORDS:
        return "; write null"
    if allowed == "true | false":
        return _truth(value)
    if allowed.startswith("settings"):
        return _section(value)
    if "list of" in allowed and not isinstance(value, (list, dict)):
        return _list(value, allowed)
    if "number" in allowed:
        return _number(value, whole="whole number" in allowed)
    if "text" in allowed and not isinstance(value, (list, dict)):
        return _text(value)
    if isinstance(value, dict) and "list of" in allowed:
        return "; write a list, [first, second]"
    if isinstance(value, dict) and "text" in branches:
        return "; text with a colon and a space needs quotes"
    return ""


def _instead_of_null(branches: list[str]) -> str:
    if "text" in branches:
        return "; null, ~ and no value are the same in YAML: write text, and ~/ for your home"
    return "; there is no value: write one, or remove the line to use the default"


def _truth(value: Any) -> str:
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return "; write true"
    return "; write false" if word in FALSE_WORDS else ""


def _section(value: Any) -> str:
    if isinstance(value, list):
        return "; write the settings of a section without dashes"
    return "; a section has settings: write `name: value` below it" + (
        ", with a space after the colon" if re.match(r"\w+:\S", str(value)) else ""
    )


def _list(value: Any, allowed: str) -> str:
    if isinstance(value, bool):
        return ""
    text = unicodedata.normalize("NFKC", str(value)).strip("()[]{} ,;")
    parts = re.split(r"\s*[,;]\s*" if re.search("[,;]", text) else r"\s+", text)
    if len(parts) == 1 and re.fullmatch(r"\d+\s*[xX*]\s*\d+", parts[0]):
        parts = re.split(r"\s*[xX*]\s*", parts[0])
    if len(parts) == 1 and "list of 2" in allowed:
        parts *= 2
    return f"; write [{', '.join(parts)}]"


def _number(value: Any, *, whole: bool) -> str:
    """Return what to write instead of a text or of a number with a fraction."""
    if isinstance(value, float) and whole and value.is_integer():
        return f"; write {int(value)}"
    if not isinstance(value, str):
        return ""
    foreign = first_foreign(value)
    reason = f"; it has {foreign}" if foreign else ""
    plain = unicodedata.normalize("NFKC", value).replace("\u2212", "-").replace("\u2013", "-")
    plain = plain.strip().rstrip(",;%")
    if re.fullmatch(r"[-+]?\d+(,\d+)+", plain):
        return f"{reason}; a number has a decimal point and no comma"
    number = _as_number(plain)
    if number is None:
        return reason
    if "%" in value:
        number /= 100
    if YAML_NUMBER.fullmatch(value):
        reason = "; it is text, because it has quotes"
    return f"{reason}; write {number:.15g}"


def _as_number(text: str) -> float | None:
    """Return the number of a text such as 1_000, 0x10, 010 or 1/1000; None if it is none."""
    try:
        if text.lower().startswith("0x"):
            return float(int(text, 16))
        numerator, slash, denominator = text.partition("/")
        number = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return None
    return number if abs(number) < float("inf") else None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return (
            "; YAML reads yes, no, on, off, true and false as true or false: for text, put quotes "
            "around the word"
        )
    return f"; for text, put quotes around it: '{value}'"
