"""Cache of decoded images and labels on the node's disk, memory-mapped and shared by all trials.

Without it, a trial of forty epochs decodes each JPEG forty times, and eight trials on the same node
each do so. With it, each pair is decoded once per node, by the process that needs it first. The
files lie in one folder per data set. The operating system's page cache holds the files in use once
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
from typing import TextIO

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.decode import DecodedPair, decode_pair
from segtune.data.image_files import open_header
from segtune.data.masks import palette_content
from segtune.data.pairs import Pair
from segtune.errors import DataError

log = logging.getLogger(__name__)

# Increased when the format of the cache files changes.
FORMAT_VERSION = "2"
# How many image headers are read to estimate the size of a data set.
NUM_SIZED_IMAGES = 16
# Lock files per split, each shared by many pairs: enough that loaders rarely wait for each other.
NUM_LOCKS = 64
GB = 10**9
# Folder inside the user's cache folder. Nothing outside it is ever removed.
CACHE_FOLDER = "segtune-decoded"
# File of a data set on which each process that has opened the data set holds a shared lock.
IN_USE_FILE = "in-use"
# Never used by the cache, so that the disk has space for checkpoints.
RESERVED_BYTES = 2 * GB
HEADER_BYTES = 32  # height, width, bytes per label, and whether the image is as stored
# Settings of DataConfig that change neither pixels nor labels of a pair. All others are part of the
# key, so that a new setting cannot be forgotten. The files of a pair have keys of their own.
NOT_IN_KEY = frozenset(
    (
        *("root", "train", "val", "images", "masks", "image_suffix", "mask_suffix", "resize"),
        *("crop", "num_images", "cache", "cache_gb", "num_loaders", "max_megapixels"),
    )
)

# The locked IN_USE_FILE of each data set. A lock has to last as long as the process, not as long as
# one DecodedPairs: trials follow one another in a process, and the next one reads the same images.
_in_use_locks: dict[Path, TextIO] = {}


class DecodedPairs:
    """Image uint8 [H, W, 3] and labels uint8 or uint16 [H, W] of each pair of a split, by index."""

    def __init__(
        self, pairs: Sequence[Pair], config: DataConfig, num_classes: int, split: str
    ) -> None:
        """Decide whether the decoded pairs of `split` (train or val) are cached; decode nothing.

        `folder` is None if they are not cached.
        """
        self.pairs = pairs
        self.config = config
        self.num_classes = num_classes
        self.folder = _open_folder(pairs, config, num_classes, split)
        # Of the pairs that were read by this process, the first image that is not upright.
        self.first_as_stored = ""
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and the labels of a pair; the arrays are read-only if they are cached.

        Raises DataError that names the file if one of the two cannot be decoded.
        """
        image, labels, is_as_stored = self._decoded(self.pairs[index])
        if is_as_stored and not self.first_as_stored:
            self.first_as_stored = self.pairs[index].image
        return image, labels

    def _decoded(self, pair: Pair) -> DecodedPair:
        folder = self.folder  # read once: the writer thread may set it to None meanwhile
        if folder is None or not (name := _file_name(pair)):
            return decode_pair(pair, self.config, self.num_classes)
        # Strings: Path objects took a tenth of the time of reading a cached pair.
        path = os.path.join(folder, name)
        lock_path = os.path.join(folder, f"lock-{int(name[:2], 16) % NUM_LOCKS}")
        if cached := _read(path):
            return cached
        try:
            return self._decode_and_cache(pair, path, lock_path)
        except OSError as error:  # a file system without locks, or a user has removed the folder
            self._stop_caching(error)
            return decode_pair(pair, self.config, self.num_classes)

    def flush(self) -> None:
        """Wait until every pair that this process has decoded is in the cache."""
        if self._writing:
            self._writing.result()

    def _decode_and_cache(self, pair: Pair, path: str, lock_path: str) -> DecodedPair:
        with contextlib.ExitStack() as lock:
            lock.enter_context(_locked(lock_path))
            # The process that held the lock before may have decoded this pair.
            if cached := _read(path):
                return cached
            decoded = decode_pair(pair, self.config, self.num_classes)
            for array in (decoded.image, decoded.labels):
                array.setflags(write=False)
            # Writing takes as long as decoding, so a thread writes while the next image is decoded.
            # At most one image waits to be written, to limit the memory.
            self.flush()
            self._writer = self._writer or ThreadPoolExecutor(1, "decoded")
            self._writing = self._writer.submit(
                self._write_and_unlock, path, decoded, lock.pop_all()
            )
            return decoded

    def _stop_caching(self, error: OSError) -> None:
        folder, self.folder = self.folder, None
        # None: caching has stopped before, with a warning.
        if folder:
            log.warning(
                "data.cache: %s: %s: from here on images are decoded again each time",
                folder,
                error.strerror,
            )

    def _write_and_unlock(
        self, path: str, decoded: DecodedPair, lock: contextlib.ExitStack
    ) -> None:
        """Write a decoded pair, then release its lock. This process stops caching if that fails."""
        with lock:
            try:
                _write(path, decoded)
            except OSError as error:
                self._stop_caching(error)


def _write(path: str, decoded: DecodedPair) -> None:
    """Write a decoded pair to a temporary file and rename it, so that readers see a whole file."""
    temporary = Path(f"{path}.{os.getpid()}")
    image, labels, is_as_stored = decoded
    header = np.array((*labels.shape, labels.itemsize, is_as_stored), "<i8")
    arrays = [np.ascontiguousarray(array) for array in (header, image, labels)]
    try:
        with temporary.open("wb") as file:
            # Reserve the space first: writing then took a fifth of the time on the disk it was
            # measured on. And a full disk raises here, before anything is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, sum(array.nbytes for array in arrays))
            for array in arrays:
                file.write(array.data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: str) -> DecodedPair | None:
    """Map a cached pair into memory; return None if it is not in the cache (yet)."""
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file
        return None
    height, width, label_bytes, is_as_stored = np.frombuffer(memory, "<i8", 4).tolist()
    image = np.frombuffer(memory, np.uint8, height * width * 3, HEADER_BYTES)
    labels = np.frombuffer(memory, f"<u{label_bytes}", height * width, HEADER_BYTES + image.size)
    return DecodedPair(
        image.reshape(height, width, 3), labels.reshape(height, width), bool(is_as_stored)
    )


def _open_folder(
    pairs: Sequence[Pair], config: DataConfig, num_classes: int, split: str
) -> Path | None:
    """Return the folder of this split's decoded pairs, or None if they are not cached.

    The folder is HOME / data set / split. Logs a warning if the user wanted a cache and gets none.
    """
    if config.cache == "none" or not pairs:
        return None
    try:
        home = _home() if config.cache == "auto" else Path(config.cache) / CACHE_FOLDER
        folder = home / _data_set_key(config, num_classes) / split
        folder.mkdir(parents=True, exist_ok=True)
        _mark_in_use(folder.parent)
        os.utime(folder.parent)  # the data set that was opened longest ago is removed first
        return folder if _has_room(folder, pairs, config) else None
    except OSError as error:
        log.warning(
            "data.cache: %s: %s: every epoch decodes the images again",
            error.filename or config.cache,
            error.strerror,
        )
        return None


def cache_folder() -> Path:
    """Return the default cache folder, on the node's own disk. It need not exist yet.

    Not in the user's home folder: on a cluster it is often on a shared, slow file system.
    """
    xdg = os.environ.get("XDG_CACHE_HOME")
    shared = Path(tempfile.gettempdir()) / f"{CACHE_FOLDER}-{os.getuid()}"
    return Path(xdg) / CACHE_FOLDER if xdg else shared


def _home() -> Path:
    """Return the default cache folder, and make it if it does not exist."""
    home = cache_folder()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(home))
    return home


def _data_set_key(config: DataConfig, num_classes: int) -> str:
    """Return the name of a data set's folder; it changes with each setting that changes labels."""
    return _digest(
        (
            FORMAT_VERSION,
            _boot_id(),
            os.path.abspath(config.root),
            num_classes,
            *sorted((k, repr(v)) for k, v in config.dump().items() if k not in NOT_IN_KEY),
            palette_content(config),
        )
    )


def _boot_id() -> str:
    """Return an id that changes when the machine boots; an empty string if there is none.

    Cache files are not synced to disk. So a crash of the machine may leave holes in them, and files
    of an earlier boot are not used.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _file_name(pair: Pair) -> str:
    """Return the name of a pair's cache file; an empty string if the image or mask is absent.

    The name changes when the image or the mask changes.
    """
    try:
        stats = [os.stat(path) for path in (pair.image, pair.mask)]
    except OSError:
        return ""
    return _digest((pair.image, pair.mask, *((s.st_size, s.st_mtime_ns) for s in stats)))


def _digest(key: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()


def _has_room(folder: Path, pairs: Sequence[Pair], config: DataConfig) -> bool:
    """Return whether the decoded `pairs` fit into the cache; log a warning if they do not.

    Removes data sets that are not in use if the pairs fit only then.
    """
    data_set = folder.parent
    home = data_set.parent
    split_sizes = {split: _size(split) for split in data_set.iterdir()}
    oldest_first = sorted(home.iterdir(), key=os.path.getmtime)
    other_sizes = {other: _size(other) for other in oldest_first if other != data_set}
    cached = sum(split_sizes.values()) + sum(other_sizes.values())
    needed = _estimated_size(pairs, config.max_megapixels)
    needed += sum(size for split, size in split_sizes.items() if split != folder)
    on_disk = shutil.disk_usage(home).free + cached - RESERVED_BYTES
    allowed = min(config.cache_gb * GB, on_disk)
    excess = needed + sum(other_sizes.values()) - allowed
    if needed <= allowed and excess > 0:
        excess -= _make_room(other_sizes, excess)
    has_room = needed <= allowed and excess <= 0
    if not has_room:
        _warn_no_room(folder, config, needed, allowed)
    return has_room


def _warn_no_room(folder: Path, config: DataConfig, needed: float, allowed: float) -> None:
    log.warning(
        "data.cache: the decoded images of %s take about %.2f GB, and %.2f GB are allowed in %s "
        "(data.cache_gb is %g, %.0f GB of the disk stay free, and other data sets in use keep "
        "their space): every epoch decodes the images of %s again",
        config.root,
        needed / GB,
        max(0.0, allowed) / GB,
        folder.parent.parent,
        config.cache_gb,
        RESERVED_BYTES / GB,
        folder.name,
    )


def _estimated_size(pairs: Sequence[Pair], max_megapixels: float) -> int:
    """Return the estimated bytes of all decoded pairs: per pixel 3 for the image, 1 for the label.

    Reads the headers of about NUM_SIZED_IMAGES images.
    """
    sized = pairs[:: max(1, len(pairs) // NUM_SIZED_IMAGES)]
    num_pixels = 0
    for pair in sized:
        # A file that is not an image is reported when it is decoded.
        with contextlib.suppress(DataError):
            width, height = open_header(pair.image, max_megapixels).size
            num_pixels += width * height
    return 4 * num_pixels * len(pairs) // len(sized)


def _size(path: Path) -> int:
    """Return the bytes of all files in a folder, except files that are removed meanwhile."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _make_room(sizes: Mapping[Path, int], excess: float) -> int:
    """Remove data sets that are not in use, in the order of `sizes`, until `excess` bytes are free.

    Returns how many bytes were freed.
    """
    freed = 0
    for data_set, size in sizes.items():
        if freed >= excess:
            break
        # The lock fails with an OSError while another process holds a shared lock on the file.
        with contextlib.suppress(OSError), (data_set / IN_USE_FILE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(data_set, ignore_errors=True)
            log.info("data.cache: removed %s (%.2f GB) to make room", data_set, size / GB)
            freed += size
    return freed


def _mark_in_use(data_set: Path) -> None:
    """Protect a data set from removal until this process, and all that it forks, have ended."""
    if data_set not in _in_use_locks:
        file = (data_set / IN_USE_FILE).open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        _in_use_locks[data_set] = file


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock among the processes of this node. The kernel releases it if its holder dies."""
    # Opened for writing: an exclusive lock on NFS needs it.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
