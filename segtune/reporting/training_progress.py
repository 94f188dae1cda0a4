"""The progress of a training run while it trains: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segtune.reporting.format import format_duration
from segtune.reporting.training_pace import TrainingPace
from segtune.training.listener import TrainingListener

if TYPE_CHECKING:
    from segtune.data.loader import ValBatch
    from segtune.runs.records import EpochRecord
    from segtune.runs.verdict import Verdict
    from segtune.training.listener import TrainingRun
    from segtune.training.train_step import StepResult

log = logging.getLogger(__name__)

# Drawing the bar takes about 1 ms of the thread that trains.
REFRESH_S = 0.5


def training_progress() -> TrainingListener:
    """Return what shows the progress on stderr: a bar if that is a terminal, otherwise lines."""
    console = Console(stderr=True)
    # `is_interactive` is false with TERM=dumb. It is true for a file if FORCE_COLOR is set.
    has_bar = sys.stderr.isatty() and console.is_interactive
    return ProgressBarOfTraining(console) if has_bar else ProgressLines()


class _Progress(TrainingListener, ABC):
    """Keeps the pace of a training run, and shows it when it is due."""

    interval_s = 0.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown = clock()
        self.pace: TrainingPace | None = None

    def on_start(self, run: TrainingRun) -> None:
        """Begin to count."""
        schedule, num_images = run.config.schedule, len(run.val_names)
        self.pace = TrainingPace(schedule, run.steps_per_epoch, num_images, self._clock)
        self._shown = self._clock()

    def on_epoch_start(self, epoch: int, step: int) -> None:
        """Begin an epoch."""
        assert self.pace
        self.pace.begin_epoch(epoch, step)
        self._show_if_due()

    def on_step(self, epoch: int, result: StepResult) -> None:
        """Count a step."""
        assert self.pace
        self.pace.count_step(result.step, result.losses["loss"], result.lr)
        self._show_if_due()

    def on_validation_batch(self, batch: ValBatch, labels: object) -> None:
        """Count validated images."""
        assert self.pace
        self.pace.count_validated(len(batch.names))
        self._show_if_due()

    def on_epoch(self, record: EpochRecord) -> None:
        """End an epoch. The caller prints a line for it, so the next one is not due yet."""
        assert self.pace
        self.pace.end_epoch()
        self._shown = self._clock()

    def _show_if_due(self) -> None:
        now = self._clock()
        if now - self._shown >= self.interval_s:
            self._shown = now
            self._show()

    @abstractmethod
    def _show(self) -> None: ...


class ProgressLines(_Progress):
    """Logs a line each `log.every_s` seconds within an epoch."""

    def on_start(self, run: TrainingRun) -> None:
        """Begin to count."""
        self.interval_s = run.config.log.every_s
        super().on_start(run)

    def _show(self) -> None:
        assert self.pace
        log.info("%s", "  ".join(filter(None, [title(self.pace), *details(self.pace)])))


class ProgressBarOfTraining(_Progress):
    """Shows a bar at the bottom of the terminal; messages of the log appear above it."""

    interval_s = REFRESH_S

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._open = ExitStack()
        self._live: Live | None = None

    def on_start(self, run: TrainingRun) -> None:
        """Show the bar."""
        super().on_start(run)
        self._live = self._open.enter_context(
            Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
        )
        self._open.enter_context(_log_above(self._console))

    def on_end(self, verdict: Verdict | None) -> None:
        """Remove the bar."""
        self._open.close()

    def _show(self) -> None:
        assert self.pace
        if self._live:
            self._live.update(bar(self.pace), refresh=True)


def title(pace: TrainingPace) -> str:
    """Return which part of the training run this is, and how much of it is done."""
    epoch = f"epoch {pace.epoch}/{pace.num_epochs}" if pace.epoch else "before training"
    what = "validation" if pace.is_validating else "step"
    return f"{epoch}  {what} {pace.num_done}/{pace.num_in_all}"


def details(pace: TrainingPace) -> list[str]:
    """Return the numbers of the last step and the time left, as far as they are known."""
    parts: list[str] = []
    if pace.loss is not None:
        parts.append(f"loss {pace.loss:.4f}  lr {pace.lr:.2e}")
    if rate := pace.images_per_s:
        parts.append(f"{rate:.1f} images/s")
    if pace.epoch_left_s is not None and pace.left_s is not None:
        epoch, whole = format_duration(pace.epoch_left_s), format_duration(pace.left_s)
        parts.append(f"left: epoch {epoch}, training {whole}")
    return parts


def bar(pace: TrainingPace) -> Group:
    """Return the bar of an epoch or a validation, with the numbers below it."""
    words = Text(title(pace), no_wrap=True)
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_row(words, ProgressBar(total=pace.num_in_all, completed=pace.num_done))
    numbers = Text("  ".join(details(pace)), no_wrap=True, overflow="ellipsis")
    return Group(table, numbers)


@contextmanager
def _log_above(console: Console) -> Iterator[None]:
    """Let the messages of the log that go to stderr appear above what is live on the console."""

    class Above:
        """A stream that prints on the console. Long commands stay in one line, to be copied."""

        def write(self, text: str) -> None:
            console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)

        def flush(self) -> None:
            pass

    with ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                earlier = handler.setStream(Above())
                if earlier is not None:
                    stack.callback(handler.setStream, earlier)
        yield
