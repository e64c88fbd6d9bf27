"""An ONNX model whose large tensors stay where they are until they are needed.

The structure is an ordinary ``onnx.ModelProto``. A large tensor in it has the right name, type and dims but no
data: an ``external_data`` entry names its payload, a range of a file or a computation. So a model of several
gigabytes costs a few megabytes until its tensors are visited one at a time.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import helper, numpy_helper

from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph import external
from onnxcompress.graph.absurd import refuse_absurd
from onnxcompress.graph.interface import unknown_type
from onnxcompress.graph.payload import Computed, FileRange, Payload, stored_bytes
from onnxcompress.graph.scratch import ScratchFolder
from onnxcompress.graph.signatures import check_signatures
from onnxcompress.graph.soundness import check_graph, check_values
from onnxcompress.graph.wire import LARGE, PAYLOAD_KEY, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy as np

Tensor = onnx.TensorProto


class Model:
    """A model in memory: its structure and the payloads of its large tensors."""

    def __init__(self, proto: onnx.ModelProto, path: Path | None = None) -> None:
        self.proto = proto
        self.path = path
        self._payloads: dict[str, Payload] = {}
        self._folder: ScratchFolder | None = None  # that it lies in, and its copies as well

    @classmethod
    def scratch(cls, write: Callable[[Path], None]) -> Model:
        """Have a model written to a folder that goes with it and the last of its copies, and open it."""
        folder = ScratchFolder()
        path = folder.path / "model.onnx"
        write(path)
        model = cls.open(path)
        model._folder = folder
        return model

    @classmethod
    def open(cls, path: Path) -> Model:
        """Read a model file; large tensors stay in it.

        Raises:
            UsageError: there is no such file.
            ModelError: it is empty, truncated, no ONNX model, its external data are unsafe or missing, or its graph
                cannot be one (names, cycles, data that do not fit, inputs that are missing).
        """
        if not path.exists():
            raise UsageError(f"the model {path} does not exist", "Check the path.")
        if not path.is_file():
            raise UsageError(f"{path} is not a file", "Give the .onnx file itself.")
        if path.stat().st_size == 0:
            raise ModelError(f"{path} is empty", "Copy or export the model again.")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            skeleton, spans = cut(view)
        try:
            proto = onnx.ModelProto.FromString(skeleton)
        except (DecodeError, UnicodeDecodeError) as error:
            raise _not_onnx(path) from error
        if not proto.HasField("graph") or not proto.opset_import or not proto.graph.output:
            raise _not_onnx(path)
        if not all(isinstance(text, str) for text in _texts(proto)):  # protobuf hands them over as bytes
            raise ModelError(f"{path} holds names that are not UTF-8", "Export the model again with other names.")
        model = cls(proto, path)
        model._payloads = {str(i): FileRange(path, s.offset, s.length) for i, s in enumerate(spans)}
        for tensor in model.tensors():
            model._admit(tensor)
        check_graph(proto)
        check_signatures(proto)
        refuse_absurd(proto)
        return model

    def _admit(self, tensor: Tensor) -> None:
        """Check what a tensor declares against what there is, and note its external data."""
        if min(tensor.dims, default=0) < 0:
            raise ModelError(f"the tensor {tensor.name!r} has a negative dimension", "The file is damaged.")
        if tensor.data_type not in Tensor.DataType.values():
            raise unknown_type(tensor.name, tensor.data_type)
        if tensor.data_type == Tensor.UNDEFINED:
            raise ModelError(f"the tensor {tensor.name!r} does not say of what type it is", "The file is damaged.")
        payload = self._payload(tensor)
        if payload is None and tensor.data_location == Tensor.EXTERNAL:
            if self.path is None:
                raise ModelError(f"the data of {tensor.name!r} lie outside of the model", "Open it from a file.")
            payload = external.locate(tensor, self.path.parent)
            self._attach(tensor, payload)
        if not isinstance(payload, FileRange):
            check_values(tensor)
            return
        known = tensor.data_type in helper.get_all_tensor_dtypes() and tensor.data_type != Tensor.STRING
        if not known or payload.length != stored_bytes(tensor.data_type, tensor.dims):
            raise ModelError(
                f"the tensor {tensor.name!r} declares the shape {list(tensor.dims)} but holds {payload.length} bytes",
                "The file is damaged; export the model again.",
            )

    # -------------------------------------------------------------------------------- tensors

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor stored in the model: initializers and attributes, at every depth."""
        yield from _graph_tensors(self.proto.graph)
        for function in self.proto.functions:
            yield from _node_tensors(function.node)

    def _payload(self, tensor: Tensor) -> Payload | None:
        for entry in tensor.external_data:
            if entry.key == PAYLOAD_KEY:
                return self._payloads[entry.value]
        return None

    def payload(self, tensor: Tensor) -> Payload | None:
        """The payload of a large tensor; None where the data are in the tensor itself."""
        return self._payload(tensor)

    def _attach(self, tensor: Tensor, payload: Payload) -> None:
        key = str(len(self._payloads))
        self._payloads[key] = payload
        for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(name)
        del tensor.external_data[:]
        tensor.data_location = Tensor.EXTERNAL
        tensor.external_data.add(key=PAYLOAD_KEY, value=key)

    def has_data(self, tensor: Tensor) -> bool:
        """True where the values are in the tensor itself, False where they are in a payload."""
        return self._payload(tensor) is None

    def nbytes(self, tensor: Tensor) -> int:
        """Bytes of the values as raw data (strings: their bytes)."""
        if tensor.data_type == Tensor.STRING:
            return sum(len(s) for s in tensor.string_data)
        return stored_bytes(tensor.data_type, tensor.dims)

    def array(self, tensor: Tensor) -> np.ndarray:
        """The values; types that numpy lacks (bfloat16, int4, ...) come as ml_dtypes.

        Raises:
            ModelError: the stored data do not fit the declared shape.
        """
        payload = self._payload(tensor)
        if payload is not None:
            return payload.read(tensor.data_type, tuple(tensor.dims))
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"the tensor {tensor.name!r} holds data that do not fit its shape {list(tensor.dims)}",
                "The file is damaged; export the model again.",
            ) from error

    def view(self, tensor: Tensor) -> np.ndarray:
        """The values without a copy where they lie in a file; read-only, and possibly at an unaligned address."""
        payload = self._payload(tensor)
        if isinstance(payload, FileRange):
            return payload.view(tensor.data_type, tuple(tensor.dims))
        return self.array(tensor)

    def set_array(self, tensor: Tensor, array: np.ndarray) -> None:
        """Give a tensor new values (and their type and shape)."""
        name, doc = tensor.name, tensor.doc_string
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        if doc:  # an empty one takes bytes as well
            tensor.doc_string = doc
        if self.nbytes(tensor) >= LARGE:
            self._attach(tensor, Computed(lambda: array))

    def set_lazy(
        self, tensor: Tensor, data_type: int, dims: tuple[int, ...], compute: Callable[[], np.ndarray]
    ) -> None:
        """Give a tensor values that are computed when it is read or written, each time anew."""
        tensor.data_type = data_type
        tensor.dims[:] = dims
        self._attach(tensor, Computed(compute))

    def share(self, tensor: Tensor, source: Tensor) -> None:
        """Give a tensor the values of another one without copying them."""
        payload = self._payload(source)
        name = tensor.name
        tensor.CopyFrom(source)
        tensor.name = name
        if payload is not None:
            self._attach(tensor, payload)

    # -------------------------------------------------------------------------------- the whole

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    def copy(self) -> Model:
        """An independent structure over the same payloads."""
        twin = Model(onnx.ModelProto(), self.path)
        twin.proto.CopyFrom(self.proto)
        twin._payloads = dict(self._payloads)
        twin._folder = self._folder
        return twin

    def adopt(self, proto: onnx.ModelProto) -> None:
        """Replace the structure by another one whose large tensors refer to the payloads of this model."""
        self.proto = proto


def _texts(message: Message) -> Iterator[object]:
    """Every text in a message and below, but for comments."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and field.name != "doc_string":
            yield from [value] if isinstance(value, (str, bytes)) else value
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _texts(inner)


def _not_onnx(path: Path) -> ModelError:
    return ModelError(f"{path} is not an ONNX model", "Give a file that an exporter to ONNX wrote.")


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[Tensor]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[Tensor]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                if sparse.HasField("values"):
                    yield sparse.values
                    yield sparse.indices
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _graph_tensors(inner)
