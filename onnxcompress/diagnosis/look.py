"""Looking at the machine: versions, processor, memory, threads, providers, and the forms that are fast on it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.diagnosis.advice import advise
from onnxcompress.diagnosis.facts import Diagnosis, Facts, Feature, Forms, FormSpeed, Memory, Processor, Threads
from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms import remembered
from onnxcompress.forms.costs import CostTable, speedup
from onnxcompress.progress import Silent
from onnxcompress.runtime.machine import isa_class, machine_facts
from onnxcompress.runtime.memory import available_bytes, limit_bytes
from onnxcompress.runtime.providers import providers
from onnxcompress.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.progress import Progress

SHAPES = ((1, 768, 768), (64, 768, 768))  # rows, in_features, out_features: what about ten seconds allow
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "ORT_DISABLE_ALL_OPTIMIZATIONS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_LIBRARIES = ("onnx", "numpy", "typer", "rich")
_X86 = {
    "avx2": "float and eight-bit products, 8 values at a time",
    "avx512f": "the same, 16 values at a time",
    "avx512_vnni": "exact sums of eight-bit products in one instruction",
    "avx_vnni": "the same on processors without AVX-512",
    "amx_int8": "eight-bit products of whole tiles",
}
_ARM = {
    "asimddp": "NEON dot product: sums of eight-bit products in one instruction",
    "i8mm": "eight-bit products of small matrices",
}


def look(progress: Progress, *, measure: bool = True) -> Diagnosis:
    """Look at this machine.

    Args:
        progress: told what is measured.
        measure: whether forms are measured that were not before, which takes about ten seconds.

    Raises:
        RuntimeFailure: the runtime does not even run a model of one node.
    """
    try:
        tried = providers()
        cpu = next((p for p in tried if p.name == "CPUExecutionProvider"), None)
        if cpu is not None and not cpu.usable:
            raise RuntimeFailure(f"ONNX Runtime does not run here: {cpu.reason}", "Install it again.")
        found = machine_facts()
        facts = Facts(
            versions=_versions(found["python"], found["onnxruntime"]),
            runtimes=tuple(name for name in _PACKAGES if _version(name)),
            processor=Processor(
                found["cpu"], found["architecture"], found["os"], found["isa_class"], features(found["isa"])
            ),
            memory=Memory(found["memory_bytes"], available_bytes(), limit_bytes()),
            threads=_threads(found["cores"]),
            providers=tried,
            nvidia=any(Path(p).exists() for p in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg")),
            forms=_forms(progress) if measure else _known_forms(),
        )
    finally:
        progress.finish()
    return Diagnosis(facts, advise(facts))


def features(isa: Sequence[str], machine: str | None = None) -> tuple[Feature, ...]:
    """The instruction sets that matter on this architecture."""
    arm = (machine or platform.machine()).lower().startswith(("arm", "aarch"))
    return tuple(Feature(name, name in isa, meaning) for name, meaning in (_ARM if arm else _X86).items())


def _versions(python: str, runtime: str) -> dict[str, str]:
    libraries = {name: version for name in _LIBRARIES if (version := _version(name))}
    return {"onnxcompress": __version__, "python": python, "onnxruntime": runtime, **libraries}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _threads(cores: int) -> Threads:
    try:
        load: float | None = os.getloadavg()[0]
    except (AttributeError, OSError):
        load = None
    settings = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    return Threads(cores, os.cpu_count() or cores, load, settings)


def _forms(progress: Progress) -> Forms:
    table = remembered.costs(isa_class(), SHAPES, progress)
    known = {form: [p for p in points if (p.rows, p.inputs, p.outputs) in SHAPES] for form, points in table.items()}
    file = remembered.cache_file()
    return Forms("measured", None if file is None else str(file), _speeds(known))


def _known_forms() -> Forms:
    table = remembered.costs(isa_class(), (), Silent())
    return Forms("shipped" if table else "none", None, _speeds(table))


def _speeds(table: CostTable) -> tuple[FormSpeed, ...]:
    """Speeds at the shapes that are shown, between those of the table where it has others; the fastest first."""
    found = [
        FormSpeed(form, *shape, round(factor, 3))
        for form in table
        for shape in SHAPES
        if (factor := speedup(table, form, *shape)) is not None
    ]
    return tuple(sorted(found, key=lambda s: (s.rows, s.in_features, -s.speedup)))
