"""Errors that a user can cause and repair.

A bug in segtune is never one of these: it stays a traceback.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# These errors come from a disk, never from a bug, also if they do not name a file.
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
LOST_DISK_ERRORS = (errno.EIO, errno.ESTALE)
DISK_ERRORS = (*FULL_DISK_ERRORS, *LOST_DISK_ERRORS)
FREE_SPACE = (
    "free some space; what was written before is kept (train and search continue it with --resume)"
)
OTHER_PLACE = "choose another place, or change who may use this one"
PARENT_IS_FILE = "this path, or a folder above it, is a file or a broken link; choose another path"
# By the number of the operating system's error: what is wrong, and the way out.
ADVICE = {
    errno.ENOSPC: f"no space left on the disk; {FREE_SPACE}",
    errno.EDQUOT: f"the disk quota is used up; {FREE_SPACE}",
    errno.EFBIG: f"larger than the file system or the limit on file sizes allows; {FREE_SPACE}",
    errno.EROFS: f"the file system is read-only; {OTHER_PLACE}",
    errno.EACCES: f"permission denied; {OTHER_PLACE}",
    errno.EPERM: f"operation not permitted; {OTHER_PLACE}",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: PARENT_IS_FILE,
    errno.EEXIST: PARENT_IS_FILE,
    errno.EISDIR: "this is a folder, a file is needed; choose another path",
    errno.ENOTEMPTY: "this folder has other files in it; choose another path",
    errno.ENAMETOOLONG: "a name of more than 255 bytes, or a path of more than 4095; shorten it",
    errno.ELOOP: "this symbolic link points to itself; remove it, or choose another path",
    errno.ESTALE: "the network file system has lost this file; check its connection",
    errno.EIO: "the disk or the network file system reports an error; check its connection",
}
# A setting in a message, as `setting` writes it.
PROPOSED = re.compile(r"""--set ('[^']*'(?:"'"'[^']*')*|[^\s']+)""")
# Longer paths are shortened in messages.
MAX_SHOWN = 300


class SegtuneError(Exception):
    """An error that the user can repair. Commands print its message and exit with code 2."""


class ConfigError(SegtuneError):
    """Wrong settings, all listed at once: place, what is wrong, what is allowed, nearest name."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Take one line for each problem; at least one."""
        assert problems
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class DataError(SegtuneError):
    """A data set is missing or incomplete, or has labels that its config does not allow."""


class WeightsError(SegtuneError):
    """Pretrained weights are missing or belong to another architecture."""


class CheckpointError(SegtuneError):
    """A checkpoint is missing or damaged, or belongs to another config."""


class RunError(SegtuneError):
    """A run folder is missing or in use, or does not fit the command."""


class ClusterError(SegtuneError):
    """The Ray cluster cannot be reached, or is smaller than one trial needs."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the closest name in `allowed`, or "" if none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def first_of(texts: Sequence[str], limit: int) -> str:
    """Return `a, b, c and 4 more`: at most `limit` texts, and how many others there are."""
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def setting(name: str, value: str | Sequence[str] | Mapping[int, int | str]) -> str:
    """Return `--set name=value` with the quotes that a shell needs."""
    if isinstance(value, Mapping):
        value = "{" + ", ".join(f"{key}: {label}" for key, label in value.items()) + "}"
    elif not isinstance(value, str):
        value = "[" + ", ".join(map(_list_item, value)) + "]"
    return f"--set {shlex.quote(f'{name}={value}')}"


def settings_in(message: str) -> list[str]:
    """Return each `name=value` that a message proposes with `--set`, without a shell's quotes."""
    return [shlex.split(word)[0].rstrip(";,:") for word in PROPOSED.findall(message)]


def _list_item(text: str) -> str:
    """Return a text as an item of a YAML list, in quotes if it could be a number or a mark."""
    words = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    if re.fullmatch(r"[A-Za-z_][\w./-]*", text) and text.casefold() not in words:
        return text
    return json.dumps(text, ensure_ascii=False)


def place_problem(error: Exception) -> str | None:
    """Return `path: reason; way out` if the operating system has refused a path, otherwise None.

    An OSError names a path if it comes from opening, creating, listing or renaming one, and this is
    a place that the user can repair. Three kinds are bugs, or are not about a place, and give None:
    errors without a path (of processes or the network; but a full or broken disk is a place), and
    errors about segtune's own files.
    """
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return "a path holds a NUL character, which no file name can have; remove it"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        # Python has read a file name of another encoding from the command line or from a folder.
        return f"{shown_path(error.object)}: this name is not UTF-8; rename the file or folder"
    if not isinstance(error, OSError) or error.errno is None:
        return None
    # The second name is the target of a rename, for which the first was written.
    path = error.filename2 or error.filename
    reason = ADVICE.get(error.errno) or os.strerror(error.errno)
    if not isinstance(path, (str, bytes, os.PathLike)):
        return reason if error.errno in DISK_ERRORS else None
    path = Path(os.fsdecode(path))
    return None if path.is_relative_to(Path(__file__).parent) else f"{shown_path(path)}: {reason}"


def shown_path(path: str | Path) -> str:
    """Return a path for a message: on one line, and shortened if it is very long."""
    text = str(path)
    if not text.isprintable():
        text = ascii(text)
    if len(text) > MAX_SHOWN:
        half = MAX_SHOWN // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text
