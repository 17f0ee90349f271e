"""The network in PyTorch, and model files for other runtimes: ONNX and TorchScript.

It imports nothing: the ONNX writer works without torch, and torch is loaded only by what needs it.
"""
