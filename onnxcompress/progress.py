"""How work in progress is told to whoever watches: a callback that library code may always call."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of tasks as they go on; a task may have an unknown total."""

    def start(self, task: str, total: int | None = None) -> None:
        """A new task begins; one that is still open is finished."""

    def advance(self, item: str, amount: int = 1) -> None:
        """``amount`` more of the task is done; ``item`` names what is worked on next."""

    def finish(self) -> None:
        """The task is over."""


class Silent:
    """Tells nobody."""

    def start(self, task: str, total: int | None = None) -> None:
        """Ignore the start of a task."""

    def advance(self, item: str, amount: int = 1) -> None:
        """Ignore an advance."""

    def finish(self) -> None:
        """Ignore the end."""
