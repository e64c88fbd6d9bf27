"""What ONNX Runtime says when it fails, in one plain sentence.

Its messages carry status codes, source paths, C++ signatures and line breaks, for example
``[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 void f(int) Unsupported
model IR version``; only the last part is of use to a user.
"""

from __future__ import annotations

import re

from onnxcompress.errors import OnnxCompressError, RuntimeFailure

_LONGEST = 300
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE = re.compile(r"\S*\.(?:cc|cpp|h|hpp|cu|cuh):\d+ ")
_AFTER_SIGNATURE = re.compile(r"(?:\s*(?:const|noexcept|mutable)\b)?(?:\s*\[with [^\]]*\])?\s*")
_SIGNATURE_GOES_ON = re.compile(r"\(|::|>")
_MEMORY = re.compile(r"Failed to allocate|bad_?alloc|bad allocation|out of memory|CUDA failure 2\b", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"is not a registered function/op|No Op registered for|Could not find an implementation for"
    r"|Unsupported model IR version|is under development and support for this is limited|NOT_IMPLEMENTED"
    r"|No opset import for domain|ONNX Runtime only \*guarantees\* support"
)


class UnsupportedModel(RuntimeFailure):
    """The model is in order as far as known, but this ONNX Runtime lacks its operators, opset or types."""


class LimitReached(RuntimeFailure):
    """What the model takes is more than there is: with other inputs, or tried again, it would be no better."""


class OutOfMemory(LimitReached):
    """The machine or the device has too little memory for the model or for these inputs."""


class TooLong(LimitReached):
    """A call of the model did not end in time."""


def explain(error: Exception, what: str) -> OnnxCompressError:
    """The failure of ONNX Runtime as an error of ours; ``what`` says what did not work."""
    if isinstance(error, OnnxCompressError):  # said already
        return error
    text = str(error)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return OutOfMemory(f"{what}: out of memory", "Use smaller or fewer samples, or a machine with more memory.")
    message = f"{what}: {plain(text)}"
    if _UNSUPPORTED.search(text):
        return UnsupportedModel(message, "This ONNX Runtime cannot run the model; install one that can.")
    return RuntimeFailure(message, "Check that the model runs in ONNX Runtime on these inputs.")


def plain(text: str) -> str:
    """The message without status codes, source locations and C++ signatures, on one line."""
    text = _STATUS.sub("", text)
    found = _SOURCE.search(text)
    while found:
        text = text[: found.start()] + _without_signature(text[found.end() :])
        found = _SOURCE.search(text)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1].rstrip() + "…"


def _without_signature(text: str) -> str:
    """What follows a C++ signature ``type name(arguments) const [with T = ...]``."""
    start = text.find("(")
    if start < 0 or not re.match(r"[\w:<>*&,~ \[\]{}=]+$", text[:start]):
        return text
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            rest = text[position + 1 :]
            if _SIGNATURE_GOES_ON.match(rest):
                return _without_signature(rest)
            after = _AFTER_SIGNATURE.match(rest)
            return rest[after.end() :] if after else rest
    return text
