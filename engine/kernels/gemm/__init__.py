"""Multiply matrices: packing, micro-kernels and tiles."""
