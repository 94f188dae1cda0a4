"""Decoded once per node, the same as decoding; bounded; safe when several begin at once or one of them dies."""

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from segtune.data import cache
from segtune.data.cache import DecodedPairs
from segtune.data.decode import load_pair, read_image
from segtune.data.layouts import open_split
from segtune.data.shapes import CLASSES
from segtune.errors import DataError

NUM_CLASSES = len(CLASSES)


@pytest.fixture
def data(tiny_config, tmp_path):
    """The settings of a data set whose decoded images go to a folder of their own."""
    return tiny_config.override({"data.cache": str(tmp_path / "kept")}).data


def opened(data, split="train"):
    return DecodedPairs(open_split(data, split), data, NUM_CLASSES, split)


def kept_files(data):
    return [path for path in Path(data.cache).glob("*/*/*/*") if not path.name.startswith("lock")]


def let_go():
    """What the end of a process does."""
    while cache._in_use_locks:
        cache._in_use_locks.popitem()[1].close()


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_is_kept_is_what_was_decoded(data):
    pairs = opened(data)
    expected = [load_pair(pair, data, NUM_CLASSES) for pair in pairs.pairs]
    for _ in ("decoded", "read"):
        assert all(same(pairs[i], expected[i]) for i in range(len(pairs)))
    assert len(kept_files(data)) == len(pairs)
    with pytest.raises(ValueError, match="read-only"):
        pairs[0][0][:] = 0


def test_a_kept_image_is_not_decoded_again(data, monkeypatch):
    first = opened(data)[0]
    monkeypatch.setattr(cache, "load_pair", lambda *_: pytest.fail("decoded"))
    assert same(opened(data)[0], first)
    with pytest.raises(pytest.fail.Exception):
        opened(data.override({"reduce_zero_label": True}))[0]  # other labels


def test_a_changed_file_is_decoded_anew(data, tmp_path):
    (tmp_path / "one.png").write_bytes(Path(opened(data).pairs[0].image).read_bytes())
    (tmp_path / "labels.png").write_bytes(Path(opened(data).pairs[0].mask).read_bytes())
    pair = type(opened(data).pairs[0])(str(tmp_path / "one.png"), str(tmp_path / "labels.png"))
    before = DecodedPairs([pair], data, NUM_CLASSES, "train")[0][0].copy()
    (tmp_path / "one.png").write_bytes(Path(opened(data).pairs[1].image).read_bytes())
    after = DecodedPairs([pair], data, NUM_CLASSES, "train")[0][0]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, read_image(pair.image))


def count_decodes(data, notes):
    """Reads all images, and leaves a line in `notes` for each that was decoded."""
    decode = cache.load_pair

    def noted(pair, *rest):
        with notes.open("a") as file:
            file.write(pair.image + "\n")
        return decode(pair, *rest)

    cache.load_pair = noted
    pairs = opened(data)
    for index in range(len(pairs)):
        pairs[index]


def test_eight_trials_at_once_decode_each_image_once(data, tmp_path):
    context = multiprocessing.get_context("fork")
    readers = [
        context.Process(target=count_decodes, args=(data, tmp_path / "notes")) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * 8
    assert sorted((tmp_path / "notes").read_text().split()) == sorted(
        pair.image for pair in open_split(data, "train")
    )


def stuck_decoding(data, ready):
    def wait(*_):
        ready.set()
        time.sleep(60)

    cache.load_pair = wait
    opened(data)[0]


def test_a_killed_process_leaves_no_lock(data):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=stuck_decoding, args=(data, ready))
    process.start()
    assert ready.wait(30)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert same(opened(data)[0], load_pair(opened(data).pairs[0], data, NUM_CLASSES))


def test_none_keeps_nothing(data):
    pairs = opened(data.override({"cache": "none"}))
    assert pairs.folder is None
    assert same(pairs[0], load_pair(pairs.pairs[0], data, NUM_CLASSES))


@pytest.mark.parametrize("small", ["limit", "disk"])
def test_too_large_a_data_set_is_not_kept_and_says_so(data, small, monkeypatch, caplog):
    if small == "disk":
        monkeypatch.setattr(cache, "RESERVED_BYTES", 10**18)
    else:
        data = data.override({"cache_gb": 0.0001})
    with caplog.at_level(logging.WARNING):
        pairs = opened(data)
    assert pairs.folder is None
    assert "decodes the images of train again" in caplog.text
    assert "data.cache_gb" in caplog.text
    assert same(pairs[0], load_pair(pairs.pairs[0], data, NUM_CLASSES))


def test_the_data_set_that_was_not_used_for_longest_makes_room(data):
    whole = 24 * 64 * 64 * 4
    old, late = (
        DecodedPairs(open_split(data, "train"), data, NUM_CLASSES + more, "train")
        for more in (1, 2)
    )
    stranger = Path(data.cache) / "thesis"
    stranger.mkdir()
    (stranger / "chapter").write_bytes(b"." * 3 * whole)
    os.utime(stranger, (0, 0))
    for age, pairs in ((200, old), (100, late)):
        for index in range(len(pairs)):
            pairs[index]
        assert pairs.folder
        os.utime(pairs.folder.parent, (time.time() - age,) * 2)
    tight = data.override({"cache_gb": 2.5 * whole / cache.GB})
    assert opened(tight).folder is None  # both are in use
    let_go()
    new = opened(tight)
    assert old.folder
    assert late.folder
    assert new.folder
    assert not old.folder.exists()
    assert late.folder.exists()
    assert (stranger / "chapter").exists()
    assert same(
        old[0], load_pair(old.pairs[0], old.config, NUM_CLASSES)
    )  # whoever still reads it goes on
    assert not old.folder


def test_a_split_does_not_push_out_the_other_one(data, caplog):
    whole = 24 * 64 * 64 * 4
    data = data.override({"cache_gb": 1.1 * whole / cache.GB})
    train = opened(data)
    for index in range(len(train)):
        train[index]
    with caplog.at_level(logging.WARNING):
        assert opened(data, "val").folder is None
    assert "images of val again" in caplog.text
    assert len(kept_files(data)) == len(train)


def test_a_full_disk_ends_the_keeping_not_the_run(data, monkeypatch, caplog):
    pairs = opened(data)
    assert pairs.folder
    (pairs.folder / "lock-0").touch()

    def full(*_):
        time.sleep(0.2)  # by then the next image is on its way
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with caplog.at_level(logging.WARNING):
        found = [pairs[index] for index in range(3)]
        pairs.flush()
    assert caplog.text.count("No space left on device") == 1
    assert kept_files(data) == []
    assert all(same(found[i], load_pair(pairs.pairs[i], data, NUM_CLASSES)) for i in range(3))


def test_a_folder_that_cannot_be_made_is_told(data, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        pairs = opened(data.override({"cache": str(tmp_path / "file")}))
    assert pairs.folder is None
    assert "decodes the images again" in caplog.text


def test_an_image_that_is_gone_is_named(data, tmp_path):
    pair = open_split(data, "train")[0]
    gone = type(pair)(str(tmp_path / "gone.png"), pair.mask)
    with pytest.raises(DataError, match=r"gone\.png"):
        DecodedPairs([gone], data, NUM_CLASSES, "train")[0]
