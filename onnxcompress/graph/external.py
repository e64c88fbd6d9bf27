"""External data: where a tensor says that its values lie, and whether that may be believed.

A model file is hostile input. Its external data must lie in regular files inside of the model's own folder,
and within their bounds (https://onnx.ai/onnx/repo-docs/ExternalData.html).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from onnxcompress.errors import ModelError
from onnxcompress.graph.payload import FileRange, stored_bytes

if TYPE_CHECKING:
    import onnx

_HINT = "External data have to be files beside the model, within its folder."


def locate(tensor: onnx.TensorProto, folder: Path) -> FileRange:
    """The range of a file that holds the values of a tensor.

    Raises:
        ModelError: the location leaves the folder, is no regular file, or the range leaves the file.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    path = _inside(tensor.name, entries.get("location", ""), folder)
    size = path.stat().st_size
    offset = _number(tensor.name, entries.get("offset", "0"))
    declared = entries.get("length")
    length = stored_bytes(tensor.data_type, tensor.dims) if declared is None else _number(tensor.name, declared)
    if offset + length > size:
        raise ModelError(
            f"the tensor {tensor.name!r} wants bytes {offset} to {offset + length} of {path.name!r},"
            f" which has only {size}",
            "The external data are damaged or belong to another model.",
        )
    return FileRange(path, offset, length)


def _inside(name: str, location: str, folder: Path) -> Path:
    """The file of a location, which must be a regular one inside of the folder, reached by no link."""
    pure = PurePosixPath(location)
    leaves = pure.is_absolute() or PureWindowsPath(location).is_absolute() or ".." in pure.parts
    if not location or leaves or "\0" in location or "\\" in location:
        raise ModelError(f"the external data of {name!r} lie at the unsafe location {location!r}", _HINT)
    path = folder / location
    try:
        direct = path.resolve() == folder.resolve() / location
        found = path.exists()
    except OSError:  # a name that is too long for the file system, or links in a circle
        direct, found = True, False
    if not direct:
        raise ModelError(f"the external data of {name!r} are reached through a link: {location!r}", _HINT)
    if not found:
        raise ModelError(f"the external data file {location!r} of {name!r} is missing", _HINT)
    if not path.is_file():
        raise ModelError(f"the external data of {name!r} are no regular file: {location!r}", _HINT)
    return path


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ModelError(f"the external data of {name!r} have the offset or length {text[:40]!r}", _HINT)
    return int(text)
