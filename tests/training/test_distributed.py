"""Laws of process groups: `Ranks` closes the group that it has opened, and no other."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from segtune.training.distributed import Ranks

RunOnTwoRanks = Callable[..., list[str]]


@pytest.fixture
def group_of_the_caller(tmp_path: Path) -> Iterator[None]:
    """A process group with one rank, opened before the code under test runs."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_the_caller")
def test_group_of_the_caller_is_joined_and_stays_open() -> None:
    ranks = Ranks.join("cpu")
    assert (ranks.rank, ranks.world_size) == (0, 1)
    ranks.close()
    assert dist.is_initialized()


def test_single_process_under_torchrun_opens_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    ranks = Ranks.join("cpu")
    assert not dist.is_initialized()
    assert (ranks.rank, ranks.world_size) == (0, 1)
    ranks.close()


# Importing torch._dynamo after the group has been opened must not keep the group's threads alive.
JOIN_AND_CLOSE = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from segtune.training.distributed import Ranks

ranks = Ranks.join("cpu")
import torch._dynamo
total = int(ranks.sum(torch.tensor(ranks.rank + 1)))
was_open = dist.is_initialized()
ranks.close()
names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
threads = sum("gloo" in name for name in names)
group = f"{was_open} {dist.is_initialized()}, {threads} threads of gloo"
sys.stdout.write(f"rank {ranks.rank} of {ranks.world_size}: sum {total}, {group}\\n")
"""


@pytest.mark.slow
def test_group_of_torchrun_is_opened_and_closed(run_on_two_ranks: RunOnTwoRanks) -> None:
    lines = run_on_two_ranks(JOIN_AND_CLOSE)
    results = "sum 3, True False, 0 threads of gloo"
    assert lines == [f"rank 0 of 2: {results}", f"rank 1 of 2: {results}"]
