"""What each step of the second model adds by itself: it is run on the values of the first.

The second model is cut at every value that both have. What makes such a value is given those of the first model that it
reads, and its result is compared with what the first model gives. So errors from before do not count:

    own SQNR of v = SQNR of step_b(values of a) against v of a
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnxcompress.comparing.meter import Meter
from onnxcompress.comparing.walk import GROUP_BYTES
from onnxcompress.comparing.watched import Watched, session_of, with_codes
from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph.scopes import subgraphs
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.stats.masks import kept_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxcompress.comparing.facts import Options
    from onnxcompress.comparing.lineage import Lineage
    from onnxcompress.comparing.matching import Pair
    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model
    from onnxcompress.runtime.session import Session

_GIVEN, _CUT = "onnxcompress_given_", "onnxcompress_cut_"
_GROUP_VALUES = 512


class Grafts:
    """The second model, to be run from values of the first.

    ``types``: those of the second model's elements, by the names of the pairs in the first.
    """

    def __init__(
        self,
        models: tuple[Model, Model],
        lineage: Lineage,
        pairs: Sequence[Pair],
        types: Mapping[str, np.dtype],
        nbytes: Mapping[str, int],
    ) -> None:
        self._models, self._lineage = models, lineage
        self._cut = {pair.b: pair.a for pair in pairs if pair.a in types}
        self._codes = {pair.b: pair.codes for pair in pairs if pair.codes is not None}
        self._types, self._nbytes = types, nbytes

    def own(self, targets: Sequence[Pair], data: Dataset, options: Options) -> dict[str, Meter]:
        """The sums of each target's own errors; targets that cannot be run so are left out.

        Raises:
            RuntimeFailure: memory runs out.
        """
        found: dict[str, Meter] = {}
        groups = list(self._groups(targets))
        options.progress.start("running steps alone", len(groups))
        for group in groups:
            self._measure(group, data, options, found)
            options.progress.advance(group[0].a)
        options.progress.finish()
        return found

    def _groups(self, targets: Sequence[Pair]) -> Iterator[list[Pair]]:
        group: list[Pair] = []
        held = 0
        for pair in targets:
            ends = self._lineage.back(pair.b, self._cut.__contains__)[1]
            size = sum(2 * self._nbytes.get(self._cut.get(n, ""), 0) for n in ends) + 2 * self._nbytes.get(pair.a, 0)
            if group and (held + size > GROUP_BYTES or len(group) >= _GROUP_VALUES):
                yield group
                group, held = [], 0
            group.append(pair)
            held += size
        if group:
            yield group

    def _measure(self, group: Sequence[Pair], data: Dataset, options: Options, found: dict[str, Meter]) -> None:
        try:
            found |= self._run(group, data, options)
        except LimitReached:
            raise
        except RuntimeFailure:
            if len(group) > 1:
                half = len(group) // 2
                for part in (group[:half], group[half:]):
                    self._measure(part, data, options, found)

    def _run(self, group: Sequence[Pair], data: Dataset, options: Options) -> dict[str, Meter]:
        nodes: dict[int, onnx.NodeProto] = {}
        ends: dict[str, None] = {}
        for pair in group:
            made, read = self._lineage.back(pair.b, self._cut.__contains__)
            nodes |= {id(node): node for node in made}
            ends |= dict.fromkeys(read)
        given = {name: self._cut[name] for name in ends if name in self._cut}
        kept = [node for node in self._lineage.nodes if id(node) in nodes]
        session, names = self._session(kept, given, group, options)
        watched = [*given.values(), *(pair.a for pair in group)]
        first = Watched(self._models[0], watched, options.device, options.threads)
        return self._compare(given, names, first, session, data)

    def _compare(
        self, given: Mapping[str, str], names: Mapping[str, str], first: Watched, session: Session, data: Dataset
    ) -> dict[str, Meter]:
        wanted = {port.name for port in session.inputs}
        meters = {name: Meter() for name in names}
        for feeds in data:
            values = first.run(feeds)
            fed = {name: array for name, array in feeds.items() if name in wanted}
            fed |= {
                _GIVEN + name: np.asarray(values[own]).astype(self._types[own], copy=False)
                for name, own in given.items()
            }
            results = session.run({name: array for name, array in fed.items() if name in wanted})
            keep = kept_positions(feeds)
            for name, meter in meters.items():
                meter.add(values[name], results[names[name]], keep)
        return meters

    def _session(
        self, nodes: Sequence[onnx.NodeProto], given: Mapping[str, str], group: Sequence[Pair], options: Options
    ) -> tuple[Session, dict[str, str]]:
        """The nodes alone, reading values that are handed over in place of their own, and the names of the results."""
        twin = self._models[1].copy()
        graph = twin.proto.graph
        copies = [*self._quantizing(given), *(_renamed(node, {name: _CUT + name for name in given}) for node in nodes)]
        for name in given:
            if name not in self._codes:
                copies.insert(0, helper.make_node("Identity", [_GIVEN + name], [_CUT + name]))
        read = {name for node in copies for name in _names(node)} | {n for p in group for n in p.codes or ()}
        infos = [
            helper.make_tensor_value_info(_GIVEN + name, helper.np_dtype_to_tensor_dtype(self._types[own]), None)
            for name, own in given.items()
        ]
        inputs = [info for info in graph.input if info.name in read]
        stored = [t for t in graph.initializer if t.name in read]
        sparse = [t for t in graph.sparse_initializer if t.values.name in read]
        kept = {"node": copies, "input": [*inputs, *infos], "initializer": stored, "sparse_initializer": sparse}
        for part in ("node", "input", "output", "initializer", "sparse_initializer", "value_info"):
            messages: list[Any] = [type(m).FromString(m.SerializeToString()) for m in kept.get(part, [])]
            graph.ClearField(part)
            getattr(graph, part).extend(messages)
        twin, names = with_codes(twin, group)
        twin.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
        return session_of(twin, options.device, options.threads), names

    def _quantizing(self, given: Mapping[str, str]) -> Iterator[onnx.NodeProto]:
        """Values that are handed over, as the integers that the second model has in their place."""
        for name in given:
            if name in self._codes:
                yield helper.make_node("QuantizeLinear", [_GIVEN + name, *self._codes[name]], [_CUT + name])


def _names(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _names(inner)
        yield from (output.name for output in graph.output)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy that reads other names, within its inner graphs as well where they do not shadow them."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in subgraphs(node):
        own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        left = {name: other for name, other in names.items() if name not in own}
        for inner in graph.node:
            _rename(inner, left)
        for output in graph.output:
            output.name = left.get(output.name, output.name)
