"""How a trial ended, in a form that is written to disk and told to the sampler. Decides nothing; `health.py` does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segtune.config.settings import Settings

# What is no fault of the config: such a trial is started again from its last checkpoint.
MACHINE_FAULTS = ("lost", "hung")

State = Literal["completed", "pruned", "unhealthy", "failed", "interrupted"]


class Verdict(Settings):
    """The one end of a trial."""

    state: State = Field(
        description="completed: full length; pruned: by the scheduler; unhealthy: would repeat; failed: fault of machine or code"
    )
    kind: str = Field(
        default="",
        description="what went wrong, one word: non-finite, exception, lost, …; empty where nothing did",
    )
    epoch: int = Field(default=0, ge=0, description="last epoch that was finished")
    step: int = Field(default=0, ge=0, description="last optimiser step")
    evidence: str = Field(default="", description="the numbers that show it")
    advice: str = Field(default="", description="the setting to change, and to what")

    @property
    def reason(self) -> str:
        """One line in plain words, empty for a healthy end."""
        words = f"{self.kind}: {self.evidence}" if self.kind else ""
        return f"{words}; {self.advice}" if words and self.advice else words

    @property
    def is_machine_fault(self) -> bool:
        """Whether the trial would have gone on elsewhere: its process or node died, or stood still."""
        return self.kind in MACHINE_FAULTS

    @property
    def is_final(self) -> bool:
        """Whether a resumed search leaves the trial as it is."""
        return self.state != "interrupted" and not self.is_machine_fault
