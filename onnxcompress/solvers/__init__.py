"""Solvers: numpy alone, from weights to compressed weights."""
