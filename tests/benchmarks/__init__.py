"""What the tool costs and what it gives: `make bench`, or ``python -m tests.benchmarks [names]``."""
