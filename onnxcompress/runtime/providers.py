"""Which execution providers the installed ONNX Runtime was built with, and which of them really start here."""

from __future__ import annotations

import contextlib
import ctypes
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.runtime.failures import plain

_CPU = "CPUExecutionProvider"
_REMOTE = {"AzureExecutionProvider": "calls models on a server; it runs none here"}
_FATAL = 4


@dataclass(frozen=True)
class ProviderState:
    """One provider; ``reason`` says why it cannot be used."""

    name: str
    usable: bool
    reason: str | None = None


def providers() -> tuple[ProviderState, ...]:
    """Every provider that is compiled in, tried on a model of one node."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    return tuple(_tried(onnxruntime, name) for name in onnxruntime.get_available_providers())


def _tried(ort: Any, name: str) -> ProviderState:
    if name in _REMOTE:
        return ProviderState(name, False, _REMOTE[name])
    if name.startswith("CUDA") and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            ort.preload_dlls()
    try:
        session = ort.InferenceSession(_one_node(), providers=[name])
        session.disable_fallback()
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # whatever the runtime raises: its exceptions have no common base
        return ProviderState(name, False, plain(str(error)))
    active = session.get_providers()
    if name in active:
        return ProviderState(name, True)
    why = _missing_library(ort, name) or f"it did not start, and the runtime fell back to {', '.join(active) or _CPU}"
    return ProviderState(name, False, why)


def _missing_library(ort: Any, name: str) -> str | None:
    """The library that the provider's own cannot be loaded for, as the system names it."""
    folder = Path(ort.__file__).parent / "capi"
    short = name.removesuffix("ExecutionProvider").lower()
    try:
        for library in ("shared", short):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{library}.so"), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error) if "No such file" in str(error) and str(folder) not in str(error) else None
    return None


def _one_node() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "one_node", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())
