"""ONNX Runtime: sessions, paired timing, and facts of the machine. Nothing else imports onnxruntime."""
