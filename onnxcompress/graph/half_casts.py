"""Undo the casts that ONNX Runtime puts around operators for which its CPU has no half-precision kernel.

It writes ``x`` → Cast → ``InsertedPrecisionFreeCast_x`` → operator → ``InsertedPrecisionFreeCast_y`` → Cast →
``y``, which belongs to that processor and not into a model: the operator reads ``x`` and gives ``y`` again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.graph.scopes import Scopes

if TYPE_CHECKING:
    import onnx

_MARK = "InsertedPrecisionFreeCast_"


def remove_inserted_casts(proto: onnx.ModelProto) -> int:
    """Take those casts out again; returns how many there were."""
    renamed: dict[str, str] = {}
    count = 0
    scopes = Scopes(proto)
    for scope in scopes.all:
        inserted = [n for n in scope.body.node if n.op_type == "Cast" and n.name.startswith(_MARK)]
        for cast in inserted:
            wide, narrow = sorted((cast.input[0], cast.output[0]), key=lambda n: not n.startswith(_MARK))
            renamed[wide] = narrow
            scope.body.node.remove(cast)
        count += len(inserted)
    if count:
        defined = scopes.names()
        for name in defined:  # values whose way back to half precision was not needed
            if name.startswith(_MARK) and name.removeprefix(_MARK) not in defined:
                renamed.setdefault(name, name.removeprefix(_MARK))
        for scope in scopes.all:
            for node in scope.body.node:
                node.input[:] = [renamed.get(n, n) for n in node.input]
                node.output[:] = [renamed.get(n, n) for n in node.output]
    return count
