"""Passes: what may be done to a model, one file each."""
