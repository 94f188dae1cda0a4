"""Laws of the heap: a process keeps the memory that it frees only if it asks for that."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml

# Steps run in a thread, as in Tune and Ray Train. A step takes 48 MiB: glibc's own threshold grows
# with what is freed, but to 32 MiB at most.
STEPS = """
import resource
import sys
import threading
from pathlib import Path

import torch

from segtune.training.memory import keep_freed_memory, release_memory

def num_new_pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def num_resident_pages():
    return int(open("/proc/self/statm").read().split()[1])

def train(config, out):
    from segtune.config.schema import load_config
    from segtune.runs.rundir import TrialDir
    from segtune.training.distributed import Ranks
    from segtune.training.trainer import Trainer
    list(Trainer.start(load_config(config), TrialDir(Path(out)), Ranks()).epochs())

def steps():
    match sys.argv[1:]:
        case ["kept"]:
            keep_freed_memory()
        case ["limited"]:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
            keep_freed_memory()
        case ["trained", config, out]:
            train(config, out)
    for step in range(20):
        torch.zeros(12 << 20).add_(1)
        if step == 14:  # the heap has reached its size
            num_before = num_new_pages()
    num_new = num_new_pages() - num_before
    num_before = num_resident_pages()
    release_memory()
    print(num_new, num_before - num_resident_pages())

thread = threading.Thread(target=steps)
thread.start()
thread.join()
"""


@dataclass(frozen=True)
class Pages:
    """Pages of 4 KiB. Each of the steps needs 12,288."""

    num_new: int  # that five steps got from the kernel
    num_released: int  # that `release_memory` returned afterwards


def measure(*arguments: object) -> Pages:
    command = [sys.executable, "-c", STEPS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Pages(*map(int, done.stdout.split()))


@pytest.fixture(scope="module")
def kept() -> Pages:
    return measure("kept")


def test_without_keeping_every_step_gets_its_memory_anew() -> None:
    assert measure("untouched").num_new > 40_000


def test_kept_memory_is_used_again(kept: Pages) -> None:
    assert kept.num_new < 1_000


def test_kept_memory_is_returned_by_release_memory(kept: Pages) -> None:
    assert kept.num_released > 10_000


def test_nothing_is_kept_under_a_limit_on_address_space() -> None:
    assert measure("limited").num_new > 40_000


def test_trainer_leaves_the_heap_of_its_caller_as_it_is(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(write_yaml(tiny_config.override({"schedule.epochs": 1}).dump()))
    assert measure("trained", config, tmp_path / "run").num_new > 40_000
    assert (tmp_path / "run" / "verdict.json").exists()
