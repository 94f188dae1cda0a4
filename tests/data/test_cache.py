"""Cached pairs equal decoded pairs; the cache is bounded; concurrent and dead users do no harm."""

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data import cache
from segtune.data.cache import DecodedPairs
from segtune.data.decode import DecodedPair, decode_pair
from segtune.data.images import read_image
from segtune.data.layouts import open_split
from segtune.data.pairs import Pair
from segtune.data.shapes import CLASSES
from segtune.errors import DataError

NUM_CLASSES = len(CLASSES)
TRAIN_BYTES = 24 * 64 * 64 * 4  # the decoded training images of the tiny data set
Arrays = tuple[np.ndarray, np.ndarray]
fork = multiprocessing.get_context("fork")


@pytest.fixture
def data(tiny_config: ExperimentConfig, tmp_path: Path) -> DataConfig:
    """The tiny data set, with an empty cache of its own."""
    return tiny_config.override({"data.cache": str(tmp_path / "cache")}).data


def open_pairs(data: DataConfig, split: str = "train") -> DecodedPairs:
    return DecodedPairs(open_split(data, split), data, NUM_CLASSES, split)


def read_all(pairs: DecodedPairs) -> list[Arrays]:
    arrays = [pairs[index] for index in range(len(pairs))]
    pairs.flush()
    return arrays


def decode_all(pairs: DecodedPairs) -> list[Arrays]:
    """Decode all pairs without the cache."""
    return [decode_pair(pair, pairs.config, pairs.num_classes)[:2] for pair in pairs.pairs]


def are_equal(left: list[Arrays], right: list[Arrays]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(image, other_image) and np.array_equal(labels, other_labels)
        for (image, labels), (other_image, other_labels) in zip(left, right, strict=True)
    )


def cache_files(data: DataConfig) -> list[Path]:
    return [path for path in Path(data.cache).glob("*/*/*/*") if not path.name.startswith("lock")]


def test_cached_pairs_equal_decoded_pairs(data: DataConfig) -> None:
    pairs = open_pairs(data)
    expected = decode_all(pairs)
    assert are_equal(read_all(pairs), expected)
    assert len(cache_files(data)) == len(pairs)
    assert are_equal(read_all(pairs), expected)
    with pytest.raises(ValueError, match="read-only"):
        pairs[0][0][:] = 0


def test_labels_of_16_bits_stay_as_they_are(data: DataConfig, tmp_path: Path) -> None:
    labels = np.array([[0, 299, 65535]], np.uint16)
    decoded = DecodedPair(np.zeros((1, 3, 3), np.uint8), labels, is_as_stored=True)
    cache._write(str(tmp_path / "pair"), decoded)
    cached = cache._read(str(tmp_path / "pair"))
    assert cached
    assert cached.labels.dtype == np.uint16
    assert cached.labels.tolist() == labels.tolist()
    assert cached.is_as_stored


@pytest.mark.parametrize(
    ("change", "num_folders"),
    [({"value_range": [0, 9]}, 2), ({"ignore_index": 7}, 2), ({"resize": [64, 32]}, 1)],
)
def test_each_setting_that_changes_pixels_or_labels_has_a_folder_of_its_own(
    data: DataConfig, change: dict[str, object], num_folders: int
) -> None:
    folders = {open_pairs(config).folder for config in (data, data.override(change))}
    assert len(folders) == num_folders


@pytest.fixture
def own_pair(data: DataConfig, tmp_path: Path) -> Pair:
    """A copy of a training pair that a test may change."""
    pair = open_split(data, "train")[0]
    image = shutil.copy(pair.image, tmp_path / "image.jpg")
    return Pair(str(image), str(shutil.copy(pair.mask, tmp_path / "mask.png")))


def test_a_cached_image_is_not_decoded_again(data: DataConfig, own_pair: Pair) -> None:
    pairs = DecodedPairs([own_pair], data, NUM_CLASSES, "train")
    first = read_all(pairs)
    # Zeros of the same size and time: only a process that decodes the file notices them.
    status = os.stat(own_pair.image)
    Path(own_pair.image).write_bytes(bytes(status.st_size))
    os.utime(own_pair.image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert are_equal(read_all(DecodedPairs([own_pair], data, NUM_CLASSES, "train")), first)
    other_labels = data.override({"reduce_zero_label": True})
    with pytest.raises(DataError, match=r"image\.jpg: not readable"):
        DecodedPairs([own_pair], other_labels, NUM_CLASSES, "train")[0]


def test_a_changed_image_is_decoded_again(data: DataConfig, own_pair: Pair) -> None:
    before = read_all(DecodedPairs([own_pair], data, NUM_CLASSES, "train"))[0][0].copy()
    shutil.copy(open_split(data, "train")[1].image, own_pair.image)
    after = read_all(DecodedPairs([own_pair], data, NUM_CLASSES, "train"))[0][0]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, read_image(own_pair.image, data))


def read_all_and_log_decodes(data: DataConfig, decode_log: Path) -> None:
    """Read all training pairs, and write the name of each image that is decoded to `decode_log`."""
    decode = cache.decode_pair

    def logged(pair: Pair, config: DataConfig, num_classes: int) -> DecodedPair:
        with decode_log.open("a") as file:
            file.write(pair.image + "\n")
        return decode(pair, config, num_classes)

    cache.decode_pair = logged  # in a forked process only
    read_all(open_pairs(data))


def test_eight_processes_decode_each_image_once(data: DataConfig, tmp_path: Path) -> None:
    decode_log = tmp_path / "decoded"
    arguments = (data, decode_log)
    readers = [fork.Process(target=read_all_and_log_decodes, args=arguments) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * 8
    images = [pair.image for pair in open_split(data, "train")]
    assert sorted(decode_log.read_text().split()) == sorted(images)


def hang_while_decoding(data: DataConfig, has_lock: Event) -> None:
    def hang(pair: Pair, config: DataConfig, num_classes: int) -> DecodedPair:
        has_lock.set()
        time.sleep(60)
        raise AssertionError

    cache.decode_pair = hang  # in a forked process only
    open_pairs(data)[0]


def test_a_killed_process_holds_no_lock(data: DataConfig) -> None:
    has_lock = fork.Event()
    process = fork.Process(target=hang_while_decoding, args=(data, has_lock))
    process.start()
    assert has_lock.wait(30)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    pairs = open_pairs(data)
    assert are_equal(read_all(pairs), decode_all(pairs))


def test_cache_none_writes_nothing(data: DataConfig) -> None:
    pairs = open_pairs(data.override({"cache": "none"}))
    assert pairs.folder is None
    assert are_equal(read_all(pairs), decode_all(pairs))
    assert cache_files(data) == []


@pytest.mark.parametrize("limit", ["cache_gb", "disk"])
def test_a_data_set_that_does_not_fit_is_not_cached_but_warned_about(
    data: DataConfig, limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if limit == "disk":
        monkeypatch.setattr(cache, "RESERVED_BYTES", 10**18)
    else:
        data = data.override({"cache_gb": 0.0001})
    with caplog.at_level(logging.WARNING):
        pairs = open_pairs(data)
    assert pairs.folder is None
    assert "decodes the images of train again" in caplog.text
    assert "data.cache_gb" in caplog.text
    assert are_equal(read_all(pairs), decode_all(pairs))


def cache_two_data_sets(data: DataConfig, folders: Connection, may_end: Event) -> None:
    """Cache the training images as two data sets, opened 200 and 100 s ago; use both until the end.

    Another number of classes makes another data set.
    """
    for age_s, more_classes in ((200, 1), (100, 2)):
        pairs = DecodedPairs(open_split(data, "train"), data, NUM_CLASSES + more_classes, "train")
        read_all(pairs)
        assert pairs.folder
        opened = time.time() - age_s
        os.utime(pairs.folder.parent, (opened, opened))
        folders.send(pairs.folder)
    may_end.wait(60)


def test_the_data_set_that_was_opened_longest_ago_makes_room(data: DataConfig) -> None:
    strange = Path(data.cache) / "thesis" / "chapter"  # not in a folder of ours
    strange.parent.mkdir(parents=True)
    strange.write_bytes(bytes(3 * TRAIN_BYTES))
    os.utime(strange.parent, (0, 0))
    receiver, sender = fork.Pipe(duplex=False)
    may_end = fork.Event()
    user = fork.Process(target=cache_two_data_sets, args=(data, sender, may_end))
    user.start()
    oldest, newer = receiver.recv(), receiver.recv()
    room_for_two = data.override({"cache_gb": 2.5 * TRAIN_BYTES / cache.GB})
    assert open_pairs(room_for_two).folder is None  # both others are in use
    may_end.set()
    user.join()
    folder = open_pairs(room_for_two).folder
    assert folder
    assert folder.exists()
    assert not oldest.exists()
    assert newer.exists()
    assert strange.exists()


def test_pairs_are_decoded_again_if_their_folder_is_removed(data: DataConfig) -> None:
    pairs = open_pairs(data)
    expected = read_all(pairs)
    assert pairs.folder
    shutil.rmtree(pairs.folder)
    assert are_equal(read_all(pairs), expected)
    assert pairs.folder is None


def test_a_split_does_not_remove_the_other_split(
    data: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    data = data.override({"cache_gb": 1.1 * TRAIN_BYTES / cache.GB})
    train = open_pairs(data)
    read_all(train)
    with caplog.at_level(logging.WARNING):
        assert open_pairs(data, "val").folder is None
    assert "images of val again" in caplog.text
    assert len(cache_files(data)) == len(train)


def test_a_full_disk_ends_caching_with_one_warning(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = open_pairs(data)

    def fail_late(path: Path, target: str) -> Path:
        time.sleep(0.2)  # meanwhile the next image is decoded, and waits to be written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", fail_late)
    with caplog.at_level(logging.WARNING):
        arrays = read_all(pairs)
    assert caplog.text.count("No space left on device") == 1
    assert cache_files(data) == []
    assert are_equal(arrays, decode_all(pairs))


def test_a_folder_that_cannot_be_made_is_warned_about(
    data: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        pairs = open_pairs(data.override({"cache": str(tmp_path / "file")}))
    assert pairs.folder is None
    assert "decodes the images again" in caplog.text


def test_an_absent_image_is_named(data: DataConfig, own_pair: Pair) -> None:
    absent = Pair(f"{own_pair.image}.absent.png", own_pair.mask)
    with pytest.raises(DataError, match=r"absent\.png"):
        DecodedPairs([absent], data, NUM_CLASSES, "train")[0]
