"""Compilation of the kernels for this processor, and their cache."""
