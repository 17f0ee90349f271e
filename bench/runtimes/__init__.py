"""Run exported ONNX files in every runtime and compare them with the NumPy engine."""
