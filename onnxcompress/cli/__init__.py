"""The command line: words to values, values to words, and the exit code."""
