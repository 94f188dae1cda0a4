"""Where a search or a training run ran: versions, source revision, GPUs, host, command.

A result that cannot be repeated often has its reason here. Nothing else of the machine is recorded:
environment variables and package versions are those in the lists below.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segtune.runs.atomic import write_atomic

PACKAGES = (
    *("segtune", "torch", "torchvision", "timm", "transformers", "segmentation_models_pytorch"),
    *("albumentations", "numpy", "opencv-python-headless", "ray", "optuna"),
)
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
)
# What may change a result. The command, the host and the time may differ between sessions.
COMPARED = ("python", "packages", "revision", "is_changed", "gpus", "variables")
SOURCE = Path(__file__).parents[1]
# Seconds that git and nvidia-smi may take; without an answer, the value is not known.
PATIENCE = 10.0
PASSWORD = re.compile(r"(?<=://)[^/@\s]*(?=@)")


@dataclass(frozen=True)
class Environment:
    """The environment of one session: a start or a resume."""

    began: float  # Unix time
    host: str
    platform: str
    python: str
    packages: dict[str, str]  # {distribution: version}
    revision: str | None  # of segtune's source, if it is a git checkout
    is_changed: bool | None  # whether the checkout has uncommitted changes
    gpus: list[str]  # of this host: model, memory, driver
    variables: dict[str, str]
    command: list[str] | None  # without passwords; None if segtune was called from Python
    seeds: dict[str, int]

    @classmethod
    def of_this_process(cls, seeds: dict[str, int]) -> Environment:
        """Return the environment of this process. Takes some tenths of a second on a GPU host."""
        revision, is_changed = _source()
        query = "--query-gpu=name,memory.total,driver_version"
        gpus = output_of("nvidia-smi", query, "--format=csv,noheader") or ""
        return cls(
            began=round(time.time(), 3),
            host=socket.gethostname(),
            platform=platform.platform(),
            python=platform.python_version(),
            packages=package_versions(),
            revision=revision,
            is_changed=is_changed,
            gpus=gpus.splitlines(),
            variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
            command=_command(sys.argv),
            seeds=seeds,
        )

    def differences(self, earlier: Environment) -> Iterator[str]:
        """Yield `NAME: VALUE now, VALUE before` for all that may change a result."""
        for name in COMPARED:
            now, before = getattr(self, name), getattr(earlier, name)
            if isinstance(now, dict):
                for key in sorted(now.keys() | before.keys()):
                    if now.get(key) != before.get(key):
                        yield f"{key}: {_shown(now.get(key))} now, {_shown(before.get(key))} before"
            elif now != before:
                yield f"{name}: {_shown(now)} now, {_shown(before)} before"


def record_environment(path: Path, seeds: dict[str, int]) -> list[str]:
    """Add the environment of this process to a file, a JSON list with one entry per session.

    Return what differs from the latest session and may change a result.
    """
    sessions = read_environments(path)
    current = Environment.of_this_process(seeds)
    entries = [asdict(environment) for environment in (*sessions, current)]
    write_atomic(path, json.dumps(entries, indent=2) + "\n")
    return list(current.differences(sessions[-1])) if sessions else []


def read_environments(path: Path) -> list[Environment]:
    """Return the environments in a file, oldest first; empty if there is no file.

    Entries of later versions may have more keys, which are left out.
    """
    if not path.exists():
        return []
    names = [field.name for field in fields(Environment)]
    return [
        Environment(**{name: entry.get(name) for name in names})
        for entry in json.loads(path.read_text())
    ]


def package_versions() -> dict[str, str]:
    """Return {distribution: version} of those PACKAGES that are installed. Imports none of them."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def source_digest() -> str:
    """Return a digest of segtune's own Python files, which differs between two revisions."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(f"{path.relative_to(SOURCE)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _source() -> tuple[str | None, bool | None]:
    """Return the revision of segtune's own checkout, and whether files of segtune have changes.

    An installed copy may lie in the checkout of another project: it has none.
    """
    if not (SOURCE.parent / ".git").exists():
        return None, None
    changes = output_of("git", "-C", str(SOURCE), "status", "--porcelain", "--", ".")
    return output_of("git", "-C", str(SOURCE), "rev-parse", "HEAD"), bool(changes)


def output_of(*command: str) -> str | None:
    """Return the output of a program; None if it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _command(argv: list[str]) -> list[str] | None:
    """Return the command line if it is one of segtune, without passwords."""
    program = Path(argv[0] or ".")
    if program.stem != "segtune" and program.resolve().parent != SOURCE:
        return None
    return [without_passwords(word) for word in argv]


def without_passwords(text: str) -> str:
    """Return a text with `***` for users and passwords of URLs."""
    return PASSWORD.sub("***", text)


def _shown(value: object) -> str:
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
