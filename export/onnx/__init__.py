"""Write and read ONNX files."""
