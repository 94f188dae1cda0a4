"""MATLAB's .mat files: the same values as scipy, and an error for every damaged file."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from segtune.data.mat_files import MatError, read_struct_field


def save(path: Path, segmentation: np.ndarray, *, compressed: bool = True) -> bytes:
    """Write a file with the fields of SBD's, and a variable before them."""
    boundaries = np.empty((20, 1), object)
    for label in range(20):
        boundaries[label, 0] = csc_matrix(segmentation.shape, dtype=bool)
    struct = {
        "Boundaries": boundaries,
        "Segmentation": segmentation,
        "CategoriesPresent": np.unique(segmentation),
    }
    savemat(path, {"first": np.eye(3), "GTcls": struct}, do_compression=compressed)
    return path.read_bytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float64"])
@pytest.mark.parametrize("compressed", [True, False])
def test_values_equal_those_of_scipy(tmp_path: Path, dtype: str, compressed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 21, (7, 13)).astype(dtype)
    content = save(tmp_path / "a.mat", values, compressed=compressed)
    read = read_struct_field(content, "GTcls", "Segmentation")
    expected = loadmat(tmp_path / "a.mat")["GTcls"]["Segmentation"][0, 0]
    assert read is not None
    assert np.array_equal(read, expected)
    assert np.array_equal(read, values)


def test_absent_fields_and_variables_are_none(tmp_path: Path) -> None:
    content = save(tmp_path / "a.mat", np.zeros((2, 2), np.uint8))
    assert read_struct_field(content, "GTinst", "Segmentation") is None
    assert read_struct_field(content, "GTcls", "Categories") is None
    assert read_struct_field(content, "GTcls", "Boundaries") is None  # cells, not numbers
    assert read_struct_field(content, "first", "Segmentation") is None


@pytest.mark.parametrize("compressed", [True, False])
def test_file_that_is_cut_off_anywhere_is_an_error(tmp_path: Path, compressed: bool) -> None:
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": values}}, do_compression=compressed)
    content = (tmp_path / "a.mat").read_bytes()
    for end in range(len(content)):
        with pytest.raises(MatError):
            read_struct_field(content[:end], "GTcls", "Segmentation")


def test_damaged_file_gives_values_or_an_error_and_nothing_else(tmp_path: Path) -> None:
    contents = [
        save(tmp_path / "a.mat", np.ones((9, 8), np.uint8), compressed=compressed)
        for compressed in (True, False)
    ]
    rng = np.random.default_rng(0)
    num_errors = 0
    for _ in range(1500):
        damaged = bytearray(contents[int(rng.integers(2))])
        for place in rng.integers(0, len(damaged), int(rng.integers(1, 20))):
            damaged[place] = rng.integers(256)
        try:
            read_struct_field(bytes(damaged), "GTcls", "Segmentation")
        except MatError:
            num_errors += 1
    assert num_errors > 500


def test_file_of_another_format_is_an_error() -> None:
    for content in (b"", b"<html>", b"\x89HDF\r\n\x1a\n" + bytes(600), bytes(600)):
        with pytest.raises(MatError, match=r"no \.mat file of MATLAB 5"):
            read_struct_field(content, "GTcls", "Segmentation")
    with pytest.raises(MatError, match=r"no \.mat file of MATLAB 5"):
        read_struct_field(b"MATLAB 7.3".ljust(126) + b"IM" + bytes(600), "GTcls", "Segmentation")
