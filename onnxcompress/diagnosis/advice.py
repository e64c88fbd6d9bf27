"""What to do about the facts of a machine: sentences, each with its reason. Advice is no failure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxcompress.forms.costs import MARGIN, shipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.diagnosis.facts import Facts

LOWEST = {"onnxruntime": "1.22", "onnx": "1.19"}  # as pyproject.toml requires them
_NO_LIMIT = frozenset({"OMP_WAIT_POLICY", "OPENBLAS_CORETYPE", "ORT_DISABLE_ALL_OPTIMIZATIONS", "CUDA_VISIBLE_DEVICES"})
_LITTLE = 2 << 30  # bytes


def advise(facts: Facts) -> tuple[str, ...]:
    """All advice, what matters most first."""
    return (*_versions(facts), *_providers(facts), *_processor(facts), *_threads(facts), *_memory(facts))


def _versions(facts: Facts) -> Iterator[str]:
    for name, lowest in LOWEST.items():
        there = facts.versions.get(name)
        if there and _numbers(there) < _numbers(lowest):
            yield f"{name} {there} is older than {lowest}, the lowest supported: upgrade it with pip install -U {name}."
    if len(facts.runtimes) > 1:
        yield (
            f"{' and '.join(facts.runtimes)} are installed, which share one import name, so that one hides the other:"
            " uninstall all of them, and install the one you want."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _providers(facts: Facts) -> Iterator[str]:
    cuda = next((p for p in facts.providers if p.name == "CUDAExecutionProvider"), None)
    if cuda is not None and not cuda.usable:
        yield (
            f"CUDA is compiled in but cannot be used: {cuda.reason}."
            " Check the GPU, its driver, and that CUDA and cuDNN fit this ONNX Runtime; until then use --device cpu."
        )
    if cuda is None and facts.nvidia:
        yield (
            "There is an NVIDIA GPU, but the installed ONNX Runtime has no CUDA:"
            " for --device cuda install onnxruntime-gpu in place of onnxruntime."
        )


def _processor(facts: Facts) -> Iterator[str]:
    kind = facts.processor.kind
    x86 = facts.processor.architecture.lower() in ("x86_64", "amd64", "i386", "i686")
    if x86 and kind in ("avx2", "generic"):
        yield (
            "This processor has no VNNI: sums of eight-bit products saturate. quantize therefore gives weights of"
            " static integers 7 bits here (--reduce-range); ask for it for models that are to run on such machines."
        )
    if kind == "generic":
        yield "This processor has no instructions for eight-bit products: smaller files, but hardly faster models."
    if not shipped(kind):
        yield (
            f"The package has no measured costs for processors of this kind ({kind}), so weights are decoded at load:"
            " use quantize --tune to have the forms measured for the layers of your model."
        )
    if facts.forms.source == "measured" and not any(s.speedup >= MARGIN for s in facts.forms.speeds):
        yield "No form of a matrix product was clearly faster than float here: expect smaller files at the same speed."


def _threads(facts: Facts) -> Iterator[str]:
    threads = facts.threads
    if "OPENBLAS_CORETYPE" in threads.settings:
        yield (
            f"OPENBLAS_CORETYPE is {threads.settings['OPENBLAS_CORETYPE']}: numpy computes as on that processor, which"
            " may be slower and rounds differently; unset it, unless results must be those of another machine."
        )
    limits = [name for name in threads.settings if name not in _NO_LIMIT]
    if limits:
        shown = " and ".join(f"{name}={threads.settings[name]}" for name in limits)
        yield (
            f"{shown} limits the solvers of calibration, which use numpy, but not the models: ONNX Runtime has threads"
            f" of its own, {threads.usable_cores} by default here, which --threads sets."
        )
    if threads.load is not None and threads.load > 0.7 * threads.logical_cpus:
        yield (
            f"The machine is busy ({threads.load:.1f} processes on {threads.logical_cpus} CPUs): latencies vary, and"
            " intervals get wide; speed-ups stay right, as they are measured in turns."
        )
    if threads.usable_cores < threads.logical_cpus:
        yield (
            f"Of {threads.logical_cpus} CPUs the models use {threads.usable_cores} cores: hyper-threads, the affinity"
            " and the quota of this process considered. More --threads than that make them slower."
        )


def _memory(facts: Facts) -> Iterator[str]:
    left = facts.memory.available_bytes
    if left is not None and left < _LITTLE:
        yield (
            f"Only {left / 2**30:.1f} GiB of memory are free: lower --max-memory for statistics, and use --limit for"
            " fewer calls."
        )
