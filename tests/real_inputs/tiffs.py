"""Writes TIFF images of kinds that neither Pillow nor OpenCV writes, without compression."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

SHORT, LONG, ASCII = 3, 4, 2  # types of TIFF tags
SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}


def write_tiff(
    path: Path,
    values: np.ndarray,
    *,
    photometric: int | None = None,
    planar: bool = False,
    extra_samples: Sequence[int] = (),
    tags: Mapping[int, int | str] | None = None,
    order: Literal["<", ">"] = "<",
) -> None:
    """Write values [H, W] or [H, W, C]; `planar` stores the channels one after the other."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    parts = np.moveaxis(values, 2, 0) if planar else values[None]
    data = parts.astype(values.dtype.newbyteorder(order)).tobytes()
    size = len(data) // len(parts)
    fields: dict[int, tuple[int, list[int] | bytes]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [8 * values.dtype.itemsize] * channels),
        259: (SHORT, [1]),
        262: (SHORT, [photometric if photometric is not None else 2 if channels > 2 else 1]),
        273: (LONG, [8 + size * i for i in range(len(parts))]),
        277: (SHORT, [channels]),
        278: (LONG, [height]),
        279: (LONG, [size] * len(parts)),
        284: (SHORT, [2 if planar else 1]),
        339: (SHORT, [SAMPLE_FORMATS[values.dtype.kind]] * channels),
    }
    if extra_samples:
        fields[338] = (SHORT, list(extra_samples))
    for tag, value in (tags or {}).items():
        is_text = isinstance(value, str)
        fields[tag] = (ASCII, value.encode() + b"\0") if is_text else (SHORT, [value])
    data += bytes(len(data) % 2)
    mark = {"<": b"II", ">": b"MM"}[order]
    header = mark + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(header + data + _directory(fields, 8 + len(data), order))


def _directory(
    fields: Mapping[int, tuple[int, list[int] | bytes]], start: int, order: str
) -> bytes:
    entries = struct.pack(f"{order}H", len(fields))
    overflow = b""
    overflow_start = start + 2 + 12 * len(fields) + 4
    for tag, (kind, content) in sorted(fields.items()):
        letter = "H" if kind == SHORT else "I"
        packed = content
        if isinstance(content, list):
            packed = struct.pack(f"{order}{len(content)}{letter}", *content)
        value = bytes(packed).ljust(4, b"\0")
        if len(value) > 4:
            place = overflow_start + len(overflow)
            overflow += value + bytes(len(value) % 2)
            value = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, len(content)) + value
    return entries + bytes(4) + overflow
