"""Compression of ONNX models, verified with ONNX Runtime.

    import onnxcompress

    result = onnxcompress.quantize("model.onnx", bits=8)
    print(result.path, result.report.fidelity.sqnr_db, result.report.latency.speedup)

Each function reads a model file, writes a new one beside it (or to ``output``), verifies it against the original and
returns a `Result` with the whole `Report`. The command line calls these and nothing else.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onnxcompress.version import __version__

if TYPE_CHECKING:
    from onnxcompress.api import compress, factorize, prune, quantize, simplify, verify
    from onnxcompress.compress import Result, RunOptions
    from onnxcompress.data.options import DataOptions
    from onnxcompress.errors import DataError, ModelError, OnnxCompressError, RuntimeFailure, UsageError
    from onnxcompress.recipe import Recipe
    from onnxcompress.report import Report
    from onnxcompress.verify.budgets import Budgets

_PLACES = {
    "compress": "api", "factorize": "api", "prune": "api", "quantize": "api", "simplify": "api", "verify": "api",
    "Result": "compress", "RunOptions": "compress", "DataOptions": "data.options", "Recipe": "recipe",
    "Report": "report", "Budgets": "verify.budgets", "OnnxCompressError": "errors", "UsageError": "errors",
    "ModelError": "errors", "DataError": "errors", "RuntimeFailure": "errors",
}  # fmt: skip

__all__ = [
    "Budgets", "DataError", "DataOptions", "ModelError", "OnnxCompressError", "Recipe", "Report", "Result",
    "RunOptions", "RuntimeFailure", "UsageError", "__version__", "compress", "factorize", "prune", "quantize",
    "simplify", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'onnxcompress' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"onnxcompress.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Two functions are called like the modules behind them, which an import would put in their place."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _PLACES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
