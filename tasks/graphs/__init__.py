"""ONNX files: read, written and tried."""
