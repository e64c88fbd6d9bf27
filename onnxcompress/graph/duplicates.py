"""Stored tensors that are equal bit for bit become one.

A tensor of a nested graph may also become one with a tensor of a graph around it, and large ones of two
branches move to the graph around both. Equal means: same type, same dims, same bytes. Few bytes of each
tensor are looked at first, so that of a large model little is read.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.bodies import at_output, graphs, innermost, redirect
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.payload import Computed, FileRange
from onnxcompress.graph.scopes import Scope, Scopes
from onnxcompress.graph.wire import little_endian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SAMPLE = 4096  # bytes from each end that are compared before all are
_CHUNK = 1 << 20
_DEAR = 1 << 23  # bytes from which values are not computed just to be compared

_Entry = tuple[Scope, Tensor]


def merge_duplicates(model: Model) -> int:
    """Let readers of equal tensors read the first of them; returns how many lost all their readers."""
    scopes = Scopes(model.proto)
    fixed = overridable(model.proto)
    groups: dict[tuple[object, ...], list[_Entry]] = {}
    for scope, _ in graphs(scopes):
        for name, tensor in scope.initializers.items():
            dear = isinstance(model.payload(tensor), Computed) and model.nbytes(tensor) > _DEAR
            if dear or (scope.parent is None and name in fixed):
                continue
            groups.setdefault((tensor.data_type, *tensor.dims), []).append((scope, tensor))
    namer = Namer(scopes.names())
    count = 0
    for equal in [e for group in groups.values() for e in _equal(model, group)]:
        count += _merge(scopes, equal)
        if not model.has_data(equal[0][1]):  # small ones are not worth a move
            count += _hoist(scopes, equal, namer)
    return count


def _equal(model: Model, group: list[_Entry]) -> Iterator[list[_Entry]]:
    """The entries of a group of one type and shape, split into those with the same bytes."""
    for similar in _split(group, lambda tensor: _sample(model, tensor)):
        yield from _split(similar, lambda tensor: _digest(model, tensor))


def _split(group: list[_Entry], key: Callable[[Tensor], bytes]) -> Iterator[list[_Entry]]:
    if len(group) < 2:
        return
    parts: dict[bytes, list[_Entry]] = {}
    for scope, tensor in group:
        parts.setdefault(key(tensor), []).append((scope, tensor))
    yield from (part for part in parts.values() if len(part) > 1)


def _merge(scopes: Scopes, equal: list[_Entry]) -> int:
    merged = 0
    for index, (scope, tensor) in enumerate(equal):
        for home, first in equal[:index]:
            if _replace(scopes, scope, tensor.name, home, first.name):
                merged += 1
                break
    return merged


def _hoist(scopes: Scopes, equal: list[_Entry], namer: Namer) -> int:
    """Store what several branches still have of their own in the innermost graph around them."""
    left = [(s, t) for s, t in equal if scopes.uses(s, t.name) and not at_output(scopes.uses(s, t.name))]
    if len(left) < 2:
        return 0
    home = innermost([scope for scope, _ in left]).body
    if not isinstance(home, onnx.GraphProto):
        return 0
    moved = home.initializer.add()
    moved.CopyFrom(left[0][1])
    moved.name = namer(moved.name)
    for scope, tensor in left:
        redirect(scopes.uses(scope, tensor.name), moved.name)
    return len(left) - 1


def _replace(scopes: Scopes, scope: Scope, name: str, home: Scope, first: str) -> bool:
    """Let what reads ``name`` of ``scope`` read ``first`` of ``home``, if all of it can see that."""
    uses = scopes.uses(scope, name)
    # a graph hands its outputs on by name, so what is one directly stays
    if not uses or at_output(uses) or any(u.scope.resolve(first) is not home for u in uses):
        return False
    redirect(uses, first)
    scopes.uses(home, first).extend(uses)
    uses.clear()
    return True


def _sample(model: Model, tensor: Tensor) -> bytes:
    payload = model.payload(tensor)
    if not isinstance(payload, FileRange) or payload.length <= 2 * _SAMPLE:
        return b""
    with payload.path.open("rb") as file:
        file.seek(payload.offset)
        head = file.read(_SAMPLE)
        file.seek(payload.offset + payload.length - _SAMPLE)
        return head + file.read(_SAMPLE)


def _digest(model: Model, tensor: Tensor) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    payload = model.payload(tensor)
    if tensor.data_type == onnx.TensorProto.STRING:
        for value in tensor.string_data:
            digest.update(len(value).to_bytes(8, "little") + value)
    elif isinstance(payload, FileRange):
        with payload.path.open("rb") as file:
            file.seek(payload.offset)
            left = payload.length
            while left > 0 and (chunk := file.read(min(_CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
    else:
        digest.update(little_endian(model.array(tensor)))
    return digest.digest()
