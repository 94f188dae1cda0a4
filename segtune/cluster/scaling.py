"""Room for trials on a cluster that starts and ends nodes by itself: requests it, and waits for it.

Ray's autoscaler starts nodes for what is requested, and ends nodes that idle. A search asks only
for as many trials as there is room for, so without a request the cluster would never grow.
"""

from __future__ import annotations

import logging
import time

from ray.autoscaler.sdk import request_resources

from segtune.cluster.placement import Placement, live_nodes, max_concurrent, place_trials
from segtune.errors import ClusterError
from segtune.tuning.search_config import SearchConfig

log = logging.getLogger(__name__)

POLL_S = 2.0


class NodeRequest:
    """A request for room for a number of trials, which stands until it is withdrawn."""

    def __init__(self, search: SearchConfig) -> None:
        self._search = search
        gpus = search.gpus_per_worker or 0.0
        # Only a node shows how many CPUs come with a GPU. Until one is there, any will do.
        self._worker = {"CPU": search.cpus_per_worker or 1.0} | ({"GPU": gpus} if gpus else {})
        self._num_trials = 0

    def wait(self) -> Placement:
        """Request room for all trials that may run at the same time; wait until one of them fits.

        Raise ClusterError after `search.wait_for_nodes_s` seconds.
        """
        self.ask_for(max_concurrent(self._search))
        deadline = time.monotonic() + self._search.wait_for_nodes_s
        is_first = True
        while True:
            try:
                placement = place_trials(self._search, live_nodes())
            except ClusterError as error:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{error}; no node has joined within {self._search.wait_for_nodes_s:g} s "
                        "(--wait-for-nodes): `ray status` on the head node says why"
                    ) from None
            else:
                self._worker = placement.resources
                return placement
            if is_first:
                log.info("waiting for nodes, at most %g s", self._search.wait_for_nodes_s)
            is_first = False
            time.sleep(POLL_S)

    def ask_for(self, num_trials: int) -> None:
        """Ask for room for a number of trials; nodes beyond it may end once they idle."""
        num_trials = min(num_trials, max_concurrent(self._search))
        if num_trials != self._num_trials:
            num_workers = num_trials * self._search.workers_per_trial
            request_resources(bundles=[self._worker] * num_workers)
            self._num_trials = num_trials

    def withdraw(self) -> None:
        """Let the cluster shrink."""
        self.ask_for(0)
