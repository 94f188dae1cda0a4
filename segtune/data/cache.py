"""Decoded images and labels on the node's disk, memory-mapped: every trial of the node reads what the first one has decoded.

A trial of forty epochs decodes each JPEG forty times, and eight trials beside it do the same. Here each pair is decoded once
per node, by whoever needs it first. The files lie in one folder per data set; the system's page cache holds what is in use, once
for all processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from segtune.config.schema import DataConfig
from segtune.data.decode import load_pair
from segtune.data.layouts import Pair

log = logging.getLogger(__name__)

# Changes when what lies in a file changes.
VERSION = "1"
# Images whose headers are read to learn how much a data set takes.
PROBES = 16
# Files that stand for the locks of a folder: enough that loaders seldom wait for one another.
STRIPES = 64
GB = 10**9
# Below a folder that a user gives: what else lies there is not ours to remove.
OWN_FOLDER = "segtune-decoded"
# Locked, shared, by every process that has opened a data set.
IN_USE = "in-use"
_HELD: dict[Path, IO] = {}
# Left on the disk for checkpoints, whatever happens.
SPARE_BYTES = 2 * GB
HEADER_BYTES = 16  # height and width


class DecodedPairs:
    """Image uint8 [H, W, 3] and labels uint8 [H, W] of each pair of a split, by index."""

    def __init__(
        self, pairs: Sequence[Pair], config: DataConfig, num_classes: int, split: str
    ) -> None:
        """Decides whether the decoded images of `split` (train or val) are kept; nothing is decoded yet."""
        self.pairs, self.config, self.num_classes = pairs, config, num_classes
        self.folder = _folder(pairs, config, num_classes, split)
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a pair; the arrays are read-only where they are kept. Raises DataError that names a file which is no image."""
        pair, folder = self.pairs[index], self.folder
        if folder is None or not (name := _name(pair)):
            return load_pair(pair, self.config, self.num_classes)
        # Strings: a tenth of the time with a decoded image went into paths.
        path = os.path.join(folder, name)
        if found := _read(path):
            return found
        try:
            with contextlib.ExitStack() as lock:
                lock.enter_context(
                    _locked(os.path.join(folder, f"lock-{int(name[:2], 16) % STRIPES}"))
                )
                if found := _read(path):  # whoever held the lock has decoded it
                    return found
                decoded = load_pair(pair, self.config, self.num_classes)
                for part in decoded:
                    part.setflags(write=False)
                # Writing takes as long as decoding: meanwhile the next image is decoded. Not more than one, for memory's sake.
                self.settle()
                self._writer = self._writer or ThreadPoolExecutor(1, "decoded")
                self._writing = self._writer.submit(self._keep, path, decoded, lock.pop_all())
                return decoded
        except OSError as error:  # a file system without locks, a folder that somebody has removed
            self._give_up(error)
            return load_pair(pair, self.config, self.num_classes)

    def settle(self) -> None:
        """Waits until what this process has decoded is there for the others."""
        if self._writing:
            self._writing.result()

    def _give_up(self, error: OSError) -> None:
        folder, self.folder = self.folder, None
        if folder:  # else the one that was written meanwhile has told it
            log.warning(
                "data.cache: %s: %s: from here on images are decoded again each time",
                folder,
                error.strerror,
            )

    def _keep(
        self, path: str, decoded: tuple[np.ndarray, np.ndarray], lock: contextlib.ExitStack
    ) -> None:
        """Writes a pair for the others, then lets go of the lock; where the disk does not take it, this process stops trying."""
        with lock:
            self._write(path, decoded)

    def _write(self, path: str, decoded: tuple[np.ndarray, np.ndarray]) -> None:
        aside = Path(f"{path}.{os.getpid()}")
        try:
            parts = [
                np.ascontiguousarray(part) for part in (np.array(decoded[1].shape, "<i8"), *decoded)
            ]
            with aside.open("wb") as file:
                # Room first: it is a fifth of the time, and a full disk is told before anything is written.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, sum(part.nbytes for part in parts))
                for part in parts:
                    file.write(part.data)
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            self._give_up(error)


def _folder(pairs: Sequence[Pair], config: DataConfig, num_classes: int, split: str) -> Path | None:
    """Returns the folder of this split's decoded images, or None where they are not kept."""
    if config.cache == "none" or not pairs:
        return None
    # What a label becomes depends on these settings.
    meaning = (
        VERSION,
        _boot(),
        os.path.abspath(config.root),
        config.layout,
        config.reduce_zero_label,
        config.ignore_index,
        num_classes,
    )
    try:
        home = _home() if config.cache == "auto" else Path(config.cache) / OWN_FOLDER
        data_set = home / _digest(meaning)
        folder = data_set / split
        folder.mkdir(parents=True, exist_ok=True)
        _hold(data_set)
        os.utime(data_set)
        splits = {part: _size(part) for part in data_set.iterdir()}
        others = {
            other: _size(other)
            for other in sorted(home.iterdir(), key=os.path.getmtime)
            if other != data_set
        }
        taken = sum(others.values())
        needed = _needed(pairs) + sum(size for part, size in splits.items() if part != folder)
        allowed = min(
            config.cache_gb * GB,
            shutil.disk_usage(home).free + sum(splits.values()) + taken - SPARE_BYTES,
        )
        free = allowed - needed - taken
        if needed <= allowed and free < 0:
            free += _make_room(others, -free)
        if needed > allowed or free < 0:
            log.warning(
                "data.cache: the decoded images of %s take about %.2f GB, and %.2f GB are allowed in %s (data.cache_gb is %g, %.0f GB of "
                "the disk stay free, and other data sets in use have their share): every epoch decodes the images of %s again",
                config.root, needed / GB, max(0.0, allowed) / GB, home, config.cache_gb, SPARE_BYTES / GB, split,
            )  # fmt: skip
            return None
    except OSError as error:
        log.warning(
            "data.cache: %s: %s: every epoch decodes the images again",
            error.filename or config.cache,
            error.strerror,
        )
        return None
    return folder


def _home() -> Path:
    """Returns a folder on the node's own disk: on a cluster the home folder is often shared, and slow."""
    given = os.environ.get("XDG_CACHE_HOME")
    home = (
        Path(given) / OWN_FOLDER
        if given
        else Path(tempfile.gettempdir()) / f"{OWN_FOLDER}-{os.getuid()}"
    )
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to somebody else", str(home))
    return home


def _hold(data_set: Path) -> None:
    """Marks a data set as in use until this process, and those that it forks, have ended."""
    if data_set not in _HELD:
        file = (data_set / IN_USE).open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        _HELD[data_set] = file


def _boot() -> str:
    """Returns what changes when the machine starts: files are not synced, so a crash of the machine may leave holes in them."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _digest(meaning: tuple) -> str:
    return hashlib.blake2b(repr(meaning).encode(), digest_size=12).hexdigest()


def _needed(pairs: Sequence[Pair]) -> int:
    """Returns about how many bytes the decoded pairs take: three of each pixel for the image and one for its label."""
    probes = pairs[:: max(1, len(pairs) // PROBES)]
    pixels = 0
    for pair in probes:
        # A file that is no image is told of by whoever decodes it.
        with contextlib.suppress(OSError), Image.open(pair.image) as image:
            pixels += image.width * image.height
    return 4 * pixels * len(pairs) // len(probes)


def _size(path: Path) -> int:
    """Returns the bytes of all files in a folder; those that come and go meanwhile do not matter."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _make_room(others: Mapping[Path, int], excess: float) -> int:
    """Removes other data sets, those not in use, until `excess` bytes are free; returns how many are."""
    freed = 0
    for other, size in others.items():
        if freed >= excess:
            break
        with contextlib.suppress(OSError), (other / IN_USE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
            log.info("data.cache: removed %s (%.2f GB) to make room", other, size / GB)
            freed += size
    return freed


def _name(pair: Pair) -> str:
    """Returns the name of a pair's file: another one as soon as the image or the mask is another one; "" where one is missing."""
    try:
        stats = [os.stat(path) for path in (pair.image, pair.mask)]
    except OSError:
        return ""
    return _digest((pair.image, pair.mask, *((s.st_size, s.st_mtime_ns) for s in stats)))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds a lock among the processes of this node; the system lets go of it when its holder dies."""
    file = os.open(
        path, os.O_RDWR | os.O_CREAT, 0o600
    )  # to write: an exclusive lock on NFS asks for it
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _read(path: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what lies in a file, None where it is not there (yet)."""
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (FileNotFoundError, ValueError):
        return None
    height, width = (int(value) for value in np.frombuffer(memory, "<i8", 2))
    image = np.frombuffer(memory, np.uint8, height * width * 3, HEADER_BYTES)
    labels = np.frombuffer(memory, np.uint8, height * width, HEADER_BYTES + image.size)
    return image.reshape(height, width, 3), labels.reshape(height, width)
