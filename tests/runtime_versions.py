"""What the installed ONNX Runtime is too old for: such tests are skipped, and say why."""

from __future__ import annotations

import pytest

from onnxcompress.forms import remembered
from onnxcompress.forms.costs import form_key


def needs_form(form: str, bits: int, block: int | None = None) -> None:
    """Skip a test of a form that is never chosen for this runtime, by the rule that choices follow."""
    key = form_key(form, bits, block)
    if not remembered.runs(key):
        pytest.skip(f"the form {key} is not chosen with ONNX Runtime {remembered.runtime_version()}")


def since(version: tuple[int, int], lacks: str) -> pytest.MarkDecorator:
    """Skip a test where the runtime is older, with what it lacks."""
    installed = remembered.runtime_version()
    old = tuple(int(part) for part in installed.split(".")[:2]) < version
    return pytest.mark.skipif(old, reason=f"ONNX Runtime {installed} {lacks}")
