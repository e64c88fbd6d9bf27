"""A model loaded in ONNX Runtime, on the device asked for and on no other.

ONNX Runtime falls back to the CPU without a word when a provider does not start; here that is an error. Nodes
that it places on the CPU by its own judgement (arithmetic on shapes) are no fall-back: they are listed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.crowding import crowded
from onnxcompress.runtime.failures import explain
from onnxcompress.runtime.machine import usable_cores
from onnxcompress.runtime.memory import resident_bytes
from onnxcompress.runtime.patience import patient

if TYPE_CHECKING:
    from pathlib import Path

Device = Literal["cpu", "cuda"]
Level = Literal["none", "basic", "extended", "all"]
Feeds = Mapping[str, np.ndarray]

_PROVIDERS: dict[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FATAL = 4  # the only messages that may reach stderr by themselves
_NO_NUMPY_TYPE = {  # types that numpy lacks: ONNX Runtime gives raw bytes, or nothing at all
    "tensor(bfloat16)": "bfloat16",
    "tensor(float8e4m3fn)": "float8_e4m3fn",
    "tensor(float8e4m3fnuz)": "float8_e4m3fnuz",
    "tensor(float8e5m2)": "float8_e5m2",
    "tensor(float8e5m2fnuz)": "float8_e5m2fnuz",
}


@dataclass(frozen=True)
class Port:
    """One input or output as ONNX Runtime declares it, for example ``tensor(float)`` and ``("N", 3)``."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@functools.cache
def _ort() -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


class Session:
    """A loaded model, with what loading took: milliseconds, and bytes by which the process has grown.

    Args:
        model: a file, or a serialized model.
        device: where it has to run.
        threads: threads within an operator; by default all usable physical cores.
        level: graph optimizations.
        optimized_path: where to write the optimized graph.
        optimized_data: name of the file beside it for its large tensors.
        disabled: names of graph optimizations to leave out.
        folder: where the external data of a serialized model lie.
        weights: values for initializers that a serialized model declares as external.
        profile: start of the name of a file to which the runtime writes what each operator takes.
        spin: threads spin for a while when they wait for each other, the runtime's default; here it is to do so
            unless other processes want the cores.

    Raises:
        RuntimeFailure: the device is not to be had, or the model does not load.
    """

    def __init__(
        self,
        model: Path | bytes,
        device: Device = "cpu",
        threads: int | None = None,
        *,
        level: Level = "all",
        optimized_path: Path | None = None,
        optimized_data: str | None = None,
        disabled: Collection[str] = (),
        folder: Path | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        profile: Path | None = None,
        spin: bool | None = None,
    ) -> None:
        self.device: Device = device
        self.threads = threads or usable_cores()
        require(device)
        options = _options(self.threads, level, not crowded(self.threads) if spin is None else spin)
        _storage(options, optimized_path, optimized_data, folder, weights)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if device != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        source = model if isinstance(model, bytes) else str(model)
        before = resident_bytes()
        started = time.perf_counter()
        self._session = _load(source, options, device, disabled)
        self.load_ms = (time.perf_counter() - started) * 1000
        after = resident_bytes()
        self.resident_bytes = None if before is None or after is None else max(0, after - before)
        require_active(device, self._session.get_providers())
        self.nodes_on_cpu = () if device == "cpu" else _nodes_on_cpu(self._session)
        self.inputs = tuple(Port(i.name, i.type, tuple(i.shape)) for i in self._session.get_inputs())
        self.outputs = tuple(Port(o.name, o.type, tuple(o.shape)) for o in self._session.get_outputs())
        self._names = [o.name for o in self.outputs]
        self._raw = any(p.type in _NO_NUMPY_TYPE for p in (*self.inputs, *self.outputs))

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """The outputs by name: arrays; lists of values for sequences; None for an optional that is empty.

        Raises:
            RuntimeFailure: the model does not run on these inputs, or not within the time of `patience`.
        """
        with _explained("the model does not run"):
            if self._raw:
                return self._run_raw(feeds)
            with patient(_ort().RunOptions()) as ending:
                outputs = self._session.run(self._names, dict(feeds), ending)
            return dict(zip(self._names, outputs, strict=True))

    def caller(self, feeds: Feeds) -> Callable[[], object]:
        """A call of the model on these inputs, for timing: on a GPU the inputs already lie there."""
        if self.device == "cpu":
            return functools.partial(self.run, feeds)
        return bound_caller(self._session, feeds, self.device)

    def end_profiling(self) -> str:
        """The path of the profile, now complete."""
        return str(self._session.end_profiling())

    def _run_raw(self, feeds: Feeds) -> dict[str, Any]:
        values = {name: _as_value(array) for name, array in feeds.items()}
        with patient(_ort().RunOptions()) as ending:
            outputs = self._session.run_with_ort_values(self._names, values, ending)
        return {p.name: _as_array(v, p.type) for p, v in zip(self.outputs, outputs, strict=True)}


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the runtime raises: its exceptions have no common base
        raise explain(error, what) from error


def require(device: Device) -> None:
    """Refuse a device that the installed ONNX Runtime cannot use, before any work is done for it.

    Raises:
        RuntimeFailure: it cannot.
    """
    if device != "cpu":  # which is always there
        require_provider(device, _ort().get_available_providers())


def require_provider(device: Device, available: Collection[str]) -> None:
    """Refuse a device that the installed ONNX Runtime was not built for."""
    if device not in _PROVIDERS:
        raise RuntimeFailure(f"the device {device!r} is unknown", f"Use one of {', '.join(_PROVIDERS)}.")
    if _PROVIDERS[device] not in available:
        raise RuntimeFailure(
            f"the installed ONNX Runtime has no {_PROVIDERS[device]}",
            "Install onnxruntime-gpu in place of onnxruntime, or use --device cpu.",
        )


def require_active(device: Device, active: Collection[str]) -> None:
    """Refuse a session in which the provider did not start."""
    if _PROVIDERS[device] not in active:
        raise RuntimeFailure(
            f"{_PROVIDERS[device]} did not start, so the model would run on {', '.join(active)}",
            "Check the GPU, its driver, and that the CUDA and cuDNN versions fit the installed ONNX Runtime.",
        )


def _options(threads: int, level: Level, spin: bool) -> Any:
    ort = _ort()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[level]
    # the idle threads of one session would otherwise spin through the turn of the other one
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _storage(
    options: Any,
    optimized_path: Path | None,
    optimized_data: str | None,
    folder: Path | None,
    weights: Mapping[str, np.ndarray] | None,
) -> None:
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    if optimized_data is not None:
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", optimized_data)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if weights:
        options.add_external_initializers(list(weights), [_as_value(array) for array in weights.values()])


def _load(source: str | bytes, options: Any, device: Device, disabled: Collection[str]) -> Any:
    ort = _ort()
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            ort.preload_dlls()
    with _explained("the model does not load"):
        session = ort.InferenceSession(
            source, options, providers=[_PROVIDERS[device]], disabled_optimizers=list(disabled) or None
        )
    session.disable_fallback()
    return session


def _nodes_on_cpu(session: Any) -> tuple[str, ...]:
    """Nodes that the runtime placed on the CPU, as ``name (operator)``.

    Raises:
        RuntimeFailure: all of them are there, so nothing runs on the device.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    placed: dict[bool, list[str]] = {True: [], False: []}
    for part in session.get_provider_graph_assignment_info():
        here = part.ep_name == _PROVIDERS["cpu"]
        placed[here] += [f"{node.name} ({node.op_type})" for node in part.get_nodes()]
    if placed[True] and not placed[False]:
        raise RuntimeFailure("every node of the model was placed on the CPU", "Use --device cpu for this model.")
    return tuple(placed[True])


def bound_caller(session: Any, feeds: Feeds, device: str) -> Callable[[], None]:
    """A call with inputs and outputs bound on a device, so that no copies are timed."""
    with _explained("the inputs cannot be placed on the device"):
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, _as_value(array, device))
        for output in session.get_outputs():
            binding.bind_output(output.name, device)

    def call() -> None:
        with _explained("the model does not run"), patient(_ort().RunOptions()) as ending:
            session.run_with_iobinding(binding, ending)
            binding.synchronize_outputs()

    return call


def _as_value(array: np.ndarray, device: str = "cpu") -> Any:
    """The array as a value of the runtime; types of ml_dtypes go in as their bits."""
    value = _ort().OrtValue
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name not in _NO_NUMPY_TYPE.values():
        return value.ortvalue_from_numpy(contiguous, device)
    from onnx import helper

    bits = contiguous.view(np.dtype(f"uint{8 * array.dtype.itemsize}"))
    return value.ortvalue_from_numpy_with_onnx_type(bits, helper.np_dtype_to_tensor_dtype(array.dtype))


def _as_array(value: Any, kind: str) -> Any:
    """The value as an array; types that numpy lacks are read from memory as ml_dtypes."""
    if kind not in _NO_NUMPY_TYPE:
        return value.numpy()
    import ctypes

    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, _NO_NUMPY_TYPE[kind]))
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), dtype).reshape(shape)
