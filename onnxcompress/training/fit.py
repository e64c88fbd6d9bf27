"""Training: mini-batches, steps against the gradient, a look at calls held back now and then, the best weights kept.

The optimizer moves shadows of the weights; the model sees their projections (`constraints`). All that decides the next
step is in a checkpoint, and orders are drawn from the seed and the epoch, so a run that was interrupted goes on as if
it had not been. Where time is limited, the schedule is drawn together to end by then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxcompress.progress import Progress, Silent
from onnxcompress.training.batches import Batches, shapes_of
from onnxcompress.training.checkpoints import Checkpoints
from onnxcompress.training.optimizers import clipped, optimizer
from onnxcompress.training.slopes import Slopes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.training.batches import Batch
    from onnxcompress.training.objective import Objective
    from onnxcompress.training.settings import Settings
    from onnxcompress.training.student import Student
    from onnxcompress.training.teacher import Teacher

Arrays = dict[str, np.ndarray]
_LOOKS = 50  # at calls held back, at most
_EARLY = (4, 12)  # steps after which it looks as well: a rate that is too high shows at once
_HELD, _MOST_HELD = 8, 64  # one call of so many is held back, at most so many
_RELATIVE = 0.005  # of a weight's root mean square, that a step of Adam goes (Shazeer & Stern 2018, arXiv 1804.04235)
_SLOWER, _SLOWEST = 0.4, 0.01  # the share that is left of the rate where the loss rises, and the least
_SMALLEST = 0.01  # root mean square that a weight of zeros is taken to have
_BEGAN, _PACED = 3, 50  # steps from which on their time is known, and over which it is averaged


@dataclass(frozen=True, eq=False)
class Fitted:
    """What came of training: shadows, and the loss on calls held back before and after; ``steps`` done of ``asked``."""

    shadows: Arrays
    before: float
    after: float
    steps: int
    asked: int
    hurried: bool

    @property
    def gained(self) -> bool:
        """Whether the loss became smaller."""
        return self.after < self.before


@dataclass
class _State:
    """Where training stands."""

    shadows: Arrays
    best: Arrays
    before: float = np.inf
    least: float = np.inf
    done: int = 0
    steps: int = 0
    stale: int = 0
    seconds: float = 0.0
    pace: float = 0.0
    hurried: bool = False
    scale: float = 1.0  # of the rates


class Training:
    """One training.

    Args:
        student: what learns.
        objective: the loss.
        teacher: what gives the targets; None for labels alone.
        data: all calls; some are held back unless patience is 0.
        stacked: whether calls may be stacked.
        settings: how.
        seed: of the order.
        threads: within an operator.
        progress: told of each step.
        checkpoints: where it is kept.
    """

    def __init__(
        self, student: Student, objective: Objective, teacher: Teacher | None, data: Dataset, settings: Settings, *,
        stacked: bool, seed: int = 0, threads: int | None = None, progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:  # fmt: skip
        self._student, self._objective, self._teacher = student, objective, teacher
        self._settings, self._stacked = settings, stacked
        self._progress, self._checkpoints = progress or Silent(), checkpoints or Checkpoints(None)
        held = min(_MOST_HELD, max(1, data.size // _HELD)) if settings.patience else 0
        learned, judged = data.parted(held) if held else (data, data)
        self._learned = Batches(learned, settings.batch_size, stacked=stacked, seed=seed)
        self._judged = Batches(judged, settings.batch_size, stacked=stacked, seed=seed)
        kinds = {shapes_of(f) for f in data}
        self._slopes = Slopes(objective.model, objective.losses, list(student.variables), len(kinds), threads)
        self._optimizer = optimizer(settings.optimizer, settings.weight_decay)
        self._rates = {n: self._rate(v.constraint.spread(v.start)) for n, v in student.variables.items()}

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self._learned.per_epoch

    def _rate(self, spread: float) -> float:
        given = self._settings.learning_rate
        return given if given is not None else _RELATIVE * max(spread, _SMALLEST)

    def run(self) -> Fitted:
        """Train.

        Raises:
            UsageError: onnx-ad is not installed.
            ModelError: an operator has no derivative.
            RuntimeFailure: the model does not run.
        """
        settings, state = self._settings, self._begun()
        per_epoch = self._learned.per_epoch
        asked = settings.steps(per_epoch)
        every = max(1, per_epoch, -(-asked // _LOOKS))
        self._progress.start("training", asked)
        if state.done:
            self._progress.advance("", state.done)
        else:
            began = time.perf_counter()
            state.steps, state.before = asked, self._loss(state.shadows)
            state.least = state.before
            state.seconds = time.perf_counter() - began
        epoch, order = -1, list[Any]()
        while state.done < state.steps:
            began = time.perf_counter()
            if epoch != state.done // per_epoch:
                epoch = state.done // per_epoch
                order = self._learned.epoch(epoch)
            loss = self._step(state, order[state.done % per_epoch])
            state.done += 1
            if state.done % every == 0 or state.done == state.steps or state.done in _EARLY:
                self._look(state)
            self._hurry(state, asked, time.perf_counter() - began)
            self._progress.advance(f"loss {loss:.4g}, {_left(state)} left")
            if settings.patience and state.stale >= settings.patience:
                break
            if self._checkpoints.due():
                self._checkpoints.store(*self._kept(state))
        self._progress.finish()
        self._checkpoints.clear()
        return Fitted(state.best, state.before, state.least, state.done, asked, state.hurried)

    def _step(self, state: _State, batch: Batch) -> float:
        seen = self._projected(state.shadows)
        loss, total = 0.0, dict[str, np.ndarray]()
        parts = list(self._learned.parts(batch))
        for part in parts:
            slope = self._slopes.run(seen, part.feeds, self._targets(part, self._learned))
            loss += slope.loss / len(parts)
            for name, gradient in slope.gradients.items():
                total[name] = total[name] + gradient if name in total else gradient
        mean = {name: g / np.float32(len(parts)) for name, g in total.items()} if len(parts) > 1 else total
        gradients, _ = clipped(mean, self._settings.clip)
        factor = self._settings.schedule_of().factor(state.done, state.steps)
        self._optimizer.step(state.shadows, gradients, {n: r * factor * state.scale for n, r in self._rates.items()})
        for name, variable in self._student.variables.items():
            state.shadows[name] = np.ascontiguousarray(variable.constraint.held(state.shadows[name]), np.float32)
        return loss

    def _look(self, state: _State) -> None:
        """Judge on calls held back, or take the last weights where none are.

        Where the loss has risen above that of the beginning, the rate is too high for this model: it goes on from the
        best weights at a lower one, unless the rate was given.
        """
        loss = self._loss(state.shadows)
        if loss < state.least or (not self._settings.patience and state.done >= state.steps):
            state.least, state.stale = loss, 0
            state.best = {name: value.copy() for name, value in state.shadows.items()}
        elif self._settings.learning_rate is None and not loss <= state.before and state.scale > _SLOWEST:
            state.scale *= _SLOWER
            state.shadows = {name: value.copy() for name, value in state.best.items()}
        else:
            state.stale += 1

    def _loss(self, shadows: Arrays) -> float:
        seen, total, rows = self._projected(shadows), 0.0, 0
        for batch in self._judged.whole():
            for part in self._judged.parts(batch):
                loss = self._slopes.run(seen, part.feeds, self._targets(part, self._judged)).loss
                total, rows = total + loss * len(part.calls), rows + len(part.calls)
        return total / rows if np.isfinite(total) else float("inf")

    def _targets(self, part: Any, batches: Batches) -> Arrays:
        given: Mapping[str, np.ndarray] = {}
        if self._teacher is not None and self._objective.watched:
            given = self._teacher.answers(part, int(batches is self._judged), stacked=self._stacked)
        return self._objective.targets(given, part.labels)

    def _projected(self, shadows: Arrays) -> Arrays:
        return {n: v.constraint.projected(shadows[n]) for n, v in self._student.variables.items()}

    def _hurry(self, state: _State, asked: int, seconds: float) -> None:
        """Count the time of a step, and draw the schedule together where time runs out."""
        state.seconds += seconds
        share = 1 / min(state.done, _PACED)
        state.pace += share * (seconds - state.pace)
        minutes = self._settings.minutes
        if minutes is not None and state.done >= _BEGAN:
            fit = state.done + int(max(60 * minutes - state.seconds, 0) / state.pace)
            state.steps = max(min(fit, asked), state.done)
            state.hurried = state.steps < asked

    def _begun(self) -> _State:
        start = {n: v.start.copy() for n, v in self._student.variables.items()}
        known = self._checkpoints.load()
        if known is None:
            return _State(start, {n: v.copy() for n, v in start.items()})
        arrays, said = known
        self._optimizer.restore(_within(arrays, "optimizer "))
        return _State(_within(arrays, "shadow "), _within(arrays, "best "), **said)

    def _kept(self, state: _State) -> tuple[Arrays, dict[str, Any]]:
        arrays = {f"shadow {n}": v for n, v in state.shadows.items()}
        arrays |= {f"best {n}": v for n, v in state.best.items()}
        arrays |= {f"optimizer {n}": v for n, v in self._optimizer.state().items()}
        plain = ("before", "least", "done", "steps", "stale", "seconds", "pace", "hurried", "scale")
        return arrays, {name: getattr(state, name) for name in plain}


def _within(arrays: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}


def _left(state: _State) -> str:
    seconds = state.pace * (state.steps - state.done)
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
