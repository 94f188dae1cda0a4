"""The heap that steps live in: freed memory stays, and goes back when asked."""

import subprocess
import sys

import pytest

# In a thread, as Tune and Ray Train run trials, and 48 MiB at a time: more than what glibc would ever learn to keep by itself.
STEPS = """
import resource, sys, threading
import torch
from segtune.training.memory import return_free_memory, keep_freed_memory

def pages(kind):
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if kind == "fresh" else int(open("/proc/self/statm").read().split()[1])

def steps():
    if sys.argv[1] == "limited":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
    if sys.argv[1] != "as it is":
        keep_freed_memory()
    for step in range(20):
        torch.zeros(12 << 20).add_(1)
        if step == 14:  # by then the heap has found its place for them
            warm = pages("fresh")
    fresh, held = pages("fresh") - warm, pages("held")
    return_free_memory()
    print(fresh, held - pages("held"))

thread = threading.Thread(target=steps)
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def pages():
    """Pages that five steps got anew from the kernel, and that went back in the end, in processes with and without."""
    out = {}
    for how in ("kept", "limited", "as it is"):
        done = subprocess.run(
            [sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True
        )
        fresh, back = done.stdout.split()
        out[how] = int(fresh), int(back)
    return out


def test_freed_memory_is_used_again(pages):
    """Five steps of 12,288 pages each."""
    assert pages["as it is"][0] > 40_000  # else there is nothing to be gained here
    assert pages["kept"][0] < 1_000


def test_nothing_is_kept_under_a_limit_on_address_space(pages):
    assert pages["limited"][0] > 40_000


def test_it_goes_back_when_asked(pages):
    assert pages["kept"][1] > 10_000
