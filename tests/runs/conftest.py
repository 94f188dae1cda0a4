"""Search runs that the tests of the run folder share."""

import shutil
from pathlib import Path

import pytest

from segtune.runs.rundir import SearchDir

EARLY_RUN = Path(__file__).parent.parent / "data" / "search_run_0_1_0"


@pytest.fixture
def search_run(tmp_path: Path) -> SearchDir:
    """A search run without a trial."""
    return SearchDir(tmp_path / "run")


@pytest.fixture
def early_run(tmp_path: Path) -> SearchDir:
    """A copy of a search run that version 0.1.0 wrote: attempts and verdicts without a time."""
    return SearchDir(shutil.copytree(EARLY_RUN, tmp_path / "early"))
