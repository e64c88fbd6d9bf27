"""What is stored and computed, put together by type of elements and by operator, the most bytes first."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from onnxcompress.inspection.facts import OperatorFacts, StoredFacts, TypeFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.graph.scopes import Scopes
    from onnxcompress.inspection.arithmetic import Counted
    from onnxcompress.report import ModelFacts

REST = "graph and names"  # what the file holds besides values


def by_dtype(tensors: Sequence[StoredFacts], size_bytes: int) -> tuple[TypeFacts, ...]:
    """One row a type, and one for what else the file holds."""
    groups: dict[str, list[StoredFacts]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype].append(tensor)
    found = [_type(name, part, size_bytes) for name, part in groups.items()]
    rest = max(0, size_bytes - sum(item.size_bytes for item in found))  # values may share bytes, or be stored shorter
    found.append(TypeFacts(REST, 0, 0, rest, rest / size_bytes))
    return tuple(sorted(found, key=lambda item: -item.size_bytes))


def _type(name: str, tensors: Sequence[StoredFacts], size_bytes: int) -> TypeFacts:
    nbytes = sum(t.size_bytes for t in tensors)
    return TypeFacts(name, len(tensors), sum(t.values for t in tensors), nbytes, nbytes / size_bytes)


def by_operator(
    scopes: Scopes, tensors: Sequence[StoredFacts], counted: Sequence[Counted], model: ModelFacts
) -> tuple[OperatorFacts, ...]:
    """One row an operator; a tensor that several read has a row of its own, such as ``Gather+MatMul``."""
    nodes = Counter(node.op_type for scope in scopes.all for node in scope.body.node)
    stored: dict[str, list[StoredFacts]] = defaultdict(list)
    for tensor in tensors:
        stored[tensor.operator].append(tensor)
    macs: dict[str, int] = {}
    for item in counted:
        if item.macs is not None:
            macs[item.node.op_type] = macs.get(item.node.op_type, 0) + item.macs
    products = {item.node.op_type for item in counted}
    found = []
    for name in dict.fromkeys((*stored, *nodes)):
        nbytes = sum(t.size_bytes for t in stored.get(name, ()))
        done = macs.get(name) if name in products else 0
        share = nbytes / model.size_bytes
        found.append(OperatorFacts(name, nodes[name], len(stored.get(name, ())), nbytes, share, done))
    return tuple(sorted(found, key=lambda item: (-item.size_bytes, -(item.macs or 0), -item.nodes, item.name)))
