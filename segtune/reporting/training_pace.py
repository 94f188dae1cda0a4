"""How far a training run is, how fast it goes, and how long it will take. Shows nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from segtune.config.schedule_config import ScheduleConfig
from segtune.tracking.rate import StepRate


class TrainingPace:
    """The steps and validations of a training run so far, and the time left.

    Before the first validation has ended, its time is not known and counts as 0.
    """

    def __init__(
        self,
        schedule: ScheduleConfig,
        steps_per_epoch: int,
        num_val_images: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_val_images` are those that this rank validates."""
        self._schedule = schedule
        self._steps_per_epoch = steps_per_epoch
        self._num_val_images = num_val_images
        self._clock = clock
        self._rate = StepRate(clock)
        self._validation_s = 0.0  # of the last one that has ended
        self._validation_start: float | None = None
        self._num_validated = 0
        self._first_step = 0  # optimiser steps before this epoch
        self._step = 0
        self.epoch = 0  # 0: a validation of the initial weights
        self.num_epochs = schedule.epochs
        self.loss: float | None = None
        self.lr = 0.0

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Begin an epoch after `step` optimiser steps."""
        self._end_validation()
        self.epoch = epoch
        self._first_step = self._step = step
        self._rate.pause()

    def count_step(self, step: int, loss: float, lr: float) -> None:
        """Count an optimiser step that has ended."""
        self._step = step
        self.loss = loss
        self.lr = lr
        self._rate.step()

    def count_validated(self, num_images: int) -> None:
        """Count images of a validation."""
        if self._validation_start is None:
            self._validation_start = self._clock()
            self._num_validated = 0
        self._num_validated += num_images

    def end_epoch(self) -> None:
        """End an epoch, and its validation if there was one."""
        self._end_validation()

    def _end_validation(self) -> None:
        if self._validation_start is not None:
            self._validation_s = self._clock() - self._validation_start
            self._validation_start = None

    @property
    def is_validating(self) -> bool:
        """Whether a validation has begun and its epoch has not ended."""
        return self._validation_start is not None

    @property
    def num_done(self) -> int:
        """Steps of this epoch, or images of this validation."""
        return self._num_validated if self.is_validating else self._step - self._first_step

    @property
    def num_in_all(self) -> int:
        """Steps of the whole epoch, or images of the whole validation."""
        if self.is_validating:
            return self._num_val_images
        return self._steps_of_this_epoch

    @property
    def images_per_s(self) -> float | None:
        """Images per second in training, over all ranks; None if not known."""
        return self._rate.images_per_s(self._schedule.batch_size)

    @property
    def epoch_left_s(self) -> float | None:
        """Seconds until the end of this epoch, with its validation; None if not known."""
        if self._validation_start is not None:
            if self._num_validated == 0:
                return None
            elapsed = self._clock() - self._validation_start
            return elapsed * (self._num_val_images / self._num_validated - 1)
        if self._rate.step_s is None:
            return None
        ends_with_validation = self._schedule.validates(self.epoch)
        steps_s = (self.num_in_all - self.num_done) * self._rate.step_s
        return steps_s + ends_with_validation * self._validation_s

    @property
    def left_s(self) -> float | None:
        """Seconds until the end of the training run; None if not known."""
        now_s, step_s = self.epoch_left_s, self._rate.step_s
        if now_s is None or step_s is None:
            return None
        total = self._schedule.total_steps(self._steps_per_epoch)
        later = range(self.epoch + 1, self.num_epochs + 1)
        num_validations = sum(map(self._schedule.validates, later))
        later_steps = total - self._first_step - self._steps_of_this_epoch
        return now_s + max(0, later_steps) * step_s + num_validations * self._validation_s

    @property
    def _steps_of_this_epoch(self) -> int:
        return self._schedule.steps_of_epoch(max(1, self.epoch), self._steps_per_epoch)
