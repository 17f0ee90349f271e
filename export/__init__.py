"""The network in PyTorch, and model files for other runtimes: ONNX and TorchScript.

Nothing is imported here: the ONNX writer works without torch, and torch loads only when it is asked for.
"""
