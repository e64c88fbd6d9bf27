"""Models between the steps of a recipe, kept on disk, and taken up again by a later run that would make them anew.

A kept model carries the record of its step, and a key of all that it depends on:

    key = SHA-256(model, every array of the calibration data, seed, versions, the steps up to this one)

A run begins behind the last step whose file has the key that it would have itself.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxcompress.errors import OnnxCompressError, UsageError
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.pipeline import Ran
from onnxcompress.report import Step, step_from_json, step_to_json
from onnxcompress.stats import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from onnxcompress.passes.base import Pass
    from onnxcompress.verify.verify import Verification

_KEY, _RECORDS = "onnxcompress.kept.key", "onnxcompress.kept.steps"
_NOTE = "this step was not repeated: its model was kept by an earlier run"


@dataclass
class KeptSteps:
    """The kept models of one run, beside its ``target``.

    ``model_hash``, ``calls`` and ``seed`` say what they depend on besides the steps.
    """

    target: Path
    model_hash: str
    calls: Iterable[Mapping[str, np.ndarray]]
    seed: int
    _records: list[tuple[Step, int]] = field(default_factory=list)
    _base: str | None = None

    def path(self, number: int, step: Pass) -> Path:
        """Where the model behind the step of that number, from 0, is kept."""
        return self.target.with_name(f"{self.target.stem}.{number + 1}-{step.name}.onnx")

    def refuse_others(self, parts: Sequence[Pass], *, force: bool) -> None:
        """Refuse to overwrite what no run of this tool kept.

        Raises:
            UsageError: there is such a file.
        """
        for number, step in enumerate(parts[:-1]):
            path = self.path(number, step)
            if path.exists() and not force and self._opened(path) is None:
                raise UsageError(f"{path} exists", "Move it away, choose another -o, or overwrite it with --force.")

    def keep(self, number: int, parts: Sequence[Pass], model: Model, ran: Ran) -> None:
        """Keep the model behind a step; that behind the last one is the result."""
        self._records.append((ran.record(), ran.removed))
        if number + 1 >= len(parts):
            return
        twin = model.copy()
        records = [[step_to_json(step), removed] for step, removed in self._records]
        for key, value in ((_KEY, self._key(parts[: number + 1])), (_RECORDS, json.dumps(records))):
            twin.proto.metadata_props.add(key=key, value=value)
        writer.save(twin, self.path(number, parts[number]))

    def taken_up(self, parts: Sequence[Pass], asked: Sequence[Pass]) -> tuple[Model | None, list[Ran]]:
        """The model behind the last step that need not run again, and what the steps up to it did."""
        for number in range(len(parts) - 2, -1, -1):
            if getattr(parts[number + 1], "looks_back", False):  # at a model from before this step
                continue
            path = self.path(number, parts[number])
            found = self._opened(path) if path.exists() else None
            if found is None or found[1] != self._key(parts[: number + 1]):
                continue
            model, _, records = found
            self._records = [(step_from_json(step), int(removed)) for step, removed in records]
            ran = [
                Ran(part, 0.0, (), step.layers, (*step.notes, _NOTE), asked=own, removed=removed)
                for part, own, (step, removed) in zip(parts, asked, self._records, strict=False)
            ]
            return model, ran
        return None, []

    def _key(self, steps: Sequence[Pass]) -> str:
        if self._base is None:
            self._base = cache.key_of(self.model_hash, self.calls, seed=self.seed)
        said = [[s.name, dataclasses.asdict(s)] for s in steps]  # type: ignore[call-overload]
        return cache.key_of(self._base, (), steps=json.dumps(said, sort_keys=True))

    @staticmethod
    def _opened(path: Path) -> tuple[Model, str, list[Any]] | None:
        """A kept model without its key and records, and these; None for any other file."""
        try:
            model = Model.open(path)
        except OnnxCompressError:
            return None
        known = {p.key: p.value for p in model.proto.metadata_props}
        if _KEY not in known or _RECORDS not in known:
            return None
        left = [(p.key, p.value) for p in model.proto.metadata_props if p.key not in (_KEY, _RECORDS)]
        del model.proto.metadata_props[:]
        for key, value in left:
            model.proto.metadata_props.add(key=key, value=value)
        try:
            return model, known[_KEY], json.loads(known[_RECORDS])
        except json.JSONDecodeError:
            return None


class StepBroke(Exception):
    """A budget does not hold after a step; the steps behind it did not run."""

    def __init__(self, label: str, model: Model, ran: Sequence[Ran], verification: Verification) -> None:
        super().__init__(label)
        self.label, self.model, self.ran, self.verification = label, model, list(ran), verification


@dataclass
class Watching:
    """Keeps models between steps, and holds each to budgets; either may be left out.

    ``judged`` writes a model and verifies it.
    """

    kept: KeptSteps | None
    judged: Callable[[Model], Verification] | None

    def taken_up(self, parts: Sequence[Pass], asked: Sequence[Pass]) -> tuple[Model | None, list[Ran]]:
        """As of `pipeline.Watch`."""
        return (None, []) if self.kept is None else self.kept.taken_up(parts, asked)

    def done(self, number: int, parts: Sequence[Pass], model: Model, ran: Sequence[Ran]) -> None:
        """As of `pipeline.Watch`.

        Raises:
            StepBroke: a budget does not hold.
        """
        if self.kept is not None:
            self.kept.keep(number, parts, model, ran[-1])
        if self.judged is None or number + 1 == len(parts):
            return
        found = self.judged(model)
        if not found.passed:
            raise StepBroke(f"step {number + 1} ({parts[number].name})", model, ran, found)
