"""Typed ONNX files of each precision, and what INT8 costs layer by layer."""
