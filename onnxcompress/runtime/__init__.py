"""ONNX Runtime: sessions, paired timing, and facts of the machine. Nothing else imports onnxruntime."""

import os

# Newer builds of ONNX Runtime send what they did to their maker, and keep files of that in the cache and temporary
# folders, from the moment they are imported; this tool sends nothing. Who sets the variable decides otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
