"""Outputs of both models as they are, without anything watched."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.session import Session
from onnxcompress.stats.masks import kept_positions
from onnxcompress.stats.scores import producers
from onnxcompress.verify.fidelity import OutputMeter, identical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.comparing.facts import Options
    from onnxcompress.data.dataset import Dataset, Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.report import OutputFidelity


@dataclass(frozen=True)
class Plain:
    """Figures of outputs that both have, ``first``: those of the second model in the first call.

    ``lost``: outputs that only one has, or that differ in shape.
    """

    rows: tuple[OutputFidelity, ...]
    first: dict[str, Any]
    lost: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float  # that all calls of both models took


def plain_outputs(models: tuple[Model, Model], data: Dataset, options: Options) -> Plain:
    """Run both models on all calls.

    Raises:
        RuntimeFailure: one of them does not run.
    """
    options.progress.start("comparing outputs", len(data))
    first, second = (_Named(model, options) for model in models)
    made_by = producers(models[0].proto.graph)
    there = {port.name for port in second.session.outputs}
    ports = [port for port in first.session.outputs if port.name in there]
    meters = [OutputMeter(port.name, port.shape, made_by.get(port.name)) for port in ports]
    notes: list[str] = []
    kept: dict[str, Any] = {}
    started = time.perf_counter()
    for index, feeds in enumerate(data):
        one, other = first.run(feeds), second.run(feeds)
        if not index:
            kept = other
            if not identical(one, first.run(feeds)):
                notes.append("the first model gives different outputs for the same inputs: figures are noise")
        for meter in meters:
            meter.add(one[meter.name], other[meter.name], kept_positions(feeds))
        options.progress.advance(f"call {index + 1}")
    seconds = time.perf_counter() - started
    lost = [port.name for port in first.session.outputs if port.name not in there]
    lost += [meter.name for meter in meters if meter.mismatches]
    notes += [f"output {meter.name!r} differs in shape" for meter in meters if meter.mismatches]
    rows = tuple(row for meter in meters for row in meter.rows())
    return Plain(rows, kept, tuple(lost), tuple(notes), seconds)


class _Named:
    """A session whose failures say of which model they are."""

    def __init__(self, model: Model, options: Options) -> None:
        self._name = str(model.path)
        with self._explained():
            self.session = Session(model.path or b"", options.device, options.threads)

    def run(self, feeds: Feeds) -> dict[str, Any]:
        with self._explained():
            return self.session.run(feeds)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeFailure as error:
            raise type(error)(f"{self._name}: {error.message}", error.hint) from error
