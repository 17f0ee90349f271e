"""Compile and cache kernels for this processor."""
