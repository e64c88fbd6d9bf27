"""Load time and peak memory of one model in a process of its own, where nothing else has left traces.

The parent sends one line of JSON and the bytes of the inputs, the child answers with one line of JSON. The child
imports the runtime and numpy only, so what it holds before it loads the model is the least that any program pays.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.failures import OutOfMemory, TooLong, UnsupportedModel
from onnxcompress.runtime.intervals import median
from onnxcompress.runtime.memory import peak_bytes, resident_bytes
from onnxcompress.runtime.session import Device, Feeds, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUNS = 3
_LOADS, _LOAD_MS = 5, 3000.0  # load so often, unless that takes longer
_CHILD = "from onnxcompress.runtime.weighing import main; main()"
_ERRORS = {kind.__name__: kind for kind in (OutOfMemory, TooLong, UnsupportedModel)}


@dataclass(frozen=True)
class Weight:
    """What a process came to that loaded a model and ran it.

    ``base_bytes`` were resident before the model was loaded, ``peak_bytes`` at most in all; None where the system does
    not tell. ``load_ms`` is the median of ``loads``.
    """

    load_ms: float
    loads: int
    base_bytes: int | None
    peak_bytes: int | None


def weigh(model: Path, feeds: Feeds, device: Device = "cpu", threads: int | None = None) -> Weight:
    """Load and run a model in a child process.

    Raises:
        RuntimeFailure: it does not load or run there, or the process died.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    asked = {
        "model": str(model.absolute()), "device": device, "threads": threads,
        "inputs": [_described(name, array) for name, array in arrays.items()],
    }  # fmt: skip
    payload = b"".join(array.tobytes() for array in arrays.values() if array.dtype != object)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD],
        input=json.dumps(asked).encode() + b"\n" + payload,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": _search_path()},
        check=False,
    )
    return _answer(done.stdout, done.returncode, model)


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": array.shape}
    return about | {"values": array.ravel().tolist()} if array.dtype == object else about


def _search_path() -> str:
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def _answer(output: bytes, code: int, model: Path) -> Weight:
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise RuntimeFailure(
            f"the process that measures the memory of {model} {how}",
            "It may have run out of memory; use smaller inputs, or --no-memory.",
        ) from error
    if "error" in found:
        kind, message, hint = found["error"]
        raise _ERRORS.get(kind, RuntimeFailure)(message, hint)
    return Weight(**found)


def main() -> None:
    """The child: read what is asked, measure, answer."""
    asked = json.loads(sys.stdin.buffer.readline())
    feeds = dict(_received(asked["inputs"], sys.stdin.buffer))
    try:
        found: dict[str, Any] = asdict(_measured(Path(asked["model"]), feeds, asked["device"], asked["threads"]))
    except RuntimeFailure as error:
        found = {"error": [type(error).__name__, error.message, error.hint]}
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(found) + "\n")


def _received(inputs: list[dict[str, Any]], stream: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    for about in inputs:
        shape = tuple(about["shape"])
        if "values" in about:
            yield about["name"], np.array(about["values"], object).reshape(shape)
            continue
        dtype = _dtype(about["dtype"])
        count = int(np.prod(shape)) * dtype.itemsize
        yield about["name"], np.frombuffer(stream.read(count), dtype).reshape(shape)


def _dtype(name: str) -> np.dtype:
    """The type of that name; importing ml_dtypes has numpy know more of them."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return found


def _measured(model: Path, feeds: Feeds, device: Device, threads: int | None) -> Weight:
    import onnxruntime

    onnxruntime.get_available_providers()
    base = resident_bytes()
    session = Session(model, device, threads)
    times = [session.load_ms]
    for _ in range(_RUNS):
        session.run(feeds)
    peak = peak_bytes()
    while len(times) < _LOADS and sum(times) < _LOAD_MS:
        del session
        session = Session(model, device, threads)
        times.append(session.load_ms)
    return Weight(median(times), len(times), base, peak)
