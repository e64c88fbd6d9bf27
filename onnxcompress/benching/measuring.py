"""The benchmark itself: every setting in turn, all models interleaved in each, memory in processes of their own."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from onnxcompress.benching.calls import Inputs
from onnxcompress.benching.facts import Bench, Benched, Options, Profile, Row, Setting
from onnxcompress.data.sized import sizes_of
from onnxcompress.data.synthetic import trace_inputs
from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph.model import Model
from onnxcompress.provenance import tool
from onnxcompress.runtime.crowding import crowded
from onnxcompress.runtime.interleaving import Lineup, Series, interleaved
from onnxcompress.runtime.intervals import rounds_for
from onnxcompress.runtime.layer_times import by_layer, by_operator
from onnxcompress.runtime.machine import machine_facts, usable_cores
from onnxcompress.runtime.profiling import profiled
from onnxcompress.runtime.session import Session, require
from onnxcompress.runtime.timing import timed
from onnxcompress.runtime.weighing import Weight, weigh
from onnxcompress.verify.facts import model_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from onnxcompress.data.dataset import Feeds

_CROWDED = "other processes use the cores: threads sleep when they wait for each other"


def bench(paths: Sequence[Path], options: Options) -> Bench:
    """Measure models against the first of them.

    Raises:
        UsageError: a model or the data do not exist, or an axis is fixed at another size than asked for.
        ModelError: a file is no usable model, or the models do not have the same inputs.
        DataError: the data do not fit the models.
        RuntimeFailure: the device is not to be had, memory runs out, or a model does not run.
    """
    require(options.device)
    try:
        return _Bencher(paths, options).run()
    finally:
        options.progress.finish()


class _Bencher:
    def __init__(self, paths: Sequence[Path], options: Options) -> None:
        self.options = options
        names = labels(paths)
        self.paths = dict(zip(names, paths, strict=True))
        self.models = {name: Model.open(path) for name, path in self.paths.items()}
        self.traced = trace_inputs(self.models[names[0]])
        self.inputs = Inputs({name: (self.paths[name], self.models[name]) for name in names}, options)
        self.notes: list[str] = []

    def run(self) -> Bench:
        rows: list[Row] = []
        profiles: list[Profile] = []
        options = self.options
        settings = list(self._settings())
        self.inputs.close()
        options.progress.start("measuring", len(settings) * len(self.paths))
        for setting, feeds in settings:
            rows += self._rows(setting, feeds)
            if options.profile:
                profiles += [self._profile(name, setting, feeds) for name in self.paths]
        models = tuple(Benched(name, model_facts(model)) for name, model in self.models.items())
        return Bench(
            tool(), machine_facts(), self.inputs.source, options.seed, options.seconds, models,
            tuple(rows), tuple(profiles), tuple(dict.fromkeys(self.notes)),
        )  # fmt: skip

    def _settings(self) -> Iterator[tuple[Setting, tuple[Feeds, ...]]]:
        for sequence, batch in itertools.product(self.options.sequences, self.options.batches):
            feeds = self.inputs.calls(batch, sequence)
            shapes = [{name: array.shape for name, array in call.items()} for call in feeds]
            found_batch, found_sequence = (
                sizes.pop() if len(sizes := {sizes_of(self.traced, s, word) for s in shapes}) == 1 else None
                for word in ("batch", "sequence")
            )
            for threads in self.options.threads:
                where = self.options.device, threads or usable_cores()
                yield Setting(*where, batch or found_batch, sequence or found_sequence, shapes[0]), feeds

    def _rows(self, setting: Setting, feeds: Sequence[Feeds]) -> Iterator[Row]:
        for (name, path), series in zip(self.paths.items(), self._timed(setting, feeds), strict=True):
            weight: Weight | None = None
            if self.options.memory:
                with _named(name):
                    weight = weigh(path, feeds[0], setting.device, setting.threads)
            self.options.progress.advance(name)
            yield _row(name, setting, series, weight)

    def _timed(self, setting: Setting, feeds: Sequence[Feeds]) -> tuple[Series, ...]:
        """All models in turns, in rounds of fresh sessions where loading is quick."""
        spin = not (setting.device == "cpu" and crowded(setting.threads, wait=True))
        if not spin:
            self.notes.append(_CROWDED)
        kept = self._sessions(setting, list(self.paths), spin=spin)
        calls_ms = 0.0
        for name, session in kept.items():
            with _named(name):
                calls_ms += timed(functools.partial(session.run, feeds[0]))[1]
            if session.nodes_on_cpu:
                self.notes.append(f"{name}: {len(session.nodes_on_cpu)} nodes placed on the CPU by ONNX Runtime")
        seconds = self.options.seconds
        load_ms = sum(session.load_ms for session in kept.values())
        rounds = rounds_for(seconds, load_ms, calls_ms)
        order = list(self.paths)

        def lineups(number: int) -> list[Lineup]:
            """The sessions that are there, and then others, loaded in the other order each time."""
            turned = order[::-1] if number % 2 else order
            sessions = dict(kept) if not number else self._sessions(setting, turned, spin=spin)
            kept.clear()
            return [[sessions[name].caller(call) for name in order] for call in feeds]

        return interleaved([functools.partial(lineups, number) for number in range(rounds)], seconds)

    def _sessions(self, setting: Setting, order: Sequence[str], *, spin: bool) -> dict[str, Session]:
        found = {}
        for name in order:
            with _named(name):
                found[name] = Session(self.paths[name], setting.device, setting.threads, spin=spin)
        return found

    def _profile(self, name: str, setting: Setting, feeds: Sequence[Feeds]) -> Profile:
        with _named(name):
            found = profiled(self.paths[name], feeds, setting.device, setting.threads)
        layers = by_layer(found.nodes, self.models[name].proto.graph)
        total = sum(node.ms for node in found.nodes)
        return Profile(name, setting, found.runs, total, by_operator(found.nodes), layers)


def labels(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each model: its file's where that is enough, else its path, counted where it comes twice."""
    files = Counter(path.name for path in set(paths))
    times = Counter(paths)
    seen: Counter[str] = Counter()
    found = []
    for path in paths:
        name = path.name if files[path.name] == 1 else str(path)
        seen[name] += 1
        found.append(f"{name} #{seen[name]}" if times[path] > 1 else name)
    return tuple(found)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which model a failure is."""
    try:
        yield
    except RuntimeFailure as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error


def _row(name: str, setting: Setting, series: Series, weight: Weight | None) -> Row:
    rate = 1000 / max(series.latency_ms.p50, 1e-9)
    return Row(
        model=name,
        setting=setting,
        calls=series.calls,
        units=series.units,
        latency_ms=series.latency_ms,
        speedup=series.speedup,
        items_per_call=setting.batch,
        throughput_per_s=rate * (setting.batch or 1),
        load_ms=weight.load_ms if weight else None,
        peak_bytes=weight.peak_bytes if weight else None,
        base_bytes=weight.base_bytes if weight else None,
    )
