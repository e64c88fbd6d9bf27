"""Progress on a terminal: layer names and time left, but only for work that takes more than a second."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from onnxcompress.render import words

_PATIENCE_SECONDS = 1.0


class LateProgress:
    """One bar on standard error for whatever task is open.

    A timer shows it, a second after the first task began, so that a single long layer is seen as well.
    """

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[item]}", markup=False),
            console=console or Console(stderr=True, markup=False, highlight=False, emoji=False),
            transient=True,
        )
        self._task: TaskID | None = None
        self._timer = threading.Timer(patience_seconds, self._bar.start)
        self._timer.daemon = True
        self._begun = False

    def start(self, task: str, total: int | None = None) -> None:
        """Open a task."""
        self.finish()
        if not self._begun:
            self._begun = True
            self._timer.start()
        self._task = self._bar.add_task(words.safe(task, 40), total=total, item="")

    def advance(self, item: str, amount: int = 1) -> None:
        """Move the bar and name what is worked on next."""
        if self._task is not None:
            self._bar.update(self._task, advance=amount, item=words.safe(item, 40))

    def finish(self) -> None:
        """Take the open task away."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def close(self) -> None:
        """Take everything away. The timer is waited for, as it must not show a bar that is gone."""
        self.finish()
        if self._begun:
            self._timer.cancel()
            self._timer.join()
        self._bar.stop()
