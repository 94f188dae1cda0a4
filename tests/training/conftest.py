"""What the tests of training share: a script that two ranks run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RunOnTwoRanks = Callable[..., list[str]]


@pytest.fixture
def run_on_two_ranks(tmp_path: Path) -> RunOnTwoRanks:
    """Run a script in two processes under torchrun; return the lines of both, sorted."""

    def run(script: str, *arguments: object) -> list[str]:
        file = tmp_path / "script.py"
        file.write_text(script)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*launcher, "--nproc-per-node=2", str(file), *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    return run
