"""An exponential moving average of the weights, which is validated and saved in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The moving average of a network's parameters.

    Buffers are not averaged: the statistics of batch norms are moving averages already. A step that
    is not finite changes no weight, so it cannot ruin the average either.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin with the network's weights. `network` is without DDP, `decay` is in 0..1."""
        self.decay = decay
        self._parameters: list[Tensor] = list(network.parameters())
        self._averages: list[Tensor] = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimiser step number `step`, from 1.

        The average becomes d * average + (1 - d) * weights with d = min(decay, (1 + step) / (10 +
        step)), so that the random initial weights are soon forgotten. This is the rule of
        TensorFlow's ExponentialMovingAverage with num_updates.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._parameters, step)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the averages for the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # Only the storages change owner: the optimiser and DDP keep their parameters.
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            parameter.data, average.data = average.data, parameter.data
