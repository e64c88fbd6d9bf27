"""Gradients of an ONNX graph, computed by ONNX Runtime on a graph that onnx-ad derives; no training framework."""
