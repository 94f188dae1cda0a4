"""What the tests of training share: a script that two ranks run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Two ranks that wait for each other in vain are killed before pytest gives up on the test.
TIMEOUT_S = 200

RunOnTwoRanks = Callable[..., list[str]]


@pytest.fixture
def run_on_two_ranks(tmp_path: Path) -> RunOnTwoRanks:
    """Run a script in two processes under torchrun; return the lines of both, sorted.

    The script writes a line in one call, with its newline. `print` makes two calls under torchrun,
    and the lines of both ranks can mix.
    """

    def run(script: str, *arguments: object) -> list[str]:
        file = tmp_path / "script.py"
        file.write_text(script)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        process = subprocess.Popen(
            [*launcher, "--nproc-per-node=2", str(file), *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.terminate()  # torchrun ends the ranks, each of which has its own session
            process.wait(30)
        assert process.returncode == 0, stderr
        return sorted(stdout.splitlines())

    return run
