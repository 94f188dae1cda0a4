"""Why a file is not readable as an image: by the system, its first bytes, or Pillow."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import UnidentifiedImageError

# What users have under the name of an image, by the first bytes after white space.
NOT_IMAGES = {
    b"<": "it is HTML or XML, perhaps the error page of a download; download the file again",
    b"version https://git-lfs": "it is a pointer of Git LFS; run: git lfs pull",
    b"\x93NUMPY": "it is a NumPy array; save the array as PNG",
    b"\x89HDF": "it is HDF5; save the array as PNG or TIFF",
    b"%PDF": "it is PDF; convert it to PNG",
    b"PK\x03\x04": "it is a ZIP archive; unpack it",
}
# Brands of HEIC files, which phones write; they are at bytes 4 to 12.
HEIC_STARTS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
DICOM_MARK = slice(128, 132), b"DICM"
READ_FORMATS = "JPEG, PNG, TIFF, WebP, AVIF, BMP, GIF, JPEG 2000, Netpbm and TGA"


def not_readable(path: str | Path, error: Exception) -> str:
    """Return a message of one line: the file, why it is not readable, and the way out."""
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"{path}: is a link to an absent file, {os.readlink(path)}"
    if isinstance(error, OSError) and error.errno:
        return f"{path}: not readable: {error.strerror}"
    start = first_bytes(path, 256)
    return f"{path}: not readable as an image: {_reason(start, error)}"


def first_bytes(path: str | Path, count: int) -> bytes:
    """Return at most `count` bytes of a file; none if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _reason(start: bytes, error: Exception) -> str:
    if not start:
        return "the file is empty"
    if not any(start):
        return "it begins with zeros, like the file of an interrupted copy; copy it again"
    if start[4:12] in HEIC_STARTS:
        return f"it is HEIC; convert it to JPEG or PNG (read are {READ_FORMATS})"
    place, mark = DICOM_MARK
    if start[place] == mark:
        return "it is DICOM; convert it to PNG or TIFF of 16 bits"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for first, reason in NOT_IMAGES.items():
        if text.startswith(first):
            return reason
    if isinstance(error, UnidentifiedImageError):
        return f"its content has none of the formats that are read: {READ_FORMATS}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{reason}; copy the file again, or take it out of the data set"
