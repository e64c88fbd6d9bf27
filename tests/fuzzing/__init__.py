"""Damaged models in, one sentence out: `make fuzz`, or ``python -m tests.fuzzing``."""
