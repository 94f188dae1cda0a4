"""Every use of Ray's private interfaces."""

from __future__ import annotations

import logging

import ray

log = logging.getLogger(__name__)


def dashboard_url() -> str:
    """Return the URL of the Ray dashboard, or an empty string if it does not run."""
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    return f"http://{url}" if url else ""


def release_orphans() -> int:
    """Removes the placement groups of this job whose creator is dead; returns how many groups the job holds besides.

    A trial that is stopped or killed takes its Train controller with it, but Ray keeps the controller's placement group,
    workers and all, for as long as the driver lives: its own cleaner asks the State API, and was seen to wait for ever with
    the dashboard running. The table of the control store knows the creator in any case.
    """
    from ray._private.state import state
    from ray._raylet import ActorID, PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    held = 0
    for data in map(
        PlacementGroupTableData.FromString,
        state._connect_and_get_accessor().get_placement_group_table(),
    ):
        if (
            data.creator_job_id.hex() != job
            or data.is_detached
            or data.state == PlacementGroupTableData.REMOVED
        ):
            continue
        # What no actor has created belongs to this process: the groups of Tune's trials.
        if data.creator_actor_id != ActorID.nil().binary() and data.creator_actor_dead:
            log.debug("releasing a placement group of a trial that has ended")
            remove_placement_group(PlacementGroup(PlacementGroupID(data.placement_group_id)))
        else:
            held += 1
    return held
