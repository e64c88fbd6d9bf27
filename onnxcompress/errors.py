"""Every error that is raised on purpose.

    OnnxCompressError          exit code
    ├── UsageError             2   wrong usage: a path, an option, a pattern, a recipe
    ├── ModelError             3   the model cannot be used
    ├── DataError              3   the calibration or evaluation data cannot be used
    └── RuntimeFailure         4   the runtime or the machine could not do it

The message is one sentence that says what is wrong; the hint is one sentence that says how to mend it.
"""

from __future__ import annotations

from typing import ClassVar


class OnnxCompressError(Exception):
    """Base of all intended errors: a message, a hint and the exit code of the command line."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OnnxCompressError):
    """Wrong usage: a missing path, an option out of range, an output that exists, a faulty recipe."""

    exit_code = 2


class ModelError(OnnxCompressError):
    """The model cannot be used: empty, truncated, not ONNX, unsafe, unsupported, already quantized."""

    exit_code = 3


class DataError(OnnxCompressError):
    """The data cannot be used: names, shapes or types that do not fit the model's inputs, NaN."""

    exit_code = 3


class RuntimeFailure(OnnxCompressError):
    """The runtime could not do it: provider not active, out of memory, disk full, model does not run."""

    exit_code = 4
