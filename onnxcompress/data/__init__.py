"""Calibration and evaluation inputs of a model: from files, or made up where there are none."""

from onnxcompress.data.dataset import Dataset, Feeds
from onnxcompress.data.loading import load
from onnxcompress.data.options import DataOptions
from onnxcompress.data.synthetic import synthetic, synthetic_candidates

__all__ = ["DataOptions", "Dataset", "Feeds", "load", "synthetic", "synthetic_candidates"]
