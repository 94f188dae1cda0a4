"""The network of a training run on its device, and the random state that it is built under."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from segtune.config.schema import ExperimentConfig
from segtune.models.build import build_model, check_batch, compile_model, sync_norms
from segtune.models.segmentation_model import SegmentationModel
from segtune.training.distributed import Ranks

log = logging.getLogger(__name__)


def build_network(config: ExperimentConfig, num_classes: int, ranks: Ranks) -> SegmentationModel:
    """Return the network of a config on the device of this rank, not yet wrapped by DDP.

    Raises SegtuneError for an unknown encoder, for weights that do not fit, and for a batch that
    the network cannot train on.
    """
    num_parts = ranks.world_size * config.schedule.accumulate
    check_batch(config.model, config.schedule.batch_size // num_parts, num_parts)
    network = build_model(config.model, num_classes)
    if config.model.sync_norms and ranks.world_size > 1:
        if ranks.device.type == "cuda":
            network = sync_norms(network)
        else:
            log.warning(
                "model.sync_norms: torch synchronises batch norms on GPUs only; on %s each "
                "worker's batch norms see only its own images",
                ranks.device,
            )
    if config.optim.compile:
        compile_model(network)
    return network.to(ranks.device)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for the block, and restore the caller's random state after it."""
    if device.type != "cuda":
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
