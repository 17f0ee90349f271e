"""The network in PyTorch, and model files for other runtimes: ONNX and TorchScript.

This file imports nothing: the ONNX writer works without torch, and only the modules that need torch load it.
"""
