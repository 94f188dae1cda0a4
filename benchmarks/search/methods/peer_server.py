"""Runs a search method of another library, in an interpreter that has the library.

    PYTHON -m benchmarks.search.methods.peer_server LIBRARY

A line of JSON on standard input is a call of a method of `SearchMethod`, a line on standard output
is its result. The first line is the task. Whatever a library prints goes to standard error. This
module and the modules that it imports need the standard library and that library only.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from benchmarks.search.methods.method import SearchMethod
from benchmarks.search.methods.peer_task import PeerTask

# Each module has a function `make(task: PeerTask) -> SearchMethod`.
MODULES = {
    "syne_tune": "benchmarks.search.methods.syne_tune_peer",
    "smac": "benchmarks.search.methods.smac_peer",
    "dehb": "benchmarks.search.methods.dehb_peer",
    "neps": "benchmarks.search.methods.neps_peer",
}


def _call(method: SearchMethod, name: str, arguments: list[Any]) -> Any:
    match name:
        case "next_job":
            job = method.next_job()
            return None if job is None else [job.number, job.params]
        case "report":
            number, epoch, score = arguments
            return method.report(number, epoch, score).value
        case "began":
            return method.began(*arguments)
        case "end":
            return method.end(*arguments)
    raise ValueError(f"no such call: {name}")


def serve(make: Callable[[PeerTask], SearchMethod], calls: TextIO, results: TextIO) -> None:
    """Answer every call with its result and the seconds that the method has needed so far."""
    method = make(PeerTask.from_row(json.loads(calls.readline())))
    start = time.process_time()
    try:
        for line in calls:
            name, *arguments = json.loads(line)
            result = _call(method, name, arguments)
            results.write(json.dumps([result, time.process_time() - start]) + "\n")
            results.flush()
    finally:
        method.close()


def main() -> None:
    # Libraries print to standard output, some from C.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as results:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(importlib.import_module(MODULES[sys.argv[1]]).make, sys.stdin, results)


if __name__ == "__main__":
    main()
