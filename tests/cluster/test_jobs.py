"""Searches that are submitted to a real cluster: as a Ray job, and as a job of Slurm."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_nodes import ROOT, real_nodes, wait_for_text

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    tree = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "search": {
            "trials": 2,
            "scheduler": "none",
            "sampler": "random",
            "corner_steps": 0,
            "cpus_per_worker": 1.0,
        },
    }
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "s.yaml").write_text(write_yaml(tree))
    return folder / "s.yaml"


def test_submitted_search_ends_with_a_readable_log(study_file: Path, tmp_path: Path) -> None:
    with real_nodes("--dashboard-host=127.0.0.1") as nodes:
        done = subprocess.run(
            [
                ROOT / "scripts" / "submit.sh",
                *("--dashboard", f"http://127.0.0.1:{nodes.dashboard_port}"),
                *("--working-dir", study_file.parent, "--python", sys.executable),
                *("--space", "s.yaml", "--out", tmp_path / "runs", "--name", "job", "--no-check"),
            ],
            env=nodes.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    log = done.stdout[done.stdout.index("search run:") :]
    lines = log.splitlines()
    ends = [line for line in lines if line.startswith("trial 0")]
    assert [line.split(":")[0] for line in ends] == [
        "trial 0000 completed at epoch 2",
        "trial 0001 completed at epoch 2",
    ]
    # The table stands there once: nothing is redrawn, and nothing of Ray is between the lines.
    assert log.count("mIoU ┃ epoch") == 1
    assert "\x1b[2K" not in log
    assert "Traceback" not in log
    assert len(read_trials(SearchDir(tmp_path / "runs" / "job"))) == 2


# Programs with which the batch script talks to Slurm, on one machine. They do what Slurm does.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [[ "$1" == show ]]; then echo localhost; else echo "$@" >> "$REQUEUED"; fi
"""


def test_batch_job_stops_when_slurm_says_so_and_its_second_start_continues(
    study_file: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    log, requeued = tmp_path / "job.log", tmp_path / "requeued"
    number = str(os.getpid() % 4000 + 4000)

    def start(*options: str) -> subprocess.Popen:
        with log.open("w") as output:
            return subprocess.Popen(
                [
                    *(ROOT / "deploy" / "slurm" / "segtune.sbatch", "--space", study_file),
                    *("--out", tmp_path / "runs", "--name", "batch", "--no-check", *options),
                ],
                env=os.environ
                | {
                    "PATH": f"{programs}:{os.environ['PATH']}",
                    "PYTHONPATH": str(ROOT),
                    "SEGTUNE_ENV": str(Path(sys.executable).parents[1]),
                    "SEGTUNE_TOKEN_DIR": str(tmp_path),
                    "REQUEUED": str(requeued),
                    "SLURM_JOB_ID": number,
                    "SLURM_JOB_NODELIST": "localhost",
                    "SLURM_JOB_NUM_NODES": "1",
                    "SLURM_CPUS_PER_TASK": "1",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    run = SearchDir(tmp_path / "runs" / "batch")
    try:
        job = start("--set", "schedule.epochs=300", "--set", "schedule.val_every=300")
        deadline = time.monotonic() + 200
        while not (run.trial(0).path.exists() and run.trial(0).read_epochs()):
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        os.kill(job.pid, signal.SIGUSR1)  # what --signal=B:USR1@300 does
        assert job.wait(timeout=100) == 130, log.read_text()
        assert requeued.read_text() == f"requeue {number}\n"
        assert run.trial(0).read_verdict() is not None
        assert list(tmp_path.glob(".segtune-token-*")) == []
        job = start("--set", "schedule.epochs=300", "--set", "schedule.val_every=300")
        wait_for_text(log, "search run:", job)
        time.sleep(1)
        os.kill(job.pid, signal.SIGUSR1)
        job.wait(timeout=200)
        assert "holds a search run already" not in log.read_text()
    finally:
        shutil.rmtree(f"/tmp/ray-{number}", ignore_errors=True)
