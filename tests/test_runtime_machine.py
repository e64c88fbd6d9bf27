from __future__ import annotations

import json

import numpy as np
import pytest

from onnxcompress.runtime.machine import flags_of, isa_class, machine_facts, quota_cores, usable_cores
from onnxcompress.runtime.memory import peak_bytes, resident_bytes


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("flags\t\t: fpu avx avx2 avx512f avx512_vnni amx_int8", "amx"),
        ("flags\t\t: fpu avx2 avx_vnni", "vnni"),
        ("flags\t\t: fpu avx2", "avx2"),
        ("flags\t\t: fpu sse2", "generic"),
        ("Features\t: fp asimd asimddp i8mm", "arm-i8mm"),
        ("Features\t: fp asimd asimddp", "arm-dot"),
        ("", "generic"),
    ],
)
def test_the_kind_of_processor(line: str, kind: str) -> None:
    assert isa_class(flags_of(f"processor\t: 0\n{line}\nother: avx512_vnni amx_int8 i8mm\n")) == kind


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8)])
def test_a_quota_limits_the_cores(text: str, cores: int) -> None:
    assert quota_cores(text, 8) == cores


def test_facts_are_plain_json() -> None:
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] == usable_cores() >= 1
    assert "CPUExecutionProvider" in facts["providers"]


@pytest.mark.skipif(resident_bytes() is None, reason="the system does not tell")
def test_memory_taken_and_given_back_is_seen() -> None:
    before = resident_bytes() or 0
    block = np.ones(1 << 26, np.uint8)
    during = resident_bytes() or 0
    del block
    after = resident_bytes() or 0
    assert 0.8 * 2**26 < during - before < 1.5 * 2**26
    assert after - before < 0.3 * 2**26
    assert (peak_bytes() or 0) >= during * 0.9
