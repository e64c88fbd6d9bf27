"""Verification of a compressed model against its original: structure, fidelity, metrics, latency, budgets."""
