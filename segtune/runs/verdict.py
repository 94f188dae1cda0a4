"""How a trial ended, as it is written to disk. Decides nothing: `training/health.py` does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segtune.config.settings import Settings

# The config is not at fault: a search starts such a trial again from its last checkpoint.
UNFIT_NODE = "unfit-node"  # the trial was placed on a node that lacks what trials need
MACHINE_FAULTS = ("lost", "hung", UNFIT_NODE)
# Kind of an interrupted trial: the disk of the run folder is full or read-only. Every other trial
# would end the same way, so the search stops and can be resumed.
DISK = "disk"

State = Literal["completed", "pruned", "paused", "unhealthy", "failed", "interrupted"]
# Ends of a trial by its scores: better trials took its place. Epochs that its workers trained
# afterwards, until they noticed, do not count.
OUTRANKED = ("pruned", "paused")


class Verdict(Settings):
    """The one end of a trial."""

    state: State = Field(
        description="completed: full length; pruned: stopped by the stopping rule; paused: "
        "waits at a rung and may go on from its checkpoint; unhealthy: would end the same way if "
        "repeated; failed: a fault of the machine or of the code; interrupted: stopped with its "
        "search, can be resumed"
    )
    kind: str = Field(
        default="", description="what went wrong, for example non-finite or lost; empty: nothing"
    )
    epoch: int = Field(default=0, ge=0, description="the last finished epoch")
    step: int = Field(default=0, ge=0, description="the last optimiser step")
    evidence: str = Field(default="", description="the numbers that show what went wrong")
    advice: str = Field(default="", description="the setting to change, and its new value")
    note: str = Field(
        default="", description="additional information, such as a change of precision"
    )
    ended: float | None = Field(
        default=None, description="Unix time at which the verdict was written"
    )

    @property
    def reason(self) -> str:
        """Kind, evidence, advice and note in one line; empty if nothing has to be said."""
        words = [f"{self.kind}: {self.evidence}", self.advice] if self.kind else []
        return "; ".join(filter(None, [*words, self.note]))

    @property
    def is_machine_fault(self) -> bool:
        """Whether the trial's process or node died or hung: on another machine it would go on."""
        return self.kind in MACHINE_FAULTS

    @property
    def is_final(self) -> bool:
        """Whether a resume leaves the trial as it is; a paused one may go on later."""
        return self.state != "interrupted" and not self.is_machine_fault
