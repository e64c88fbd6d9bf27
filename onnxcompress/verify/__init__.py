"""Verification of a compressed model against its original: structure, fidelity, metrics, latency, budgets."""

from __future__ import annotations

from onnxcompress.verify.budgets import Budgets
from onnxcompress.verify.verify import Verification, VerifyOptions, verify

__all__ = ["Budgets", "Verification", "VerifyOptions", "verify"]
