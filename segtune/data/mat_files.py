"""One field of one struct in a .mat file of MATLAB 5, as SBD has them.

Not by scipy.io.loadmat: on a damaged file, scipy 1.17 reads outside its buffer and ends the process
with a segmentation fault. Source: MathWorks, MAT-File Format, chapter "MAT-File Level 5 Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Types of data elements, and classes of arrays, by their numbers in the format.
MATRIX, COMPRESSED = 14, 15
NUMBER_TYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
STRUCT_CLASS = 2
NUMBER_CLASSES = range(6, 16)  # double, single, and whole numbers of 8 to 64 bits
HEADER_BYTES = 128
# A compressed element that grows to more is damaged: SBD's files have about 1 MB.
MAX_BYTES = 1 << 28


class MatError(ValueError):
    """The file is damaged, or is no .mat file of MATLAB 5."""


class _Element(NamedTuple):
    kind: int
    data: memoryview


class _Matrix(NamedTuple):
    array_class: int
    shape: tuple[int, ...]
    name: str
    content: Iterator[_Element]  # the elements behind the name


def read_struct_field(file: bytes, variable: str, field: str) -> np.ndarray | None:
    """Return a field of numbers of a struct of 1 x 1, or None if there is no such field.

    `file` is the content of the file. Raises MatError with a short reason if it is damaged.
    """
    order = {b"IM": "<", b"MI": ">"}.get(file[126:HEADER_BYTES])
    if order is None or file.startswith(b"MATLAB 7.3"):  # that one is HDF5
        raise MatError("it is no .mat file of MATLAB 5")
    if len(file) == HEADER_BYTES:
        raise MatError("it is cut off")
    for element in _elements(memoryview(file)[HEADER_BYTES:], order):
        if element.kind == COMPRESSED:
            element = next(_elements(_decompressed(element.data), order))
        matrix = _matrix(element, order)
        if matrix.name == variable and matrix.array_class == STRUCT_CLASS:
            return _field(matrix, field, order)
    return None


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """Yield the data elements one after the other; each begins with its type and length."""
    start = 0
    while start < len(data):
        if len(data) - start < 8:
            raise MatError("it is cut off")
        first, count = struct.unpack_from(f"{order}II", data, start)
        if first >> 16:  # up to 4 bytes are in the tag itself
            kind, count, content = first & 0xFFFF, first >> 16, start + 4
            following = start + 8
        else:
            kind, content = first, start + 8
            padding = 0 if kind == COMPRESSED else -count % 8
            following = content + count + padding
        if content + count > len(data) or (first >> 16 and count > 4):
            raise MatError("it is cut off")
        yield _Element(kind, data[content : content + count])
        start = following


def _decompressed(data: memoryview) -> memoryview:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise MatError(f"it is damaged: {error}") from None
    if not stream.eof or not content:
        raise MatError("it is cut off")
    return memoryview(content)


def _matrix(element: _Element, order: str) -> _Matrix:
    if element.kind != MATRIX:
        raise MatError("it is damaged: expected an array")
    parts = _elements(element.data, order)
    if not len(element.data):
        return _Matrix(0, (0, 0), "", parts)  # an empty array has no more than its tag
    flags, shape, name = (next(parts, None) for _ in range(3))
    if not (flags and shape and name) or len(flags.data) < 4:
        raise MatError("it is damaged: an array without size or name")
    array_class = struct.unpack_from(f"{order}I", flags.data)[0] & 0xFF
    sides = np.frombuffer(shape.data[: len(shape.data) // 4 * 4], f"{order}i4").tolist()
    return _Matrix(array_class, tuple(sides), bytes(name.data).decode("latin-1"), parts)


def _field(matrix: _Matrix, field: str, order: str) -> np.ndarray | None:
    length, names = next(matrix.content, None), next(matrix.content, None)
    if matrix.shape != (1, 1) or not (length and names) or len(length.data) < 4:
        return None
    width = struct.unpack_from(f"{order}i", length.data)[0]
    if not 0 < width <= len(names.data) or len(names.data) % width:
        raise MatError("it is damaged: the names of fields are not readable")
    text = bytes(names.data)
    for start in range(0, len(text), width):
        value = next(matrix.content, None)
        if value is None:
            raise MatError("it is cut off")
        if text[start : start + width].split(b"\0")[0] == field.encode():
            return _numbers(_matrix(value, order), order)
    return None


def _numbers(matrix: _Matrix, order: str) -> np.ndarray | None:
    if matrix.array_class not in NUMBER_CLASSES:
        return None
    values = next(matrix.content, None)
    if values is None or values.kind not in NUMBER_TYPES:
        raise MatError("it is damaged: an array without numbers")
    dtype = np.dtype(order + NUMBER_TYPES[values.kind])
    # MATLAB stores columns one after the other.
    if any(side < 0 for side in matrix.shape) or (
        math.prod(matrix.shape) * dtype.itemsize != len(values.data)
    ):
        raise MatError("it is damaged: an array has more or fewer numbers than its size says")
    return np.frombuffer(values.data, dtype).reshape(matrix.shape, order="F")
